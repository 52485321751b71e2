"""`connect()`: a pager that others have started, as one's own is used."""

from __future__ import annotations

import contextlib
import os
import socket

from userfault.api.asking import ask
from userfault.api.pager import Held, Pager
from userfault.api.starting import Family
from userfault.api.undisturbed import Tie, undisturbed
from userfault.kernel.errors import PagerError
from userfault.linux.unpatched import original
from userfault.pager.drivers.record.status import Status
from userfault.pager.drivers.wire import messages

_UP_S = 10.0


def connect(path: str | os.PathLike[str]) -> Pager:
    """The daemon that listens at `path` (`userfault serve --native PATH`), to be handed to
    `lazy(..., pager=...)` as a `Pager` is.

    Its processes are not this program's: `processes()` names none of them, and `close()` lets go of
    it.  Functions are no sources there; a store is one if the daemon was told to open it.  Raises
    PagerError where no daemon listens, or it does not let this process in.
    """
    return undisturbed(lambda: Connection(os.fspath(path)))


class Connection(Pager):
    """A daemon's pager, as this process has it."""

    def __init__(self, path: str) -> None:
        self._set_up()
        with contextlib.ExitStack() as undo:
            channel = original("socket", "socket")(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(channel.close)
            channel.settimeout(_UP_S)
            try:
                channel.connect(path)
                greeting = messages.receive_reply(channel, 0)
            except OSError as error:
                raise _not_there(path, error.strerror or str(error)) from None
            if not isinstance(greeting, messages.Resumed):
                raise _not_there(path, "it has closed the connection: its log says why")
            channel.settimeout(None)
            status, shown = Status.create()
            os.close(shown)
            undo.pop_all()
        mine = os.geteuid(), os.getegid()
        self._family = Family(channel, status, (0, -1), os.getpid(), mine)
        self._held = _Connected(self._family)
        self._tie = Tie(self, self._held)


class _Connected(Held):
    """This process's part in it."""

    def end(self, *, gone: bool) -> None:
        """Say good-bye: whatever is served for this process is let go of."""
        del gone
        if os.getpid() == self._family.owner:
            self._family.channel.settimeout(_UP_S)
            with contextlib.suppress(PagerError):
                ask(self._family, 0, messages.Quit(), [])
        self._close()


def _not_there(path: str, cause: str) -> PagerError:
    return PagerError(
        f"no daemon can be used at {path}",
        cause=cause,
        cure="name the path that `userfault serve --native PATH` was started with",
    )
