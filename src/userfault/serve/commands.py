"""What the control socket can ask for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux.accepted import listens
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.family.supervisor import ROLES
from userfault.pager.drivers.record.journal import Word
from userfault.pager.drivers.worker import Worker
from userfault.serve import records, restoring
from userfault.serve.doors import Doors
from userfault.serve.keeping import keep, let_go
from userfault.serve.leaving import Leaving
from userfault.serve.peers import RefusedError
from userfault.serve.refusals import Refusals
from userfault.serve.restores import Restores
from userfault.serve.sessions import session
from userfault.source.spec import Spec


class Counted(Protocol):
    """What is counted over all clients."""

    def values(self, now: float) -> dict[str, Any]: ...


class Host(Protocol):
    """The daemon."""

    worker: Worker
    told: records.Daemon
    doors: Doors
    leaving: Leaving
    refusals: Refusals
    restores: Restores

    @property
    def metrics(self) -> Counted: ...

    def shut(self, which: Callable[[records.Door], bool]) -> None:
        """Nobody comes by these doors any more."""


class Attach(msgspec.Struct, forbid_unknown_fields=True):
    """Show an image.  Descriptors: its own, if `spec` is given, then a listening socket's, if
    `door` is.

    `name`: by which it is called from now on; clients that come later are shown the new one.
    `pid`: whom it is shown, once that process connects to a door.
    """

    name: str
    spec: Spec | None = None
    pid: int | None = None
    door: records.Door | None = None


class Detach(msgspec.Struct, forbid_unknown_fields=True):
    """Show an image to nobody more, and shut the doors that show it."""

    name: str


class Drain(msgspec.Struct, forbid_unknown_fields=True):
    """Let nobody in any more.  `fill`: who is there is filled as a whole, and then let go of."""

    fill: bool = True


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A command without arguments."""


def is_served(client: Client) -> bool:
    """Whether the daemon is there for it: not for those who give it orders."""
    return client.protocol not in ("", "control")


