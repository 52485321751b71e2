"""KVM's machines and virtual CPUs: one method an ioctl (Documentation/virt/kvm/api.rst).

The registers are those of x86-64.  `VirtualCpu.run` is KVM_RUN: the GIL is free meanwhile, and a
touch of memory that is missing sleeps in it until somebody has filled the page.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping

import msgspec

from userfault.kernel.errors import MemoryUnavailable, Unavailable
from userfault.linux import libc
from userfault.uapi import kvm as abi
from userfault.uapi.layout import Layout

DEVICE = "/dev/kvm"
_CPUID_ENTRIES = 256
_MASK_BYTES = 8  # of a signal mask, as the kernel has it on every 64-bit machine
# Where in struct kvm_run: immediate_exit, exit_reason, the union of `io`, `mmio` and so on.
_IMMEDIATE_EXIT, _EXIT_REASON, _UNION = 1, 8, 32

# What a virtual CPU is beside its memory, in the order in which it is put back: events refer to
# what the registers say.
_KEPT: dict[str, tuple[Layout, int, int]] = {
    "sregs": (abi.kvm_sregs, abi.KVM_GET_SREGS, abi.KVM_SET_SREGS),
    "regs": (abi.kvm_regs, abi.KVM_GET_REGS, abi.KVM_SET_REGS),
    "fpu": (abi.kvm_fpu, abi.KVM_GET_FPU, abi.KVM_SET_FPU),
    "debugregs": (abi.kvm_debugregs, abi.KVM_GET_DEBUGREGS, abi.KVM_SET_DEBUGREGS),
    "mp_state": (abi.kvm_mp_state, abi.KVM_GET_MP_STATE, abi.KVM_SET_MP_STATE),
    "events": (abi.kvm_vcpu_events, abi.KVM_GET_VCPU_EVENTS, abi.KVM_SET_VCPU_EVENTS),
}
KEPT_SIZES = {name: layout.size for name, (layout, _, _) in _KEPT.items()}


class Exit(msgspec.Struct, frozen=True):
    """Why KVM_RUN returned: `reason` is one of KVM_EXIT_*.

    `port`: of an OUT.  `address`: of the guest, for MMIO.  `detail`: what KVM says of a failure.
    """

    reason: int
    port: int = 0
    address: int = 0
    detail: int = 0


@contextlib.contextmanager
def _step(what: str, cure: str) -> Iterator[None]:
    """Have an OSError within it say which step of KVM failed, and what to do."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"cannot run a virtual machine: {what}", cause=os.strerror(error.errno or 0), cure=cure
        ) from error


class Vm:
    """A machine of KVM, with no memory and no CPU yet.

    Raises MemoryUnavailable, with the cure, where there is no KVM; `wanted` is what needs it.
    """

    def __init__(self, device: str | None = None, wanted: str = "a virtual machine") -> None:
        device = device or DEVICE
        try:
            self.device = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            cure = (
                f"join the group that owns {device} (often `kvm`)"
                if error.errno in (errno.EACCES, errno.EPERM)
                else "load the kvm module; a virtual machine needs nested virtualisation"
            )
            raise MemoryUnavailable(
                f"{wanted} needs KVM",
                cause=f"{device}: {os.strerror(error.errno or 0)}",
                cure=cure,
            ) from None
        try:
            self.fd = fcntl.ioctl(self.device, abi.KVM_CREATE_VM, 0)
        except OSError as error:
            os.close(self.device)
            raise MemoryUnavailable(
                f"{wanted} needs a KVM virtual machine",
                cause=f"KVM_CREATE_VM: {os.strerror(error.errno or 0)}",
                cure="check the kernel log for what KVM says",
            ) from None

    def create_guest_memfd(self, length: int) -> int:
        """A guest_memfd of this machine that can be mapped shared (6.18); raises OSError."""
        flags = abi.GUEST_MEMFD_FLAG_MMAP | abi.GUEST_MEMFD_FLAG_INIT_SHARED
        argument = abi.kvm_create_guest_memfd.struct.pack(length, flags)
        created: int = fcntl.ioctl(self.fd, abi.KVM_CREATE_GUEST_MEMFD, bytearray(argument))
        return created

    def set_memory(
        self, slot: int, guest_address: int, length: int, address: int, guest_memfd: int = -1
    ) -> None:
        """Memory of the guest: [guest_address, + length) is what this process has at `address`.

        With `guest_memfd` the guest's own touches go to that file, past every mapping of it.
        Raises OSError (EEXIST where slots overlap).
        """
        if guest_memfd < 0:
            argument = abi.kvm_userspace_memory_region.struct.pack(
                slot, 0, guest_address, length, address
            )
            fcntl.ioctl(self.fd, abi.KVM_SET_USER_MEMORY_REGION, argument)
            return
        argument = abi.kvm_userspace_memory_region2.struct.pack(
            slot, abi.KVM_MEM_GUEST_MEMFD, guest_address, length, address, 0, guest_memfd
        )
        fcntl.ioctl(self.fd, abi.KVM_SET_USER_MEMORY_REGION2, argument)

    def cpu(self, number: int) -> VirtualCpu:
        """A further virtual CPU; raises Unavailable."""
        if os.uname().machine != "x86_64":
            raise Unavailable(
                f"no virtual CPU on {os.uname().machine}",
                cause="the guest programs and registers are those of x86-64",
                cure="run it on an x86-64 machine",
            )
        with _step("KVM_CREATE_VCPU", "have fewer CPUs; check the kernel log for what KVM says"):
            return VirtualCpu(self.device, fcntl.ioctl(self.fd, abi.KVM_CREATE_VCPU, number))

    def close(self) -> None:
        """Let go of it; CPUs and guest_memfds keep it alive."""
        for fd in (self.fd, self.device):
            os.close(fd)


