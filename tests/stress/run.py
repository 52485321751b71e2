"""The referee: starts the client, kills its pager's processes, watches its threads from outside."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import userfault
from helpers.world import PoolLock
from stress import family, source
from stress.board import OPS, PLANTS, Board
from stress.build import build
from stress.client import Job, Slot
from stress.family import Killer
from stress.standstill import Standstill, after_kills, summary
from userfault.kernel.memtypes import MIB
from userfault.linux.hugepool import PoolShare
from userfault.linux.smaps import private_memory

_TESTS = Path(__file__).resolve().parent.parent
_MARK = "USERFAULT_STRESS"
_TICK_S = 0.002
_EVICT_S = 0.3
_SAMPLE_S = 1.0
_START_S = 60.0

SMALL_PAGES = 8192  # 32 MiB
FUNCTION_PAGES = 1024
HUGE_PAGES = 24


class Options(msgspec.Struct, frozen=True):
    """What to run.  It ends after `kills` kills, or after `seconds` if there are none."""

    kills: int = 1000
    seconds: float = 0.0
    seed: int = 1
    memory: tuple[str, ...] = ("anon", "shmem", "hugetlb")
    threads: int = 4
    pause_s: float = 0.3  # the longest time between seeing a victim and killing it
    hang_s: float = 20.0  # a thread that stands still for so long hangs
    directory: str | None = None
    plant: str = PLANTS[0]  # a mistake to plant, which the judge has to find


class Result(msgspec.Struct):
    """What was found.  Times in ms, memory in KiB."""

    seed: int
    seconds: float = 0.0
    kills: dict[str, int] = msgspec.field(default_factory=dict)
    takeovers: int = 0
    mappings: int = 0
    accesses: int = 0
    operations: dict[str, int] = msgspec.field(default_factory=dict)
    undecided: int = 0
    source_errors_met: int = 0
    wrong: int = 0
    elsewhere: int = 0  # of those recorded, where no mistake was planted
    hung: int = 0
    failed: int = 0  # the client ended, or something was left behind
    after_worker: Standstill = msgspec.field(default_factory=lambda: summary([]))
    after_supervisor: Standstill = msgspec.field(default_factory=lambda: summary([]))
    slowest: list[str] = msgspec.field(default_factory=list)
    private_kib: dict[str, int] = msgspec.field(default_factory=dict)
    state_bytes: int = 0
    details: list[str] = msgspec.field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing wrong, nobody hung."""
        return not (self.wrong or self.hung or self.failed)


Progress = Callable[[Result], None]


