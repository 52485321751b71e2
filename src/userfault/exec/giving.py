"""One mapping of a program: what becomes of it, and how the pager gets it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

import msgspec

from userfault.api import working_sets
from userfault.api.budget import Budget, decide, spill_file
from userfault.api.options import Options
from userfault.api.pager import Pager
from userfault.api.serving import Session, hand_over
from userfault.exec.files import File, memory_of
from userfault.exec.settings import Settings
from userfault.exec.words import USER_MODE_ONLY, WITH_MEMORY, Message, What
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE, Memory, MemoryType
from userfault.kernel.modes import Feature, Mode
from userfault.linux.pidfd import close_all
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.wire import messages
from userfault.serve import asked
from userfault.uapi import mman
from userfault.wire.regions import Geometry, Region

_ANON = Memory(MemoryType.ANON, BASE_PAGE, False)
_SHMEM = Memory(MemoryType.SHMEM, BASE_PAGE, True)
_NEEDED = Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP


class Given(msgspec.Struct):
    """A mapping between ASK and GIVEN.  `fd`: its memory's, -1 for anonymous memory; `kept`: that
    is its file's, and stays."""

    file: File
    ask: Message
    memory: Memory
    budget: Budget
    fd: int = -1
    kept: bool = False

    def close(self) -> None:
        """Let go of the memory's descriptor."""
        if self.fd >= 0 and not self.kept:
            os.close(self.fd)
        self.fd = -1


class Giver:
    """Has a pager serve mappings of `files`.  `tell`: hears what the user should know."""

    def __init__(
        self,
        files: Sequence[File],
        settings: Settings,
        tell: Callable[[str], None],
    ) -> None:
        self._files = files
        self._settings = settings
        self._tell = tell
        if settings.working_set != "":
            working_sets.prepare()
        if settings.policy.resident_bytes:
            for file in files:  # whether such a budget can be
                self._budget(file)

    def begin(self, ask: Message) -> tuple[Message, Given | None]:
        """What is answered, and what is to be given; None: the mapping stays what it is.

        Raises IndexError for a file that there is not; UsageError, OSError for its memory.
        """
        file = self._files[ask.file]
        file.maps += 1
        private = bool(ask.flags & mman.MAP_PRIVATE)
        writes = ask.access != os.O_RDONLY and not private
        length = min(ask.length, file.whole - ask.offset)
        if length <= 0:  # all of it lies behind the end
            return Message(What.LEAVE), None
        if writes and file.itself:
            self._once(
                file,
                "it is open for writing, and so its mappings are left alone: writes go to the file",
            )
            return Message(What.LEAVE), None
        given = self._memory(file, ask, private=private, writes=writes)
        modes = Mode.MISSING | (Mode.MINOR if given.memory.minor_faults else Mode(0))
        modes |= Mode.WP if given.budget.evicts else Mode(0)
        given.ask.length = length
        answer = Message(
            What.MAP,
            flags=self._settings.user_mode_only * USER_MODE_ONLY + (given.fd >= 0) * WITH_MEMORY,
            address=ask.address,
            length=length,
            offset=ask.offset,
            features=_NEEDED,
            optional=Feature.EVENT_FORK,
            modes=modes,
        )
        return answer, given

    def _memory(self, file: File, ask: Message, *, private: bool, writes: bool) -> Given:
        """Which memory goes over a mapping."""
        if private and ask.protection & mman.PROT_WRITE:
            return Given(file, ask, _ANON, Budget(_ANON))
        budget = self._budget(file)
        if writes and budget.evicts and file.writers:
            raise UsageError(
                "two mappings of it that may be written, with a residency budget",
                cause="what is taken out of one would be missing in the other",
                cure="leave --resident out, or set it to more than the file has",
            )
        if writes:
            return Given(file, ask, _SHMEM, budget, file.shared(), kept=True)
        if private and not budget.evicts:
            return Given(file, ask, _ANON, Budget(_ANON))
        return Given(file, ask, _SHMEM, budget, memory_of(file.whole))

    def _budget(self, file: File) -> Budget:
        settings = self._settings
        options = Options(_SHMEM, True, False, False, False, None)
        return decide(
            settings.policy,
            file.resolved.spec,
            options,
            fixed=True,
            protects=Feature.WP_HUGETLBFS_SHMEM in settings.offered,
            tell=lambda text: self._once(file, text),
        )

    def take(self, pager: Pager, given: Given, told: Message, uffd: int, pid: int) -> Session:
        """Have it served: `uffd` stays the caller's.  Raises UserfaultError, OSError."""
        with contextlib.ExitStack() as undo:
            planned = undo.enter_context(contextlib.closing(self._planned(given)))
            spill = spill_file(self._settings.policy) if given.budget.evicts else -1
            undo.callback(close_all, [spill])
            attach = self._attach(given, told, uffd, pid, planned)
            attach.has_spill = spill >= 0
            more = [fd for fd in (given.file.resolved.fd, given.fd, spill) if fd >= 0]
            return hand_over(
                pager._family,
                pager.request,
                pager.number(),
                attach,
                pid,
                uffd=uffd,
                more=[*more, *planned.fds],
            )

    def _planned(self, given: Given) -> working_sets.Planned:
        """Working sets are of mappings that show all of a file."""
        settings, file, ask = self._settings, given.file, given.ask
        whole = not ask.offset and ask.length == file.whole
        if not whole:
            return working_sets.Planned()
        return working_sets.plan(
            file.resolved,
            settings.policy,
            path=settings.working_set,
            whole=True,
            offset=0,
            pages=file.whole // BASE_PAGE,
            page_size=BASE_PAGE,
            tell=lambda text: self._once(file, text),
        )

    def _attach(
        self, given: Given, told: Message, uffd: int, pid: int, planned: working_sets.Planned
    ) -> messages.Attach:
        settings, file, ask = self._settings, given.file, given.ask
        geometry = Geometry(BASE_PAGE, (Region(told.address, ask.length, ask.offset),), file.whole)
        attach = asked.asked_for(
            pid,
            geometry,
            uffd,
            file.resolved.spec,
            settings.policy,
            has_poison=Feature.POISON in settings.offered,
        )
        shared = given.memory.shared
        attach.shared = shared
        attach.zeropage = given.memory.traits.zeropage
        attach.has_memory = given.fd >= 0
        attach.backing = ""
        if ask.length < file.whole:  # no more of the addresses is its own, wherever it begins
            end, page = told.address + ask.length, ask.offset // BASE_PAGE
            attach.regions = (Segment(told.address, end, page),)
        attach.evicts, attach.follows = given.budget.evicts, given.budget.follows
        attach.policy = msgspec.structs.replace(
            settings.policy, resident_bytes=given.budget.size, resident_percent=None, spill=None
        )
        attach.has_course, attach.has_touches = planned.course >= 0, planned.touches >= 0
        attach.recording = planned.job
        return attach

    def _once(self, file: File, text: str) -> None:
        if text not in file.told:
            file.told.add(text)
            self._tell(f"{file.path}: {text}")