class Commands:
    """Carries them out for `host`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._not_replaced = ""  # why the last handover failed

    def answer(self, name: str, arguments: Any, fds: list[int]) -> dict[str, Any]:
        """The answer, whatever becomes of it.  Descriptors that are kept are taken out of `fds`."""
        try:
            return {"ok": True, **self.carry_out(name, arguments, fds)}
        except (UserfaultError, OSError) as raised:
            error = raised if isinstance(raised, UserfaultError) else UserfaultError(str(raised))
            return {"ok": False, "what": error.what, "cause": error.cause, "cure": error.cure}

    def carry_out(self, name: str, arguments: Any, fds: list[int]) -> dict[str, Any]:
        """The answer.  Descriptors that are kept are taken out of `fds`.

        Raises RefusedError, PagerError.
        """
        if name not in _COMMANDS:
            raise RefusedError(
                f"there is no command {name!r}",
                cause="this daemon does not know it",
                cure="use one of " + ", ".join(sorted(_COMMANDS)),
            )
        kind, method = _COMMANDS[name]
        try:
            request: Any = msgspec.convert(arguments, kind)
        except msgspec.ValidationError as error:
            raise RefusedError(
                f"the command {name!r} with these arguments", cause=str(error), cure=""
            ) from None
        return method(self, request, fds)

    def _sessions(self, _: Nothing, fds: list[int]) -> dict[str, Any]:
        """Who is served, and how it stands with each."""
        del fds
        host = self._host
        clients = host.worker.book.clients.values()
        return {
            "sessions": [
                {**session(client), "worker": host.told.place}
                for client in clients
                if is_served(client)
            ],
            "waiting": len(host.doors.waiting),
            "draining": host.told.draining,
        }

    def _status(self, _: Nothing, fds: list[int]) -> dict[str, Any]:
        """Which processes serve, what they show, and how often one had to go on for another."""
        del fds
        told, journal = self._host.told, self._host.worker.journal
        processes = {role.name.lower(): journal.member(role)[0] for role in ROLES}
        clients = sum(map(is_served, self._host.worker.book.clients.values()))
        return {
            "processes": processes,
            "workers": [{"worker": told.place, "processes": processes, "clients": clients}],
            "takeovers": journal.words[Word.TAKEOVERS],
            "doors": [{"name": each.name, "image": each.image} for each in told.doors],
            "images": [{"name": each.name, "bytes": each.spec.length} for each in told.images],
            "draining": told.draining,
            "not_replaced": self._not_replaced,
        }

    def _metrics(self, _: Nothing, fds: list[int]) -> dict[str, Any]:
        """What is counted over all clients."""
        del fds
        host = self._host
        return {
            **host.metrics.values(time.monotonic()),
            "waiting": len(host.doors.waiting),
            "accepted": host.doors.accepted,
            "refused": host.refusals.count,
            "takeovers": host.worker.journal.words[Word.TAKEOVERS],
            "workers": 1,
        }

    def _replace(self, _: Nothing, fds: list[int]) -> dict[str, Any]:
        """Hand over to processes made from the code that is installed now: begun by this, done when
        `status` tells of another supervisor, failed when it says why not."""
        del fds
        self._not_replaced = ""

        def told(error: PagerError | None) -> None:
            self._not_replaced = str(error) if error is not None else ""

        self._host.worker.succession.replace((0, 0), told, time.monotonic())
        supervisor = self._host.worker.journal.member(Word.SUPERVISOR)[0]
        return {"supervisor": supervisor, "supervisors": [supervisor]}

    def _attach(self, request: Attach, fds: list[int]) -> dict[str, Any]:
        host, told = self._host, self._host.told
        if not request.name:
            raise RefusedError(
                "an image without a name", cause="it could not be told apart", cure="name it"
            )
        wanted = (request.spec is not None) + (request.door is not None)
        if len(fds) != wanted or (request.door is not None and not listens(fds[-1])):
            raise RefusedError(
                "descriptors that do not belong to the command",
                cause=f"{len(fds)} came, {wanted} belong to it: the image's, a listening socket's",
                cure="use `userfault attach`",
            )
        if request.spec is None and all(each.name != request.name for each in told.images):
            raise RefusedError(f"there is no image {request.name!r}", cause="", cure="")
        before = -1
        if request.spec is not None:
            before = self._forget_image(request.name)
            told.images.append(records.Image(request.name, request.spec, self._keep(fds.pop(0))))
        if request.pid is not None:
            alive = {pid: name for pid, name in told.chosen.items() if _lives(pid)}
            told.chosen = {**alive, request.pid: request.name}
        if request.door is not None:
            place = self._keep(fds.pop(0))
            door = msgspec.structs.replace(request.door, image=request.name, kept=place)
            told.doors.append(door)
        self._write()
        if before >= 0:
            os.close(before)
        if request.door is not None:
            host.doors.open(told.doors[-1], host.worker.book.kept[told.doors[-1].kept])
        return {}

    def _restore(self, request: restoring.Begin, fds: list[int]) -> dict[str, Any]:
        """Serve a VM that asks for its pages."""
        return restoring.begin(self._host, request, fds)

    def _detach(self, request: Detach, fds: list[int]) -> dict[str, Any]:
        del fds
        host, told = self._host, self._host.told
        # (The doors of other protocols show no image: they have no name.)
        mine = [each for each in told.doors if each.image == request.name != ""]
        host.shut(lambda door: door in mine)
        told.doors = [each for each in told.doors if each not in mine]
        told.chosen = {pid: name for pid, name in told.chosen.items() if name != request.name}
        freed = [self._let_go(each.kept) for each in mine]
        freed.append(self._forget_image(request.name))
        self._write()
        for fd in freed:
            if fd >= 0:
                os.close(fd)
        return {}

    def _drain(self, request: Drain, fds: list[int]) -> dict[str, Any]:
        """Nobody comes any more; who is there is filled as a whole, and then needs nobody."""
        del fds
        host = self._host
        if not host.told.draining:
            host.told.draining = True
            self._write()
            host.shut(lambda door: door.protocol != "control")
        if request.fill:
            host.leaving.begin()
        return {"left": sum(map(is_served, host.worker.book.clients.values()))}

    # --- descriptors that are kept ---------------------------------------------------------------

    def _keep(self, fd: int) -> int:
        return keep(self._host.worker.book.kept, fd)

    def _let_go(self, place: int) -> int:
        return let_go(self._host.worker.book.kept, place)

    def _forget_image(self, name: str) -> int:
        """Its descriptor; it is closed by the caller once the record is written."""
        told = self._host.told
        for image in told.images:
            if image.name == name:
                told.images.remove(image)
                return self._let_go(image.kept)
        return -1

    def _write(self) -> None:
        book = self._host.worker.book
        book.about = records.encode(self._host.told)
        book.write()


def _lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


# What each of several workers carries out; a VM that asks for its pages is one worker's.
EVERYWHERE = frozenset({"sessions", "status", "attach", "detach", "metrics", "replace", "drain"})

_COMMANDS: dict[str, tuple[type, Callable[..., dict[str, Any]]]] = {
    "sessions": (Nothing, Commands._sessions),
    "status": (Nothing, Commands._status),
    "attach": (Attach, Commands._attach),
    "detach": (Detach, Commands._detach),
    "metrics": (Nothing, Commands._metrics),
    "replace": (Nothing, Commands._replace),
    "restore": (restoring.Begin, Commands._restore),
    "drain": (Drain, Commands._drain),
}
