"""`criu restore --lazy-pages`, as whoever serves its pages sees it.

From its description (criu.org, Lazy migration; criu/uffd.c): it connects to `lazy-pages.socket` in
the work folder; each task in turn says its process id in the images (i32; negative: it had ended,
and that is all) and sends its userfaultfd with one byte; at the end the word "RSTF" is said, and
the tasks run.  They hold no userfaultfd themselves: from then on they fork, move and give back
memory, of which the kernel tells by events.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
from typing import NoReturn

import msgspec

from userfault.client import criu_images, talking
from userfault.client.board import SLOTS, Board, Step
from userfault.client.criu_images import PAGE, Run, Task
from userfault.client.expected import Expected
from userfault.client.memory import Image, Region
from userfault.client.results import Result, Said, latency
from userfault.client.touching import Walk, Walker
from userfault.kernel.errors import Unavailable, UserfaultError
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.parent import end_with_parent
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

SOCKET = "lazy-pages.socket"
_FINISHED = struct.pack("=I", 0x52535446)
_EVENTS = Feature.EVENT_FORK | Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP
_BEHIND = 4  # pages behind each area that no image has: zeros
_EARLY = 3  # pages that are touched before the restore is over


class Criu(msgspec.Struct, frozen=True):
    """What is posed.  `fork`, `remap`: whether each task does that on the way."""

    work: str
    images: str
    walk: Walk = Walk()
    fork: bool = True
    remap: bool = True


class Told(msgspec.Struct):
    """What a task leaves behind: what it found, how long its faults took, or what went wrong."""

    result: Result
    durations: list[int]
    error: str = ""


class Restored:
    """The memory of one task, in the process that is that task."""

    def __init__(self, task: Task) -> None:
        self.regions: list[Region] = []
        fd = os.memfd_create("expected")
        for start, end in _areas(task.runs):
            offset = sum(region.size for region in self.regions)
            self.regions.append(Region(start, end - start, offset))
        total = sum(region.size for region in self.regions)
        os.ftruncate(fd, total)
        for region in self.regions:
            flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED_NOREPLACE
            access = mman.PROT_READ | mman.PROT_WRITE
            libc.mmap(region.address, region.size, access, flags, -1, 0)
        with open(task.file, "rb") as pages:
            for run in task.runs:
                content = os.pread(pages.fileno(), run.pages * PAGE, run.content)
                region = next(
                    each for each in self.regions if 0 <= run.address - each.address < each.size
                )
                os.pwrite(fd, content, region.offset + run.address - region.address)
                if not run.is_lazy:
                    libc.write_memory(run.address, content)
        self.image = Image(f"/proc/self/fd/{fd}", PAGE)
        self.expected = Expected(self.image, self.regions, PAGE)

    def hand_over(self, channel: socket.socket, pid: int) -> None:
        """Register it, and say what a task says."""
        with LiveUserfaultfd.open(_EVENTS) as uffd:
            for region in self.regions:
                uffd.register(region.address, region.size, Mode.MISSING)
            channel.sendall(struct.pack("=i", pid))
            socket.send_fds(channel, [b"\0"], [uffd.fileno()])

    def remap(self) -> None:
        """Move the first area."""
        region = self.regions[0]
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        room = libc.mmap(0, region.size, mman.PROT_NONE, flags, -1, 0)
        both = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        libc.mremap(region.address, region.size, region.size, both, room)
        self.regions[0] = Region(room, region.size, region.offset)


class Posing:
    """One task, and the child that it forks."""

    def __init__(self, asked: Criu, task: Task, board: Board, out: int) -> None:
        self._asked = asked
        self._task = task
        self._board = board
        self._out = out
        self._told = Told(Result(), [])

    def live(self, channel: socket.socket, ready: int, go: int) -> NoReturn:
        """All of its life.  `go` ends when the restore is over."""
        try:
            restored = Restored(self._task)
            self._board.begin(0, Step.SEND)
            restored.hand_over(channel, self._task.pid)
            self._board.end(0)
            channel.close()
            for page in range(min(_EARLY, restored.expected.pages)):
                self._board.begin(0, Step.READ, restored.expected.address(page))
                libc.read_memory(restored.expected.address(page), 8)
                self._board.end(0)
            os.write(ready, b"r")
            os.read(go, 1)
            self._runs(restored)
        except (OSError, UserfaultError) as error:
            self._told.error = f"task {self._task.pid}: {error}"
        self._leave(self._out)

    def _runs(self, restored: Restored) -> None:
        walk = self._asked.walk
        quarter = max(restored.expected.pages // 4, 1)
        self._walk(restored, msgspec.structs.replace(walk, pages=quarter, flood=0), self._board)
        if self._asked.remap:
            self._board.begin(0, Step.REMAP, restored.regions[0].address)
            restored.remap()
            self._board.end(0)
        child, out = 0, -1
        if self._asked.fork:
            out = os.memfd_create("forked")
            self._board.begin(0, Step.FORK)
            parent = os.getpid()
            child = os.fork()
            if not child:
                end_with_parent(parent)
                self._told = Told(Result(), [])
                self._walk(restored, msgspec.structs.replace(walk, seed=walk.seed + 1),
                           self._board.part(walk.threads + 1))  # fmt: skip
                self._leave(out)
            self._board.end(0)
        self._walk(restored, walk, self._board)
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                self._told.error = f"a child that task {self._task.pid} forked {_ended(status)}"
            else:
                _add(self._told, _left(out))

    def _walk(self, restored: Restored, walk: Walk, board: Board) -> None:
        walker = Walker(walk, restored.expected, restored.image, board)
        result = walker.run()
        _add(self._told, Told(result, list(walker.durations)))

    def _leave(self, out: int) -> NoReturn:
        os.pwrite(out, msgspec.json.encode(self._told), 0)
        os._exit(0)


def run(asked: Criu, board: Board) -> None:
    """Restore the tree, let it live, and tell."""
    tasks = criu_images.tree(asked.images)
    each = 2 * (asked.walk.threads + 1)
    if len(tasks) * each >= SLOTS:
        raise Unavailable(
            f"{len(tasks)} tasks of {asked.walk.threads} threads",
            cause=f"{SLOTS - 1} are watched at most, those of forked children included",
            cure="ask for fewer threads",
        )
    channel = talking.connect(os.path.join(asked.work, SOCKET), board)
    go, going = os.pipe()
    living: dict[int, tuple[Task, int]] = {}
    for number, task in enumerate(tasks):
        if not task.runs:
            talking.send(channel, struct.pack("=i", -task.pid), [], board)
            continue
        out = os.memfd_create("told")
        posing = Posing(asked, task, board.part(1 + number * each), out)
        living[_started(posing, channel, go, going)] = task, out
    talking.send(channel, _FINISHED, [], board)
    talking.say(Said(stage="sent"))
    channel.close()
    os.close(going)
    talking.say(Said(stage="ended", result=_gathered(living)))


def _started(posing: Posing, channel: socket.socket, go: int, going: int) -> int:
    """Its process, once it has been handed over: the next one's turn comes then."""
    ready, write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        end_with_parent(parent)
        os.close(ready)
        os.close(going)
        posing.live(channel, write, go)
    os.close(write)
    os.read(ready, 1)  # or its end, which is found later
    os.close(ready)
    return pid


