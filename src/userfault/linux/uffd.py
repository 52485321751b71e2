"""One userfaultfd of the live kernel: one method an ioctl, events decoded, errors typed.

Every ioctl gets an argument buffer of its own, so that threads may share a handle.  The result
field is read back also when the call fails: it holds the bytes done (ioctl_userfaultfd(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

from userfault.kernel.errors import (
    FeatureMissing,
    KernelError,
    OwnerGone,
    RegistrationRefused,
    UsageError,
)
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature, Ioctls, Mode, names
from userfault.kernel.numbers import is_number
from userfault.linux import reasons
from userfault.linux.libc import Pinned
from userfault.linux.opening import Opened, open_userfaultfd
from userfault.uapi import userfaultfd as abi

_ioctl = fcntl.ioctl
_pack_api = abi.uffdio_api.struct
_pack_register = abi.uffdio_register.struct
_pack_range = abi.uffdio_range.struct.pack
_pack_copy = abi.uffdio_copy.struct.pack
_pack_fill = abi.uffdio_zeropage.struct.pack  # CONTINUE and POISON have the same shape
_pack_protect = abi.uffdio_writeprotect.struct.pack
_pack_modes = abi.uffdio_set_mode.struct.pack
_unpack_fault = abi.uffd_msg_pagefault.struct.unpack_from
_unpack_remap = abi.uffd_msg_remap.struct.unpack_from
_unpack_remove = abi.uffd_msg_remove.struct.unpack_from
_unpack_fork = abi.uffd_msg_fork.struct.unpack_from

MESSAGE_SIZE = abi.uffd_msg.size
_FAULT = abi.UFFD_EVENT_PAGEFAULT
_COPY = abi.UFFDIO_COPY
_NONE = Feature(0)
# Sizes of an address space, largest first: 5-level, 52 and 48 bits (arm64), 4-level (x86-64), less.
_ADDRESS_SPACES = ((1 << 56) - 4096, 1 << 52, 1 << 48, (1 << 47) - 4096, 1 << 42, 1 << 39)
_ANSWER_AT = {40: 32, 32: 24}  # where a fill's result field lies, by argument size


class LiveUserfaultfd:
    """A userfaultfd after its handshake.  Thread-safe; closes its descriptor when closed.

    `features` are those granted, `offered` all that the kernel has, `way` how it was opened.
    """

    _ioctl: Callable[..., object] = staticmethod(fcntl.ioctl)  # of this kernel; another has its own

    def __init__(self, opened: Opened, features: Feature, offered: Feature, general: Ioctls):
        self._fd = opened.fd
        self.way = opened.way
        self.user_mode_only = opened.user_mode_only
        self.features = features
        self.offered = offered
        self.general_ioctls = general

    @classmethod
    def open(
        cls,
        features: Feature = _NONE,
        *,
        user_mode_only: bool | None = None,
        blocking: bool = False,
        optional: Feature = _NONE,
    ) -> LiveUserfaultfd:
        """Open and shake hands.

        `features` must all be granted (FeatureMissing names those that are not); of `optional`
        those are taken that the kernel offers.  Two descriptors are opened one after the other,
        since a handshake cannot be repeated.
        """
        offered, _ = offer(user_mode_only=user_mode_only)
        lacking = features & ~offered
        if lacking:
            raise FeatureMissing(
                [feature.name or "" for feature in lacking],
                [feature.name or "" for feature in offered],
            )
        wanted = features | (optional & offered)
        opened = open_userfaultfd(user_mode_only=user_mode_only, blocking=blocking)
        try:
            offered, general = _handshake(opened.fd, wanted)
        except BaseException:
            os.close(opened.fd)
            raise
        return cls(opened, wanted, offered, general)

    @classmethod
    def adopt(cls, fd: int, features: Feature = _NONE) -> LiveUserfaultfd:
        """Take over a descriptor whose handshake is done (passed by a client, or by a fork)."""
        opened = Opened(fd, "received", False)
        return cls(opened, features, features, Ioctls(0))

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close this handle; the last one of a context unregisters its ranges."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def blank(self) -> None:
        """Close the userfaultfd, and keep the descriptor's number: of something never readable."""
        quiet = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            os.dup2(quiet, self._fd, inheritable=False)
        finally:
            os.close(quiet)

    def __enter__(self) -> LiveUserfaultfd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- registration --------------------------------------------------------------------------

    def register(
        self, start: int, length: int, mode: Mode, *, memory: Memory | None = None
    ) -> Ioctls:
        """UFFDIO_REGISTER [start, start + length): the ioctls that the range accepts.

        Raises RegistrationRefused.  With `memory` (what is mapped there) the error names it, and
        why this kernel refuses it, where that is known.
        """
        argument = bytearray(_pack_register.pack(start, length, mode, 0))
        try:
            self._ioctl(self._fd, abi.UFFDIO_REGISTER, argument)
        except OSError as error:
            code = error.errno or 0
            why = reasons.refused(memory, mode, start=start, length=length, offered=self.offered)
            known = code == errno.EINVAL
            raise RegistrationRefused(
                "UFFDIO_REGISTER",
                code,
                start=start,
                length=length,
                memory=f"{memory or 'memory'} in mode {names(mode, Mode)}",
                cause=why.cause if known else "",
                cure=why.cure if known else "",
            ) from None
        return Ioctls(_pack_register.unpack(argument)[3])

    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER: waiters of MISSING ranges wake, those of WP or MINOR alone do not."""
        self._range("UFFDIO_UNREGISTER", abi.UFFDIO_UNREGISTER, start, length)

    # --- events --------------------------------------------------------------------------------

    def read(self, limit: int = 64) -> Sequence[PageFault | Fork[Any] | Remap | Remove | Unmap]:
        """Up to `limit` queued events, faults first; [] when nothing is queued.

        Fewer than `limit` means that the queue was empty.  Raises KernelError, for example EMFILE
        when a FORK event found no free descriptor (the event then stays queued).
        """
        try:
            data = os.read(self._fd, limit * MESSAGE_SIZE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise KernelError.of("read(userfaultfd)", error.errno or 0) from None
        return [decode(data, at, self.features) for at in range(0, len(data), MESSAGE_SIZE)]

    # --- fills ---------------------------------------------------------------------------------

    def copy(
        self, dst: int, src: int | Any, length: int, *, wake: bool = True, wp: bool = False
    ) -> int:
        """UFFDIO_COPY `length` bytes to `dst` from an address or buffer of this process."""
        mode = (0 if wake else 1) | (2 if wp else 0)
        if isinstance(src, int):
            argument = bytearray(_pack_copy(dst, src, length, mode, 0))
            try:
                self._ioctl(self._fd, _COPY, argument)
            except OSError as error:
                raise _fill_error("UFFDIO_COPY", argument, error, dst, length) from None
            return length
        if is_number(src):  # NumPy's numbers are buffers, too
            return self.copy(dst, operator.index(src), length, wake=wake, wp=wp)
        with Pinned(src) as pinned:
            if pinned.length < length:
                raise UsageError(
                    f"UFFDIO_COPY of {length} bytes from a buffer of {pinned.length}",
                    cause="the buffer is too short",
                    cure="pass a length that the buffer holds",
                )
            return self.copy(dst, pinned.address, length, wake=wake, wp=wp)

    def zeropage(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_ZEROPAGE: zeros without a copy (EINVAL on hugetlb)."""
        return self._fill("UFFDIO_ZEROPAGE", abi.UFFDIO_ZEROPAGE, start, length, 0 if wake else 1)

    def continue_(self, start: int, length: int, *, wake: bool = True, wp: bool = False) -> int:
        """UFFDIO_CONTINUE: map pages that the page cache has."""
        mode = (0 if wake else 1) | (2 if wp else 0)
        return self._fill("UFFDIO_CONTINUE", abi.UFFDIO_CONTINUE, start, length, mode)

    def poison(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_POISON: accesses raise SIGBUS, system calls get EFAULT (6.6)."""
        return self._fill("UFFDIO_POISON", abi.UFFDIO_POISON, start, length, 0 if wake else 1)

    def move(
        self, dst: int, src: int, length: int, *, wake: bool = True, allow_src_holes: bool = False
    ) -> int:
        """UFFDIO_MOVE anonymous pages within this process (6.8)."""
        mode = (0 if wake else 1) | (2 if allow_src_holes else 0)
        argument = bytearray(_pack_copy(dst, src, length, mode, 0))
        try:
            self._ioctl(self._fd, abi.UFFDIO_MOVE, argument)
        except OSError as error:
            raise _fill_error("UFFDIO_MOVE", argument, error, dst, length) from None
        return length

    def wake(self, start: int, length: int) -> None:
        """UFFDIO_WAKE: every waiter in the range touches its page again."""
        self._range("UFFDIO_WAKE", abi.UFFDIO_WAKE, start, length)

    def wake_all(self) -> None:
        """UFFDIO_WAKE of the whole address space: every waiter touches its page again."""
        for length in _ADDRESS_SPACES:
            with contextlib.suppress(KernelError):
                self.wake(0, length)
                return

    def owner_gone(self) -> bool:
        """Whether the process that this context belongs to has ended.

        A fill of address 0, where nothing can be mapped, says ESRCH then, and ENOENT (or EAGAIN
        while an event is pending) before.
        """
        try:
            self.zeropage(0, 4096)
        except OwnerGone:
            return True
        except KernelError:
            pass
        return False

    # --- protection ----------------------------------------------------------------------------

    def writeprotect(self, start: int, length: int, *, protect: bool, wake: bool = True) -> None:
        """UFFDIO_WRITEPROTECT: protect the range, or lift protection and wake."""
        mode = (1 if protect else 0) | (0 if wake or protect else 2)
        self._protect("UFFDIO_WRITEPROTECT", abi.UFFDIO_WRITEPROTECT, start, length, mode)

    def rwprotect(self, start: int, length: int, *, protect: bool, wake: bool = True) -> None:
        """UFFDIO_RWPROTECT: make present pages inaccessible, or lift that and wake (7.3)."""
        mode = (1 if protect else 0) | (0 if wake or protect else 2)
        self._protect("UFFDIO_RWPROTECT", abi.UFFDIO_RWPROTECT, start, length, mode)

    def set_mode(self, *, enable: Feature = _NONE, disable: Feature = _NONE) -> None:
        """UFFDIO_SET_MODE: switch RWP_ASYNC on or off (7.3)."""
        try:
            self._ioctl(self._fd, abi.UFFDIO_SET_MODE, bytearray(_pack_modes(enable, disable)))
        except OSError as error:
            raise KernelError.of("UFFDIO_SET_MODE", error.errno or 0) from None

    # --- shared by the methods above -------------------------------------------------------------

    def _range(self, name: str, request: int, start: int, length: int) -> None:
        try:
            self._ioctl(self._fd, request, bytearray(_pack_range(start, length)))
        except OSError as error:
            raise KernelError.of(name, error.errno or 0, start=start, length=length) from None

    def _fill(self, name: str, request: int, start: int, length: int, mode: int) -> int:
        argument = bytearray(_pack_fill(start, length, mode, 0))
        try:
            self._ioctl(self._fd, request, argument)
        except OSError as error:
            raise _fill_error(name, argument, error, start, length) from None
        return length

    def _protect(self, name: str, request: int, start: int, length: int, mode: int) -> None:
        try:
            self._ioctl(self._fd, request, bytearray(_pack_protect(start, length, mode)))
        except OSError as error:
            raise KernelError.of(name, error.errno or 0, start=start, length=length) from None


def decode(
    data: bytes | bytearray | memoryview, at: int = 0, features: Feature = _NONE
) -> PageFault | Fork[Any] | Remap | Remove | Unmap:
    """The message at byte `at`; a FORK event takes over its descriptor.

    `features`: those of the context that was read, which the one of a fork inherits.
    """
    event = data[at]
    if event == _FAULT:
        _, flags, address, thread_id = _unpack_fault(data, at)
        return PageFault(address, flags, thread_id)
    if event == abi.UFFD_EVENT_FORK:
        return Fork(LiveUserfaultfd.adopt(_unpack_fork(data, at)[1], features))
    if event == abi.UFFD_EVENT_REMAP:
        return Remap(*_unpack_remap(data, at)[1:])
    if event in (abi.UFFD_EVENT_REMOVE, abi.UFFD_EVENT_UNMAP):
        kind = Remove if event == abi.UFFD_EVENT_REMOVE else Unmap
        return kind(*_unpack_remove(data, at)[1:])
    raise KernelError(
        "read(userfaultfd)",
        errno.EPROTO,
        cause=f"the kernel sent an event of unknown kind {event:#x}",
        cure="this release knows the events up to Linux 7.3: upgrade it",
    )


def offer(*, user_mode_only: bool | None = None) -> tuple[Feature, Ioctls]:
    """Every feature this kernel has, and its general ioctls (asked on a descriptor of its own)."""
    opened = open_userfaultfd(user_mode_only=user_mode_only)
    try:
        return _handshake(opened.fd, Feature(0))
    finally:
        os.close(opened.fd)


def _handshake(fd: int, features: Feature) -> tuple[Feature, Ioctls]:
    argument = bytearray(_pack_api.pack(abi.UFFD_API, features, 0))
    try:
        _ioctl(fd, abi.UFFDIO_API, argument)
    except OSError as error:
        raise KernelError.of(
            "UFFDIO_API", error.errno or 0, memory=f"features {names(features, Feature)}"
        ) from None
    _, offered, general = _pack_api.unpack(argument)
    return Feature(offered), Ioctls(general)


def _fill_error(
    name: str, argument: bytearray, error: OSError, start: int, length: int
) -> KernelError:
    """The typed error; the result field is bytes done if positive, else -errno or untouched."""
    at = _ANSWER_AT[len(argument)]
    done = int.from_bytes(argument[at : at + 8], "little", signed=True)
    return KernelError.of(name, error.errno or 0, start=start, length=length, done=max(done, 0))
