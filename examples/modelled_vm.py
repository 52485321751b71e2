"""A modelled virtual machine whose guest_memfd is filled on minor faults, step by step.

No released Linux has userfaultfd for guest_memfd.  The model's profile `next` has it: the host's
mapping takes minor and missing faults, and the guest's own first touch stops at an exit.
"""

from __future__ import annotations

from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import FaultFlag, Mode, names
from userfault.model.guest import Guest, MissingExit
from userfault.model.kernel import ModelKernel

PAGE = 4096

kernel = ModelKernel()
monitor = kernel.process()
area = monitor.map(memory("guest_memfd"), 4 * PAGE)
alias = monitor.map(memory("guest_memfd"), 4 * PAGE, backing=area.backing)
uffd = monitor.userfaultfd()
ioctls = uffd.register(area.address, area.length, Mode.MISSING | Mode.MINOR)
print("the range takes", names(ioctls))

assert area.backing is not None
guest = Guest(monitor.process.mm, area.backing.object, area.address, exit_on_missing=True)
vcpu = monitor.task()
loader = monitor.task()

# 1. The guest touches a page that nobody has filled: stage 2 knows no userfaultfd, so it exits.
stopped: list[int] = []


def run_guest() -> None:
    """The virtual CPU runs until it has read, or stops."""
    try:
        print("the guest reads", guest.read(vcpu.task, 0, 5).decode())
    except MissingExit as missing:
        stopped.append(missing.guest_address)


vcpu.call(run_guest).result()
print("the guest stopped at", [hex(at) for at in stopped])

# 2. The loader fills it through the alias: the page is in the cache, and not mapped at `area`.
loader.write(alias.address, b"hello").result()
vcpu.call(run_guest).result()

# 3. KVM itself reads the same page through the slot's host address: a minor fault.
emulated = vcpu.call(
    lambda: print("KVM reads", guest.emulate(vcpu.task, 0, 5).decode()),
)
kernel.settle()
(fault,) = uffd.read()
assert isinstance(fault, PageFault)
print("message:", names(FaultFlag(fault.flags)), "at page", (fault.address - area.address) // PAGE)

# 4. CONTINUE maps what the cache has; KVM's access goes on.
uffd.continue_(fault.address, PAGE)
emulated.result()

# 5. The host's first touch of an empty page is a missing fault, and COPY answers it whole.
touch = loader.read(area.address + PAGE, 5)
kernel.settle()
(fault,) = uffd.read()
assert isinstance(fault, PageFault)
print("message:", names(FaultFlag(fault.flags)), "at page", (fault.address - area.address) // PAGE)
uffd.copy(fault.address, b"world".ljust(PAGE, b"\0"), PAGE)
print("the host reads", touch.result().data.decode())
kernel.check()
