"""Whom a worker of the model serves: a client, its mapping, and the userfaultfds of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import msgspec

from userfault.kernel.memtypes import BASE_PAGE
from userfault.kernel.modes import Feature, Ioctls
from userfault.linux.opening import Opened
from userfault.linux.uffd import LiveUserfaultfd
from userfault.model.process import Process
from userfault.pager.core.course import Course
from userfault.pager.core.states import Pages
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.mappings.spill import SpillFile
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.model.calls import Held, ModelCalls
from userfault.pager.drivers.model.memory import SeenMarks, SeenStates, States
from userfault.pager.drivers.model.readers import ModelOrigin, ModelReaders, Pool, Source
from userfault.pager.drivers.record.records import ClientRecord, encode
from userfault.pager.drivers.serving.losing import OUR_ERROR
from userfault.pager.drivers.shared.copy import SharedCopy

_NONE = Feature(0)


class ModelSpill(SpillFile):
    """A spill file in no world's memory.  `full`: it takes nothing."""

    def __init__(self) -> None:
        self._pages: dict[int, bytes] = {}
        self.full = False

    def write(self, offset: int, data: memoryview) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "injected")
        for at in range(0, len(data), BASE_PAGE):
            self._pages[offset + at] = bytes(data[at : at + BASE_PAGE])

    def read(self, offset: int, length: int) -> memoryview:
        pages = (self._pages[offset + at] for at in range(0, length, BASE_PAGE))
        return memoryview(b"".join(pages))

    def close(self) -> None:
        """Nothing of it is open."""


class Estate:
    """What outlives the workers of a pager: page states, the source, what was said of clients.

    `file_size`: of the file behind the memory, -1 for none.  `held`: that file, where pages may be
    taken out of it; `spill`: what takes those that were written.  `in_copy`: the bytes of a page of
    the shared copy that it is mapped over.  `ended`: why a client was killed.
    """

    def __init__(
        self,
        source: Source,
        pool: Pool,
        file_size: Callable[[], int],
        held: Held | None = None,
    ) -> None:
        self.source = source
        self.held = held
        self.spill = ModelSpill()
        self.pool = pool
        self.file_size = file_size
        self.course: Course | None = None  # what comes ahead of the faults
        self.in_copy: Callable[[int], bytes] = lambda _: b""
        self.memories: dict[int, States] = {}
        self.said: list[str] = []
        self.ended: list[str] = []


class ModelUserfaultfd(LiveUserfaultfd):
    """A userfaultfd of the model, held by the pager."""

    def __init__(self, calls: ModelCalls, fd: int) -> None:
        super().__init__(Opened(fd, "received", False), _NONE, _NONE, Ioctls(0))
        self._ioctl = calls.ioctl
        self._process = calls.kernel.process

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._process.close(fd)


class ModelOwner(Owner):
    """A process of the model."""

    def __init__(self, number: int, process: int, estate: Estate, calls: ModelCalls) -> None:
        self.number = number
        self.process = process
        self.name = ""
        self.alive = True
        self.heard = False
        self.has_our_ids = False
        self.estate = estate
        self.calls = calls
        self._client: Process = calls.kernel.clients[process]

    @property
    def pid(self) -> int:
        return self._client.pid

    def say(self, text: str) -> None:
        if text.startswith(OUR_ERROR):  # on Linux it costs a mapping, here it is what is looked for
            raise AssertionError(text)
        self.estate.said.append(text)

    def end(self, why: str) -> None:
        self.estate.ended.append(why)
        self._client.exit(9)

    def close(self) -> None:
        """Nothing of it is open."""


class ModelClient(Client):
    """A client: its socket is a mailbox."""

    channel: Any

    def record(self) -> msgspec.Raw:
        if self._recorded is None:
            served = [served.record() for served in self.mappings.values()]
            channel = self.channel.fileno()
            record = ClientRecord(self.number, self.owner.process, channel, served=served)
            self._recorded = msgspec.Raw(encode(record))
        return self._recorded

    def close(self) -> None:
        """Nothing of it is open."""


class ModelServed(Served):
    """A mapping of the model."""

    owner: ModelOwner

    def _spill(self) -> ModelSpill:
        return self.owner.estate.spill

    def _opened(self, threads: Threads) -> ModelOrigin:
        estate, calls = self.owner.estate, self.owner.calls
        readers = ModelReaders(estate.source, threads.bell, calls, estate.pool)
        return ModelOrigin(self.attach, estate.source, readers)

    def _planned(self) -> Course | None:
        return self.owner.estate.course

    def adopted(self, fd: int) -> ModelUserfaultfd:
        return ModelUserfaultfd(self.owner.calls, fd)

    def _mapped(self, states: int) -> Any:
        return SeenStates(self.owner.estate.memories[states], self.owner.calls.point)

    def _taken_copy(self) -> SharedCopy:
        estate, calls, fds = self.owner.estate, self.owner.calls, self._fds
        marks = SeenMarks(estate.memories[fds.marks], calls.point)

        def same(page: int, source: int) -> bool:
            del source
            return estate.in_copy(page) == estate.source.page(page).ljust(BASE_PAGE, b"\0")

        return SharedCopy(fds.filler, self.attach.copy, marks, calls.ioctl, same)

    def copy_states(self, held: Pages) -> tuple[int, Pages]:
        states = self.owner.calls.kernel.number()
        self.owner.estate.memories[states] = States(bytes(held.states[0 : held.count]))
        return states, self._pages(states)

    def forget_states(self, states: int) -> None:
        if states != self._fds.states:
            self.owner.estate.memories.pop(states, None)

    def memory_size(self) -> int:
        return self.owner.estate.file_size()

    def tell(self) -> None:
        """Nobody waits to be told: the states tell."""

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self.contexts.clear()
        self.origin.close()
