"""What running pagers serve, looked at from outside: no pager is asked, and none is changed.

Page states and journals are shared memory of a pager's family.  Whoever may look at its descriptors
(the same user, or root: ptrace(2), PTRACE_MODE_READ) opens them once more through /proc, for
reading only.  The writer does not wait for a reader, so a record may be written anew while it is
read; then it is read again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import PagerError
from userfault.linux.pidfd import pid_of
from userfault.pager.core.states import NAMES, UNSETTLED
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.record.records import ClientRecord, Person, ServedRecord

_JOURNAL = "/memfd:userfault-journal"
_TRIES = 20
_PAUSE_S = 0.005


class Mapping(msgspec.Struct):
    """A mapping as it stands now.

    `states`: pages by the name of their state.  `waiting`: threads that wait in the kernel for one
    of its pages, in the client and the children of its forks.  `failed`: pages that were given up.
    `lost`: why nothing of it is filled any more.
    """

    pages: int
    page_size: int
    source: str
    length: int
    states: dict[str, int]
    waiting: int
    failed: int
    lost: str = ""

    @property
    def filled(self) -> int:
        """Pages that are settled."""
        unsettled = sum(self.states.get(NAMES[state], 0) for state in UNSETTLED)
        return self.pages - unsettled


class Served(msgspec.Struct):
    """A client.  `process`: its id as seen here, 0 where it has ended.  `protocol`: "" for ours."""

    process: int
    name: str
    protocol: str
    door: str
    mappings: list[Mapping]


class Family(msgspec.Struct):
    """A pager's processes by role, and whom they serve.  `cpu_s`: CPU time of its worker."""

    processes: dict[str, int]
    takeovers: int
    cpu_s: float
    resident: int
    clients: list[Served]


def families() -> list[Family]:
    """All pagers that run here and may be looked at, oldest process first."""
    found = []
    for pid, path in _journals():
        family = _family(pid, path)
        if family is not None:
            found.append(family)
    return found


def _journals() -> Iterator[tuple[int, str]]:
    """Each family's journal once: a process that has it, and the path to it."""
    seen = set()
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                if os.readlink(path).startswith(_JOURNAL):
                    place = os.stat(path)
                    if place.st_ino not in seen:
                        seen.add(place.st_ino)
                        yield pid, path
                    break


def _family(pid: int, path: str) -> Family | None:
    """None where it has ended meanwhile, or has not come up yet."""
    with contextlib.suppress(OSError, PagerError), contextlib.ExitStack() as undo:
        journal = _opened(path)
        undo.callback(journal.close)
        people = _people(journal)
        members = (Word.WORKER, Word.SUPERVISOR, Word.SPARE)
        processes = {role.name.lower(): journal.member(role)[0] for role in members}
        return Family(
            processes=processes,
            takeovers=journal.words[Word.TAKEOVERS],
            cpu_s=_cpu_s(processes["worker"]),
            resident=_resident(processes["worker"]),
            clients=[_served(pid, person) for person in people],
        )
    return None


def _opened(path: str) -> Journal:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Journal(fd)
    except (OSError, ValueError) as error:  # shorter than a journal is
        os.close(fd)
        raise PagerError("no journal", cause=str(error), cure="look again") from error


def _people(journal: Journal) -> list[Person]:
    """Read until it was not written meanwhile."""
    for _ in range(_TRIES):
        before = journal.words[Word.RECORD]
        with contextlib.suppress(PagerError):
            people = records.read(journal)[1]
            if journal.words[Word.RECORD] == before:
                return people
        time.sleep(_PAUSE_S)
    return records.read(journal)[1]


def _served(pid: int, person: Person) -> Served:
    client: ClientRecord = person.client
    return Served(
        process=max(pid_of(client.process, pid), 0),
        name=client.name,
        protocol=client.protocol,
        door=client.door,
        mappings=[_mapping(pid, each) for each in person.mappings],
    )


def _mapping(pid: int, record: ServedRecord) -> Mapping:
    attach = record.attach
    return Mapping(
        pages=attach.pages,
        page_size=attach.page_size,
        source=str(attach.source.__struct_config__.tag),
        length=attach.source.length,
        states=_states(pid, record.fds.states, attach.pages),
        waiting=sum(_waiting(pid, context.fd) for context in record.contexts),
        failed=record.failed,
        lost=record.lost,
    )


def _states(pid: int, fd: int, pages: int) -> dict[str, int]:
    """How many pages are in each state; those of a client that goes away at this moment: none."""
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with mmap.mmap(opened, pages, prot=mmap.PROT_READ) as held:
                data = held[:pages]
        finally:
            os.close(opened)
        counts = {name: data.count(state) for state, name in enumerate(NAMES)}
        return {name: count for name, count in counts.items() if count}
    return {}


def _waiting(pid: int, fd: int) -> int:
    """`total` of a userfaultfd's fdinfo: threads that wait, whether their fault was read or not."""
    return _field(f"/proc/{pid}/fdinfo/{fd}", "total:") if fd >= 0 else 0


def _field(path: str, name: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _cpu_s(pid: int) -> float:
    """User and system time (proc_pid_stat(5), fields 14 and 15)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _resident(pid: int) -> int:
    """Bytes of its memory that are its own: anonymous ones (proc_pid_status(5), RssAnon)."""
    return _field(f"/proc/{pid}/status", "RssAnon:") * 1024