class VirtualCpu:
    """One virtual CPU, to be used by one thread at a time."""

    def __init__(self, device: int, fd: int) -> None:
        self.fd = fd
        try:
            size = fcntl.ioctl(device, abi.KVM_GET_VCPU_MMAP_SIZE)
            self._run = mmap.mmap(fd, size)
            with _step("KVM_SET_CPUID2", "check the kernel log for what KVM says"):
                self._offer_what_there_is(device)
        except BaseException:
            os.close(fd)
            raise

    def _offer_what_there_is(self, device: int) -> None:
        """CPUID as the host has it: without it newer kernels refuse 64-bit mode."""
        entry = abi.kvm_cpuid_entry2.size
        table = bytearray(abi.kvm_cpuid2.size + _CPUID_ENTRIES * entry)
        abi.kvm_cpuid2.struct.pack_into(table, 0, _CPUID_ENTRIES)
        with libc.Pinned(table) as pinned:
            libc.ioctl(device, abi.KVM_GET_SUPPORTED_CPUID, pinned.address)
            libc.ioctl(self.fd, abi.KVM_SET_CPUID2, pinned.address)

    def run(self) -> Exit:
        """KVM_RUN.  Raises OSError: EINTR after a signal, EFAULT where the host has no memory."""
        libc.ioctl(self.fd, abi.KVM_RUN)
        (reason,) = struct.unpack_from("=I", self._run, _EXIT_REASON)
        if reason == abi.KVM_EXIT_IO:
            _direction, _size, port = struct.unpack_from("=BBH", self._run, _UNION)
            return Exit(reason, port=port)
        (word,) = struct.unpack_from("=Q", self._run, _UNION)
        if reason == abi.KVM_EXIT_MMIO:
            return Exit(reason, address=word)
        return Exit(reason, detail=word)

    def complete(self) -> None:
        """End what the last exit began (the OUT behind it), without running on: registers are whole
        only then (api.rst, KVM_RUN)."""
        self._run[_IMMEDIATE_EXIT] = 1
        try:
            libc.ioctl(self.fd, abi.KVM_RUN)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
        finally:
            self._run[_IMMEDIATE_EXIT] = 0

    def unblock_while_running(self, signals: set[int]) -> None:
        """KVM_SET_SIGNAL_MASK: of all signals only these can end KVM_RUN, which then is EINTR.

        The thread has them blocked otherwise, so that none is lost before KVM_RUN, and no handler
        of the program ever sees one.
        """
        mask = (1 << 64) - 1
        for signal in signals:
            mask &= ~(1 << (signal - 1))
        argument = abi.kvm_signal_mask.struct.pack(_MASK_BYTES) + mask.to_bytes(8, "little")
        with libc.Pinned(argument) as pinned:
            libc.ioctl(self.fd, abi.KVM_SET_SIGNAL_MASK, pinned.address)

    def registers(self) -> dict[str, int]:
        """The general registers by name."""
        return self._get(abi.kvm_regs, abi.KVM_GET_REGS)

    def set_registers(self, values: Mapping[str, int]) -> None:
        """All general registers: those that are not named become 0."""
        words = (values.get(name, 0) for name in abi.kvm_regs.names)
        fcntl.ioctl(self.fd, abi.KVM_SET_REGS, abi.kvm_regs.struct.pack(*words))

    def system_registers(self) -> dict[str, int]:
        """Segments, tables and control registers, as `cs.base` and `cr3`."""
        return self._get(abi.kvm_sregs, abi.KVM_GET_SREGS)

    def set_system_registers(self, values: Mapping[str, int]) -> None:
        """All of them, as `system_registers` names them."""
        packed = abi.kvm_sregs.struct.pack(*(values[name] for name in abi.kvm_sregs.names))
        with _step("KVM_SET_SREGS", "the host's CPU lacks 64-bit mode, or KVM does not offer it"):
            fcntl.ioctl(self.fd, abi.KVM_SET_SREGS, packed)

    def state(self) -> dict[str, bytes]:
        """Everything that is put back by `set_state`, as KVM has it."""
        kept = {}
        for name, (layout, get, _) in _KEPT.items():
            data = bytearray(layout.size)
            fcntl.ioctl(self.fd, get, data)
            kept[name] = bytes(data)
        return kept

    def set_state(self, kept: Mapping[str, bytes]) -> None:
        """What `state` gave, on this or another machine.  Raises Unavailable where KVM says no."""
        for name, (_, _, put) in _KEPT.items():
            with _step(f"{name} of a saved CPU", "restore it on a host with a CPU like the first"):
                fcntl.ioctl(self.fd, put, kept[name])

    def close(self) -> None:
        """Let go of it."""
        self._run.close()
        os.close(self.fd)

    def _get(self, layout: Layout, request: int) -> dict[str, int]:
        data = bytearray(layout.size)
        fcntl.ioctl(self.fd, request, data)
        return dict(zip(layout.names, layout.struct.unpack(data), strict=True))
