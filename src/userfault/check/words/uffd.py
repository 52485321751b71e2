"""A userfaultfd in a statement: every ioctl with the outcome it must have.

By default an ioctl must succeed, and its result field must be the whole length.  `fails=EEXIST`
promises a failure; the field is then minus that errno, or what `field` says (`UNTOUCHED`, or the
bytes that were done before an EAGAIN).
"""

from __future__ import annotations

import errno
from typing import TypeAlias, TypedDict, Unpack

from userfault.check.words.caller import Caller
from userfault.check.words.outcome import Failed, expect
from userfault.kernel import calls
from userfault.kernel.calls import Ioctl
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import userfaultfd as abi
from userfault.uapi.layout import Layout

Message: TypeAlias = "PageFault | Fork[int] | Remap | Remove | Unmap"

# What the result fields hold before the call.
UNTOUCHED = 0x5A5A5A5A5A5A
_MESSAGES = 16


class Ends(TypedDict, total=False):
    """How a fill must end: with which errno, and with what in its result field."""

    fails: int
    field: int | None


class Uffd:
    """A descriptor, and the thread that makes the calls on it."""

    def __init__(self, thread: Caller, fd: int) -> None:
        self.thread = thread
        self.fd = fd

    def by(self, thread: Caller) -> Uffd:
        """The same descriptor in the hands of another thread (or of a forked child)."""
        return Uffd(thread, self.fd)

    # --- Calls that are not made yet --------------------------------------------------------------

    def api(self, features: int = 0, version: int = abi.UFFD_API) -> Ioctl:
        """The call UFFDIO_API."""
        argument = abi.uffdio_api.struct.pack(version, features, UNTOUCHED)
        return Ioctl(self.fd, abi.UFFDIO_API, argument)

    def copy_call(self, dst: int, src: int, length: int, mode: int = 0) -> Ioctl:
        """The call UFFDIO_COPY, for a thread that sleeps in it."""
        return self._call(abi.UFFDIO_COPY, abi.uffdio_copy, dst, src, length, mode, UNTOUCHED)

    def _call(self, request: int, layout: Layout, *values: int) -> Ioctl:
        return Ioctl(self.fd, request, layout.struct.pack(*values))

    # --- Registration -----------------------------------------------------------------------------

    def register(self, start: int, length: int, mode: int, *, fails: int = 0) -> int:
        """UFFDIO_REGISTER: the word of ioctls; untouched when it fails."""
        call = self._call(abi.UFFDIO_REGISTER, abi.uffdio_register, start, length, mode, UNTOUCHED)
        word = self._outcome(call, abi.uffdio_register, "ioctls", fails)
        if fails:
            expect(word, UNTOUCHED, "`ioctls` after a failure")
        return word

    def unregister(self, start: int, length: int, *, fails: int = 0) -> None:
        """UFFDIO_UNREGISTER."""
        self._plain(self._call(abi.UFFDIO_UNREGISTER, abi.uffdio_range, start, length), fails)

    def wake(self, start: int, length: int, *, fails: int = 0) -> None:
        """UFFDIO_WAKE."""
        self._plain(self._call(abi.UFFDIO_WAKE, abi.uffdio_range, start, length), fails)

    # --- Filling ----------------------------------------------------------------------------------

    def copy(self, dst: int, src: int, length: int, mode: int = 0, **ends: Unpack[Ends]) -> None:
        """UFFDIO_COPY."""
        call = self.copy_call(dst, src, length, mode)
        self._fill(call, abi.uffdio_copy, "copy", length, **ends)

    def zeropage(self, start: int, length: int, mode: int = 0, **ends: Unpack[Ends]) -> None:
        """UFFDIO_ZEROPAGE."""
        call = self._call(abi.UFFDIO_ZEROPAGE, abi.uffdio_zeropage, start, length, mode, UNTOUCHED)
        self._fill(call, abi.uffdio_zeropage, "zeropage", length, **ends)

    def continue_(self, start: int, length: int, mode: int = 0, **ends: Unpack[Ends]) -> None:
        """UFFDIO_CONTINUE."""
        call = self._call(abi.UFFDIO_CONTINUE, abi.uffdio_continue, start, length, mode, UNTOUCHED)
        self._fill(call, abi.uffdio_continue, "mapped", length, **ends)

    def poison(self, start: int, length: int, mode: int = 0, **ends: Unpack[Ends]) -> None:
        """UFFDIO_POISON."""
        call = self._call(abi.UFFDIO_POISON, abi.uffdio_poison, start, length, mode, UNTOUCHED)
        self._fill(call, abi.uffdio_poison, "updated", length, **ends)

    def move(self, dst: int, src: int, length: int, mode: int = 0, **ends: Unpack[Ends]) -> None:
        """UFFDIO_MOVE."""
        call = self._call(abi.UFFDIO_MOVE, abi.uffdio_move, dst, src, length, mode, UNTOUCHED)
        self._fill(call, abi.uffdio_move, "move", length, **ends)

    # --- Protecting -------------------------------------------------------------------------------

    def writeprotect(
        self,
        start: int,
        length: int,
        mode: int = abi.UFFDIO_WRITEPROTECT_MODE_WP,
        *,
        fails: int = 0,
    ) -> None:
        """UFFDIO_WRITEPROTECT; mode 0 un-protects."""
        call = self._call(abi.UFFDIO_WRITEPROTECT, abi.uffdio_writeprotect, start, length, mode)
        self._plain(call, fails)

    def rwprotect(
        self,
        start: int,
        length: int,
        mode: int = abi.UFFDIO_RWPROTECT_MODE_RWP,
        *,
        fails: int = 0,
    ) -> None:
        """UFFDIO_RWPROTECT (7.3); mode 0 un-protects."""
        self._plain(
            self._call(abi.UFFDIO_RWPROTECT, abi.uffdio_rwprotect, start, length, mode), fails
        )

    def set_mode(self, enable: Feature, disable: Feature, *, fails: int = 0) -> None:
        """UFFDIO_SET_MODE (7.3)."""
        self._plain(self._call(abi.UFFDIO_SET_MODE, abi.uffdio_set_mode, enable, disable), fails)

    # --- Messages ---------------------------------------------------------------------------------

    def read(self, limit: int = _MESSAGES) -> list[Message]:
        """Up to `limit` messages; empty when nothing is queued.  For non-blocking descriptors."""
        call = calls.ReadFd(self.fd, limit * abi.uffd_msg.size)
        result = self.thread.do(call)
        if result.errno == errno.EAGAIN:
            return []
        return decode(self.thread.must_succeed(call, result).data)

    def message(self) -> Message:
        """The one message that must be queued."""
        found = self.read()
        if len(found) != 1:
            raise Failed(f"promised one message, saw {found}")
        return found[0]

    def fault(self, address: int, flags: int) -> PageFault:
        """The one message that must be queued: a fault at this address with these flags."""
        found = self.message()
        if not isinstance(found, PageFault):
            raise Failed(f"promised a fault, saw {found}")
        expect((found.address, found.flags), (address, flags), "address and flags of the fault")
        return found

    def silent(self, what: str) -> None:
        """Nothing may be queued after `what`."""
        expect(self.read(), [], f"messages after {what}")

    def revents(self) -> int:
        """poll(2) for POLLIN, without waiting: the events that are there."""
        data = self.thread.ok(calls.Poll(self.fd, POLLIN)).data
        events: int = calls.POLL_REVENTS.struct.unpack(data)[0]
        return events

    def counts(self) -> tuple[int, int]:
        """fdinfo: faults that nobody has read, and all faults that wait."""
        lines = self.thread.ok(calls.Fdinfo(self.fd)).data.decode().splitlines()
        values = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return int(values["pending"]), int(values["total"])

    def close(self) -> None:
        """close(2)."""
        self.thread.ok(calls.Close(self.fd))

    # --- Outcomes ---------------------------------------------------------------------------------

    def _plain(self, call: Ioctl, fails: int) -> None:
        if fails:
            self.thread.fails(call, fails)
        else:
            self.thread.ok(call)

    def _outcome(self, call: Ioctl, layout: Layout, field: str, fails: int) -> int:
        """The result field of a call with this outcome."""
        result = self.thread.fails(call, fails) if fails else self.thread.ok(call)
        word: int = layout.struct.unpack(result.data)[layout.names.index(field)]
        return word

    def _fill(
        self,
        call: Ioctl,
        layout: Layout,
        name: str,
        length: int,
        *,
        fails: int = 0,
        field: int | None = None,
    ) -> None:
        found = self._outcome(call, layout, name, fails)
        if field is None:
            field = -fails if fails else length
        expect(found, field, f"the field `{name}`")


POLLIN = 0x1
POLLERR = 0x8

MISSING, WP, MINOR, RWP = Mode.MISSING, Mode.WP, Mode.MINOR, Mode.RWP


def decode(data: bytes) -> list[Message]:
    """The messages that read(2) gave, whole ones alone."""
    size = abi.uffd_msg.size
    return [_decode(data[place : place + size]) for place in range(0, len(data), size)]


def _decode(raw: bytes) -> Message:
    layout = abi.UFFD_MSG_LAYOUTS.get(raw[0])
    if layout is None or len(raw) < layout.size:
        raise Failed(f"no message that we know: {raw!r}")
    _, *values = layout.struct.unpack(raw)
    if raw[0] == abi.UFFD_EVENT_PAGEFAULT:
        flags, address, thread_id = values
        return PageFault(address, flags, thread_id)
    kinds: dict[int, type[Fork[int] | Remap | Remove | Unmap]] = {
        abi.UFFD_EVENT_FORK: Fork,
        abi.UFFD_EVENT_REMAP: Remap,
        abi.UFFD_EVENT_REMOVE: Remove,
        abi.UFFD_EVENT_UNMAP: Unmap,
    }
    return kinds[raw[0]](*values)