class Referee:
    """One run."""

    def __init__(self, options: Options, scratch: Path, progress: Progress) -> None:
        self._options = options
        self._scratch = scratch
        self._progress = progress
        self._mark = secrets.token_hex(8)  # in the environment of all that the client starts
        self._killer = Killer(options.seed, options.pause_s, self._mark)
        self._slow: list[tuple[int, int, int, int]] = []
        self._asked = 0.0  # when, if an answer is awaited
        self._begun = time.monotonic()
        self._evicted = self._sampled = 0.0
        self._processes: dict[str, int] = {}
        self._job = self._make_job()
        self.result = Result(options.seed)

    def _make_job(self) -> Job:
        slots: list[Slot] = []
        for name in self._options.memory:
            pages = HUGE_PAGES if name.startswith("hugetlb") else SMALL_PAGES
            slots.append(self._slot(len(slots), name, pages, function=False))
        if any(not name.startswith("hugetlb") for name in self._options.memory):
            slots.append(self._slot(len(slots), "anon", FUNCTION_PAGES, function=True))
        library = str(build(self._scratch))
        forks = os.geteuid() == 0
        return Job(
            slots, self._options.threads, self._options.seed, forks, library, self._options.plant
        )

    def _slot(self, index: int, memory: str, pages: int, *, function: bool) -> Slot:
        path = self._scratch / f"source{index}"
        spill = str(self._scratch) if memory.endswith("+spill") else None
        slot = Slot(index, memory, pages, str(path), function, spill=spill)
        if function:
            path.write_bytes(bytes(pages))
        else:
            source.write_file(path, slot.kind, pages, slot.page_size)
        return slot

    def run(self) -> None:
        """Until enough was killed, or something went wrong."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.closing(Board()) as board, ours, theirs, _pool(self._options.memory):
            client = self._start(theirs, board)
            try:
                self._watch(client, ours, board)
            finally:
                if client.poll() is None:
                    client.kill()
                client.wait()
                self._killer.close()
                left = family.wait_gone(self._mark, 30)
                if left:
                    self._fail(f"processes left behind: {left}")
                self._collect(board)

    def _start(self, theirs: socket.socket, board: Board) -> subprocess.Popen[bytes]:
        (self._scratch / "job").write_bytes(msgspec.json.encode(self._job))
        path = os.pathsep.join([str(_TESTS), str(Path(userfault.__file__).parents[1])])
        with (self._scratch / "stderr").open("wb") as stderr:
            client = subprocess.Popen(
                [sys.executable, "-m", "stress.client", str(theirs.fileno()), str(board.fd),
                 str(self._scratch / "job")],
                pass_fds=[theirs.fileno(), board.fd],
                env={**os.environ, "PYTHONPATH": path, _MARK: self._mark},
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is the referee's alone
            )  # fmt: skip
        theirs.close()
        return client

    def _watch(self, client: subprocess.Popen[bytes], channel: socket.socket, board: Board) -> None:
        channel.settimeout(0)
        self._ask(channel)
        while not self._enough() and self._well(client, channel, board):
            self._listen(channel)
            now = time.monotonic()
            if self._options.kills and self._killer.fire():
                self._show(board)
            self._slow += board.new_slow()
            if now - self._evicted > _EVICT_S:
                self._evicted = now
                self._evict()
                self._show(board)
            if not self._asked and not self._killer.armed:
                self._ask(channel)
            time.sleep(_TICK_S)
        if self.result.good:
            self._stop(client, channel, board)

    def _enough(self) -> bool:
        spent = time.monotonic() - self._begun
        if self._options.seconds and spent > self._options.seconds:
            return True
        return bool(self._options.kills) and len(self._killer.kills) >= self._options.kills

    # --- talking to the client --------------------------------------------------------------------

    def _ask(self, channel: socket.socket) -> None:
        with contextlib.suppress(OSError):
            channel.send(b"processes")
        self._asked = time.monotonic()

    def _listen(self, channel: socket.socket) -> None:
        answer = _receive(channel) if self._asked else None
        if answer is None:
            return
        self._asked = 0.0
        self._processes = answer["processes"]
        self.result.takeovers = answer["takeovers"]
        self.result.mappings = answer["mappings"]
        self.result.state_bytes = answer["state_bytes"]
        if self._options.kills:
            self._killer.choose(self._processes)
        if time.monotonic() - self._sampled > _SAMPLE_S:
            self._sampled = time.monotonic()
            for role, pid in self._processes.items():
                most = self.result.private_kib.get(role, 0)
                self.result.private_kib[role] = max(most, private_memory(pid) >> 10)

    def _stop(self, client: subprocess.Popen[bytes], channel: socket.socket, board: Board) -> None:
        """Let the client end by itself: it leaves its memory, and ends its pager."""
        time.sleep(0.2)
        while self._asked and self._well(client, channel, board):
            self._listen(channel)
            time.sleep(_TICK_S)
        if not self.result.good:
            return
        channel.send(b"stop")
        self._asked = time.monotonic()
        while client.poll() is None and self._well(client, channel, board, stopping=True):
            time.sleep(_TICK_S)
        if client.returncode:
            self._ended(client)
        elif last := _receive(channel):
            self.result.takeovers = last["takeovers"]

    # --- what must not be -------------------------------------------------------------------------

    def _well(
        self,
        client: subprocess.Popen[bytes],
        channel: socket.socket,
        board: Board,
        *,
        stopping: bool = False,
    ) -> bool:
        """Whether the client runs, no byte was wrong and nobody hangs."""
        if not stopping and client.poll() is not None:
            self._ended(client)
        if board.layout.wrong_count:
            self.result.wrong = int(board.layout.wrong_count)
        since = self._killer.waits_since
        if since and time.monotonic() - since > self._options.hang_s and self.result.good:
            self._fail("the pager's family does not become complete again")
            self._tell_where()
        now = time.monotonic_ns()
        limit = int(self._options.hang_s * 1e9)
        # Read once: it is 0 as soon as the operation ends.
        started = [thread.started for thread in board.layout.thread]
        hung = [n for n, since in enumerate(started) if since and now - since > limit]
        for index in hung:
            thread = board.layout.thread[index]
            self.result.hung += 1
            self.result.details.append(
                f"thread {thread.tid} hangs in {OPS[thread.op]} of slot {thread.slot}, page"
                f" {thread.page}, in {_wchan(thread.tid)}; the pager says"
                f" {_page(channel, thread.slot, thread.page)}"
            )
        if hung:
            self._tell_where()
        waits = self._asked and time.monotonic() - self._asked > max(self._options.hang_s, _START_S)
        if waits and not hung:
            self.result.hung += 1
            self.result.details.append(f"the client's main thread hangs in {_wchan(client.pid)}")
            self._tell_where()
        return self.result.good

    def _ended(self, client: subprocess.Popen[bytes]) -> None:
        self._fail(f"the client ended with {client.returncode}")
        self._tell_where()

    def _tell_where(self) -> None:
        """Who was killed last, and where everybody sleeps."""
        now = time.monotonic_ns()
        last = [f"{role} {(now - when) / 1e6:.0f} ms ago" for when, role in self._killer.kills[-4:]]
        self.result.details += [
            f"the family was {self._processes}; killed: {', '.join(last) or 'nobody'}",
            *family.whereabouts(self._mark),
        ]

    def _fail(self, what: str) -> None:
        self.result.failed += 1
        self.result.details.append(what)

    # --- around it --------------------------------------------------------------------------------

    def _evict(self) -> None:
        """Drop the sources from the page cache, so that their pages are read by threads."""
        for slot in self._job.slots:
            if not slot.function:
                fd = os.open(slot.path, os.O_RDONLY | os.O_CLOEXEC)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def _show(self, board: Board) -> None:
        self._figures(board)
        self._progress(self.result)

    def _figures(self, board: Board) -> None:
        result = self.result
        result.seconds = round(time.monotonic() - self._begun, 1)
        roles = [role for _, role in self._killer.kills]
        result.kills = {role: roles.count(role) for role in family.ROLES}
        result.accesses = board.total("accesses")
        result.source_errors_met = board.total("faulted")
        result.undecided = board.total("undecided")
        result.operations = board.done()

    def _collect(self, board: Board) -> None:
        """The figures at the end."""
        result = self.result
        self._figures(board)
        self._slow += board.new_slow()
        result.wrong = int(board.layout.wrong_count)
        result.elsewhere = board.elsewhere()
        result.details += board.wrong([when for when, _ in self._killer.kills])
        if not result.good:
            result.details += _told((self._scratch / "stderr").read_text(errors="replace"))
        plain = {slot.index for slot in self._job.slots if not slot.function}
        for role in family.ROLES:
            kills = [when for when, whom in self._killer.kills if whom == role]
            setattr(result, f"after_{role}", after_kills(self._slow, kills, plain))
        slowest = sorted(
            (
                (end - start, start, slot, op)
                for start, end, slot, op in self._slow
                if slot in plain
            ),
            reverse=True,
        )
        result.slowest = [self._describe(*each) for each in slowest[:5]]

    def _describe(self, took: int, start: int, slot: int, op: int) -> str:
        """A slow operation, and the kill before its end that was nearest to its begin."""
        met = [(when, role) for when, role in self._killer.kills if when < start + took]
        when, role = min(met, key=lambda kill: abs(kill[0] - start), default=(0, ""))
        kill = f", begun {(start - when) / 1e6:.0f} ms after a {role}'s death" if role else ""
        return f"{took / 1e6:.1f} ms: {OPS[op]} in {self._job.slots[slot].memory}{kill}"


def run(options: Options, progress: Progress) -> Result:
    """Run it; KeyboardInterrupt comes through once everything has ended."""
    with tempfile.TemporaryDirectory(prefix="userfault-stress-", dir=options.directory) as scratch:
        referee = Referee(options, Path(scratch), progress)
        referee.run()
        return referee.result


def pools(options: Options) -> contextlib.AbstractContextManager[object]:
    """The lock that tests hold which change the hugetlb pools, where this run will."""
    huge = any(name.startswith("hugetlb") for name in options.memory)
    return PoolLock() if huge else contextlib.nullcontext()


@contextlib.contextmanager
def _pool(memory: tuple[str, ...]) -> Iterator[None]:
    """Huge pages for the time of the run: twice as many, for a hole gives its pages up for a while
    and others may take them."""
    huge = sum(name.startswith("hugetlb") for name in memory)
    if not huge:
        yield
        return
    share = PoolShare(2 * MIB, 2 * HUGE_PAGES * huge, grow=True)
    try:
        yield
    finally:
        share.close()


def _told(text: str) -> list[str]:
    """What the client and its pager wrote, without pages that fail on purpose; twice is once."""
    blocks = dict.fromkeys(text.replace("\nTraceback", "\n\0Traceback").split("\0"))
    lines = [line for block in blocks for line in block.splitlines() if "is broken" not in line]
    return lines if len(lines) < 80 else [*lines[:40], "...", *lines[-40:]]


def _receive(channel: socket.socket) -> Any:
    try:
        text = channel.recv(1 << 16)
    except OSError:
        return None
    return json.loads(text) if text else None


def _page(channel: socket.socket, slot: int, page: int) -> str:
    """What the client's record says of a page, if the client still answers."""
    channel.settimeout(2)
    try:
        channel.send(f"page {slot} {page}".encode())
        answer = json.loads(channel.recv(1 << 16))
        if "state" not in answer:
            answer = json.loads(channel.recv(1 << 16))
        return str(answer)
    except (OSError, ValueError):
        return "nothing: the client does not answer"
    finally:
        channel.settimeout(0)


def _wchan(task: int) -> str:
    try:
        return Path(f"/proc/{task}/wchan").read_text()
    except OSError:
        return "no place (it has ended)"
