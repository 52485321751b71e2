"""Virtual machines at the prompt: what a guest and KVM do with the memory of an area."""

from __future__ import annotations

import errno

import msgspec

from userfault.check.differential.program import Spot
from userfault.kernel.calls import PAGE, Result
from userfault.kernel.errors import UsageError
from userfault.model.errors import Errno, Signalled
from userfault.model.faces.guest import Guest
from userfault.model.files.inode import Inode
from userfault.model.process import Thread

_BYTES = b"guest..."  # what it writes
_LENGTH = len(_BYTES)


class Guests:
    """A machine for each area whose memory is given to one, as its only slot from address 0 on."""

    def __init__(self) -> None:
        self._known: dict[Inode, Guest] = {}

    def does(self, thread: Thread, what: str, spot: Spot) -> Result:
        """One access, or a conversion of a page, in this thread.  Raises UsageError."""
        guest, address = self._of(thread, spot)
        try:
            if what == "read":
                return _read(guest.read(thread, address, _LENGTH))
            if what == "kvm":
                return _read(guest.emulate(thread, address, _LENGTH))
            if what == "write":
                guest.write(thread, address, _BYTES)
                return Result(_LENGTH)
            guest.convert(address // PAGE, private=what == "private")
        except Errno as refusal:
            return Result(errno=refusal.code)
        except Signalled:  # the host's mapping raises one; KVM does not pass it on
            return Result(errno=errno.EFAULT)
        return Result()

    def _of(self, thread: Thread, spot: Spot) -> tuple[Guest, int]:
        """The machine, and the guest's address of the page."""
        mm = thread.process.mm
        vma = mm.find(spot.address)
        target = vma.object if vma is not None else None
        if vma is None or not isinstance(target, Inode):
            raise UsageError(
                f"{spot} is no memory for a guest",
                cause="no file is mapped there",
                cure=f"map it first: `map {spot.area}`",
            )
        if target not in self._known:
            self._known[target] = Guest(mm, target, vma.start - vma.offset)
        return self._known[target], spot.address - vma.start + vma.offset


def _read(data: bytes) -> Result:
    return Result(len(data), data=data)


class Access(msgspec.Struct, frozen=True):
    """What a guest does, where a call of a program stands otherwise."""

    what: str
    spot: Spot

    def __str__(self) -> str:
        return f"Guest.{self.what}({self.spot})"
