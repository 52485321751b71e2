"""The worker's program of a daemon: doors, and what is spoken with those who come by them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.kernel.modes import Feature
from userfault.linux.uffd import offer
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.family.supervisor import ROLES
from userfault.pager.drivers.record import records as family_records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.worker import Worker
from userfault.serve import records, sockets
from userfault.serve.control import ControlTalk
from userfault.serve.doors import Doors
from userfault.serve.firecracker import FirecrackerTalk
from userfault.serve.images import Images
from userfault.serve.leaving import Leaving
from userfault.serve.native import NativeTalk
from userfault.serve.refusals import Refusals
from userfault.serve.sessions import session
from userfault.serve.waiting import Waiting

Command = Callable[[dict[str, Any]], dict[str, Any]]


class Daemon:
    """Serves whoever comes, and goes on where another worker of the family was killed.

    True as long as somebody may come, or is there.
    """

    worker: Worker
    refusals: Refusals
    doors: Doors
    waiting: Waiting
    leaving: Leaving

    def __init__(self, journal: Journal) -> None:
        family, _ = family_records.read(journal)
        self.told = records.decode(family.about)
        self.limits = self.told.limits
        self.has_poison = _poison()
        self.images = Images(self.told, family.kept)
        self.commands: dict[str, Command] = {
            "sessions": self._sessions,
            "status": self._status,
            "drain": self._drain,
        }
        Worker(journal, self._prepare)
        for door in self.told.doors:
            if not self.told.draining or door.protocol == "control":
                self.doors.open(door, family.kept[door.kept])
        if self.told.draining:
            self.leaving.begin()

    def _prepare(self, worker: Worker) -> None:
        """What clients of a killed worker need, too."""
        self.worker = worker
        worker.clients.protocols |= {
            "firecracker": functools.partial(FirecrackerTalk, host=self),
            "control": functools.partial(ControlTalk, host=self),
            "native": functools.partial(NativeTalk, host=self),
        }
        self.refusals = Refusals(worker.loop.timers)
        self.doors = Doors(worker.loop, worker.clients, self.limits, self.refusals)
        self.waiting = self.doors.waiting
        self.leaving = Leaving(worker.clients, _is_served)

    def run(self) -> None:
        """Serve until nobody is there and nobody can come."""
        self.worker.loop.run(self, self.worker.service.background)
        self._shut(lambda _: True)
        self.worker.close()

    def __bool__(self) -> bool:
        open_ = bool(self.doors) and not self.told.draining
        return open_ or any(map(_is_served, self.worker.book.clients.values()))

    @property
    def stores(self) -> tuple[str, ...]:
        """Those that clients may name."""
        return self.told.stores

    # --- commands --------------------------------------------------------------------------------

    def _sessions(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Who is served, and how it stands with each."""
        del arguments
        clients = self.worker.book.clients.values()
        return {
            "sessions": [session(client) for client in clients if _is_served(client)],
            "waiting": len(self.waiting),
            "draining": self.told.draining,
        }

    def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Which processes serve, and how often one had to go on for another."""
        del arguments
        journal = self.worker.journal
        roles = {role.name.lower(): journal.member(role)[0] for role in ROLES}
        return {"processes": roles, "takeovers": journal.words[Word.TAKEOVERS]}

    def _drain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Nobody comes any more; who is there is filled as a whole, and then needs nobody."""
        fill = arguments.get("fill", True)
        if not self.told.draining:
            self.told.draining = True
            self.worker.book.about = records.encode(self.told)
            self.worker.book.write()
            self._shut(lambda door: door.protocol != "control")
        if fill:
            self.leaving.begin()
        return {"left": sum(map(_is_served, self.worker.book.clients.values()))}

    # --- what conversations ask ------------------------------------------------------------------

    def door(self, client: Client) -> records.Door:
        """By which it came."""
        for door in self.told.doors:
            if door.name == client.door:
                return door
        raise PagerError("the door by which a client came is shut", cause=client.door)

    def image_for(self, client: Client) -> str:
        """The name of the image that it is shown."""
        return self.door(client).image

    def refused(self, client: Client, error: UserfaultError) -> None:
        """Tell the log."""
        self.refusals.tell(client.owner.name, error)

    def admitted(self, client: Client) -> None:
        """It is served."""
        client.owner.say("served")

    def _shut(self, which: Callable[[records.Door], bool]) -> None:
        """Nobody comes by these doors any more."""
        for door in filter(which, self.told.doors):
            if self.doors.door(door.name) is not None:
                self.doors.shut(door.name)
            if any(door.place):
                sockets.unlink(door.path, door.place)


def _is_served(client: Client) -> bool:
    """Whether the daemon is there for it: not for those who give it orders."""
    return client.protocol not in ("", "control")


def _poison() -> bool:
    """Whether this kernel can poison a page.  Where no userfaultfd may be opened here, clients that
    have opened theirs elsewhere are ended instead."""
    try:
        return Feature.POISON in offer()[0]
    except UserfaultError:
        return False


def serve(journal: Journal) -> None:
    """Be the worker until there is nobody left to serve."""
    Daemon(journal).run()
