"""A modelled virtual machine whose guest_memfd is filled on minor faults, step by step.

No released Linux serves userfaults of guest_memfd; the model's default profile does.  Three ways
lead to such memory, and the steps go each of them: the mapping of the VMM (the process that runs
the virtual machine), KVM's own access by the addresses of that mapping, and the guest's stage-2
fault, of which userfaultfd never hears.
"""

from __future__ import annotations

import errno
import signal

from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import FaultFlag, Mode, names
from userfault.model.faces.guest import Guest, MissingExit
from userfault.model.faces.kernel import ModelKernel, ModelPending
from userfault.model.mm.scan import words
from userfault.model.profiles import FEATURE_GUEST_MEMFD, LINUX_7_3
from userfault.uapi.pagemap import PM_PRESENT

PAGE = 4096

print("1. Discovery: a feature bit says it, and so does the registration")
for kernel in (ModelKernel(LINUX_7_3), ModelKernel()):
    vmm = kernel.process()
    file_pages = vmm.map(memory("guest_memfd"), 4 * PAGE)  # the loader's; never registered
    slot = vmm.map(memory("guest_memfd"), 5 * PAGE, backing=file_pages.backing)  # the VMM's
    uffd = vmm.userfaultfd()
    bit = "set" if uffd.offered & FEATURE_GUEST_MEMFD else "clear"
    try:
        told = f"ok, takes {names(uffd.register(slot.address, slot.length, Mode.MINOR))}"
    except KernelError as refused:
        told = errno.errorcode[refused.errno]
    print(f"   {kernel.name}: the bit is {bit}; UFFDIO_REGISTER with MINOR: {told}")

# The rest runs on the second kernel.  The slot of the guest's memory is backed by the file, and
# its host addresses are those of the VMM's mapping.  The VMM wants an exit for what is not there.
assert slot.backing is not None
guest = Guest(vmm.process.mm, slot.backing.object, slot.address, exit_on_missing=True)
vcpu, loader, thread = vmm.task(), vmm.task(), vmm.task()


def run_guest(address: int) -> None:
    """KVM_RUN: the guest's program reads five bytes, or stops where memory is missing."""
    try:
        print("   the guest reads", guest.read(vcpu.task, address, 5))
    except MissingExit as stop:
        print(f"   KVM_RUN returns to the VMM: nothing at guest address {stop.guest_address:#x}")


def message(waiting: ModelPending, who: str) -> PageFault:
    """The one message; meanwhile whoever touched the page sleeps."""
    kernel.settle()
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    page = (fault.address - slot.address) // PAGE
    flags = names(FaultFlag(fault.flags)) if fault.flags else "no flag: MISSING"
    print(f"   message: page {page}, {flags}; {who} is {waiting.state.name}")
    return fault


print("2. The guest touches page 0 first: a stage-2 fault, which exits to user space")
vcpu.call(lambda: run_guest(0)).result()
print("   messages of the userfaultfd:", len(uffd.read()))

print("3. The loader allocates and writes page 0 through the file, by its own mapping")
loader.write(file_pages.address, b"hello").result()
mapped = words(vmm.process.mm, slot.address, PAGE)[0] & PM_PRESENT
print("   in the VMM's mapping page 0 is", "present" if mapped else "not present")
vcpu.call(lambda: run_guest(0)).result()

print("4. KVM emulates an instruction: it reads page 0 by the VMM's mapping, a minor fault")
emulated = vcpu.call(lambda: print("   KVM reads", guest.emulate(vcpu.task, 0, 5)))
fault = message(emulated, "KVM_RUN")
print("   UFFDIO_CONTINUE maps what the file has:", uffd.continue_(fault.address, PAGE), "bytes")
emulated.result()

print("5. A restore: the VMM touches page 1, whose content the loader has just put into the file")
loader.write(file_pages.address + PAGE, b"saved").result()
touch = thread.read(slot.address + PAGE, 5)
fault = message(touch, "the thread")
uffd.continue_(fault.address, PAGE)
print("   the VMM reads", touch.result().data)

print("6. CONTINUE of a page that the file does not have")
try:
    uffd.continue_(slot.address + 2 * PAGE, PAGE)
except KernelError as refused:
    print("   UFFDIO_CONTINUE:", errno.errorcode[refused.errno])

print("7. With MINOR alone a missing page is no message; with MISSING too it is, and COPY fills it")
print(
    "   page 2, MINOR alone: the VMM reads", thread.read(slot.address + 2 * PAGE, 5).result().data
)
uffd.register(slot.address, slot.length, Mode.MINOR | Mode.MISSING)
touch = thread.read(slot.address + 3 * PAGE, 5)
fault = message(touch, "the thread")
uffd.copy(fault.address, b"world".ljust(PAGE, b"\0"), PAGE)
print("   page 3: the VMM reads", touch.result().data)
vcpu.call(lambda: run_guest(3 * PAGE)).result()

print("8. Beyond the end of the file: a signal, never a message and never a page")
beyond = slot.address + 4 * PAGE
print("   the VMM gets", signal.Signals(thread.read(beyond, 1).result().signal).name)
outcome = vcpu.call(lambda: print(guest.emulate(vcpu.task, 4 * PAGE, 1))).result()
print(f"   KVM gets {errno.errorcode[outcome.errno]}: KVM_RUN returns as if no memory were there")
print("   messages of the userfaultfd:", len(uffd.read()))

kernel.check()
print("Every folio, reference and lock has been counted again: none is lost.")