def _gathered(living: dict[int, tuple[Task, int]]) -> Result:
    """Of all tasks."""
    whole = Told(Result(), [])
    for pid, (task, out) in living.items():
        _, status = os.waitpid(pid, 0)
        if status:
            _tell_end(f"task {task.pid} {_ended(status)}", status)
        told = _left(out)
        if told.error:
            raise talking.RefusedError(told.error)
        _add(whole, told)
    whole.result.latency = latency(whole.durations)
    return whole.result


def _tell_end(why: str, status: int) -> NoReturn:
    """A task that was ended ends all of it."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
        talking.say(Said(poisoned=why))
        os._exit(0)
    raise talking.RefusedError(why)


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _left(out: int) -> Told:
    return msgspec.json.decode(os.pread(out, os.fstat(out).st_size, 0), type=Told)


def _add(whole: Told, part: Told) -> None:
    for name in ("pages", "touches", "checked", "removed", "written", "by_kernel", "wrong_pages"):
        setattr(whole.result, name, getattr(whole.result, name) + getattr(part.result, name))
    whole.result.wrong = [*whole.result.wrong, *part.result.wrong][:10]
    whole.result.seconds = max(whole.result.seconds, part.result.seconds)
    whole.durations += part.durations
    whole.error = whole.error or part.error


def _areas(runs: tuple[Run, ...]) -> list[tuple[int, int]]:
    """Addresses in a row, and some pages behind each that no image has."""
    found: list[list[int]] = []
    for run in sorted(runs, key=lambda each: each.address):
        end = run.address + (run.pages + _BEHIND) * PAGE
        if found and run.address <= found[-1][1]:
            found[-1][1] = end
        else:
            found.append([run.address, end])
    return [(start, end) for start, end in found]


def main() -> None:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked, board = talking.told(Criu)
    with talking.telling():
        run(asked, board)
    os._exit(0)


if __name__ == "__main__":
    main()
