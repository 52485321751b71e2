"""The worker's program of a daemon: doors, and what is spoken with those who come by them."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.kernel.modes import Feature
from userfault.linux.accepted import accepted
from userfault.linux.descriptors import open_descriptors
from userfault.linux.uffd import offer
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.record import records as family_records
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.rations import Rations
from userfault.pager.drivers.worker import Worker
from userfault.serve import cloud_hypervisor, criu, records, secret, sockets
from userfault.serve.board import Board
from userfault.serve.commands import Commands, is_served
from userfault.serve.control import FAREWELL, ControlTalk
from userfault.serve.doors import Doors
from userfault.serve.drafts import DraftTalk
from userfault.serve.files import Files
from userfault.serve.firecracker import FirecrackerTalk
from userfault.serve.images import Images
from userfault.serve.leaving import Leaving
from userfault.serve.metrics import Metrics
from userfault.serve.native import NativeTalk
from userfault.serve.neighbours import Admitted, Neighbours, Passed
from userfault.serve.refusals import Refusals
from userfault.serve.restores import Restores
from userfault.serve.spreading import Spread
from userfault.serve.turning_away import TurningAway
from userfault.serve.waiting import Waiting


class Daemon:
    """Serves whoever comes, and goes on where another worker of the family was killed.

    True as long as somebody may come, or is there.
    """

    worker: Worker
    images: Images
    refusals: Refusals
    away: TurningAway
    doors: Doors
    waiting: Waiting
    leaving: Leaving
    metrics: Metrics
    restores: Restores
    board: Board
    neighbours: Neighbours
    spread: Spread
    files: Files

    def __init__(self, journal: Journal) -> None:
        family, _ = family_records.read(journal)
        self.told = records.decode(family.about)
        self.limits = self.told.limits
        self.has_poison = _poison()
        self.commands = Commands(self)
        Worker(journal, self._prepare)
        for door in self.told.doors:
            if not self.told.draining or door.protocol == "control":
                self.doors.open(door, self.worker.book.kept[door.kept])
        self._count(0)
        self._adopt()
        self.spread.moved()
        if self.told.draining:
            self.leaving.begin()

    def _adopt(self) -> None:
        """Clients that a killed worker had accepted, and not recorded yet."""
        book = self.worker.book
        known = {client.channel.fileno() for client in book.clients.values()}
        doors = {book.kept[door.kept]: door for door in self.told.doors}
        strangers = open_descriptors(max(known | set(doors), default=0)) - known
        for fd, listening in accepted(strangers, doors).items():
            self.doors.adopt(fd, doors[listening])

    def _prepare(self, worker: Worker) -> None:
        """What clients of a killed worker need, too."""
        self.worker = worker
        self.images = Images(self.told, worker.book.kept)
        self.restores = Restores(self.told, worker.book, worker.loop)
        self.files = Files(self.told, worker.book)
        worker.clients.protocols |= {
            "firecracker": functools.partial(FirecrackerTalk, host=self),
            "control": functools.partial(ControlTalk, host=self),
            "native": functools.partial(NativeTalk, host=self),
            "drafts": functools.partial(DraftTalk, host=self),
            secret.PROTOCOL: functools.partial(secret.SecretTalk, host=self),
            secret.ASYNCHRONOUS: functools.partial(secret.AsynchronousTalk, host=self),
            cloud_hypervisor.PROTOCOL: functools.partial(cloud_hypervisor.FaultTalk, host=self),
            criu.PROTOCOL: functools.partial(criu.CriuTalk, host=self),
            criu.TASK: criu.TaskTalk,
        }
        if self.limits.cpu_percent:
            worker.service.rations = Rations(worker.loop, self.limits.cpu_percent / 100)
        self.refusals = Refusals(worker.loop.timers)
        self.away = TurningAway(self.refusals, self.told.on_refusal)
        kept = worker.book.kept
        board = kept[self.told.board] if self.told.board >= 0 else -1
        self.board = Board(board, self.told.place, self.told.workers)
        worker.book.counted = self._count
        self.neighbours = Neighbours(
            worker.loop,
            {place: kept[each] for place, each in self.told.neighbours.items()},
            carry_out=self.commands.answer,
            passed=self._passed,
            admitted=self._unchoose,
        )
        self.spread = Spread(self.board, self.neighbours)
        self.doors = Doors(worker.loop, worker.clients, self.limits, self.away, self.spread)
        self.waiting = self.doors.waiting
        self.leaving = Leaving(worker.clients, is_served)
        self.metrics = Metrics(worker.clients)
        criu.leave_when_done(worker.clients)

    def _count(self, _: int) -> None:
        """For the other workers: those who give it orders are not served."""
        self.board.clients(sum(map(is_served, self.worker.book.clients.values())))

    def _unchoose(self, pid: int) -> None:
        """Another worker serves the process for which an image was chosen."""
        self.told.chosen.pop(pid, None)

    def _passed(self, fd: int, whose: int, packet: Passed) -> None:
        """A connection that another worker passes on."""
        self.board.got(whose)
        for door in self.told.doors:
            if door.name == packet.door:
                self.doors.passed(fd, door, again=packet.again)
                return
        # It was opened, or shut, a moment ago: whoever let it in knows.
        back = Passed(packet.door, back=True)
        if packet.back or not self.neighbours.send(whose, back, [fd]):
            self.doors.turn_away(fd, records.Door(packet.door, "", "", -1))
        else:
            os.close(fd)

    def run(self) -> None:
        """Serve until nobody is there and nobody can come."""
        while self:
            self.worker.loop.run(self, self.worker.service.background)
            self.neighbours.retire()
        if not self.neighbours.alive:  # the last one puts the lights out
            self.shut(lambda _: True)
        self._say_farewell()
        self.neighbours.close()
        self.worker.close()
        self.restores.close()

    def _say_farewell(self) -> None:
        """To the command in front: all is well."""
        for client in self.worker.book.clients.values():
            if client.protocol == "control" and not client.door:
                with contextlib.suppress(OSError):
                    client.channel.send(FAREWELL, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def __bool__(self) -> bool:
        open_ = bool(self.doors) and not self.told.draining
        return open_ or any(map(is_served, self.worker.book.clients.values()))

    @property
    def stores(self) -> tuple[str, ...]:
        """Those that clients may name."""
        return self.told.stores

    # --- what conversations ask ------------------------------------------------------------------

    def door(self, client: Client) -> records.Door:
        """By which it came."""
        for door in self.told.doors:
            if door.name == client.door:
                return door
        raise PagerError("the door by which a client came is shut", cause=client.door)

    def image_for(self, client: Client) -> str:
        """The name of the image that it is shown."""
        return self.told.chosen.get(client.owner.pid) or self.door(client).image

    def refused(self, client: Client, error: UserfaultError) -> None:
        """Tell the log."""
        self.refusals.tell(client.owner.name, error)

    def turn_away(self, client: Client, error: UserfaultError, *, handed_over: bool) -> None:
        """Tell the log, and end one that has handed over its memory; the caller hangs up."""
        owner = client.owner
        self.away.turn(owner.name, error, client.channel, owner.process, handed_over=handed_over)

    def admitted(self, client: Client) -> None:
        """It is served."""
        pid = client.owner.pid
        if self.told.chosen.pop(pid, None) is not None:  # another may have that number later
            for place in self.neighbours.alive:
                self.neighbours.send(place, Admitted(pid))
        client.owner.say("served")
        self.leaving.came(client)

    def home(self, backing: str) -> int | None:
        """Which other worker serves memory that several processes map."""
        return self.spread.home(backing)

    def pass_on(self, client: Client, place: int) -> bool:
        """Have another worker serve it, whose message lies in its socket still: it has gone."""
        if not self.spread.pass_on(client.channel, client.door, place, again=True):
            return False
        self.worker.clients.hang_up(client, quit_now=True)
        self.spread.moved()
        return True

    def shut(self, which: Callable[[records.Door], bool]) -> None:
        """Nobody comes by these doors any more."""
        for door in filter(which, self.told.doors):
            if self.doors.door(door.name) is not None:
                self.doors.shut(door.name)
            if any(door.place):
                sockets.unlink(door.path, door.place)


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
