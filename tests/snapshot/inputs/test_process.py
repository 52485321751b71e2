"""Live processes as inputs: what is there is read, and the process runs on whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cli.commands import environment
from helpers import child
from helpers.skips import absent, need_root
from snapshot.dumps import runs
from snapshot.target import PAGE, PAGES, TOUCHED, Target, content
from userfault.kernel.errors import SourceError, Unavailable, UsageError
from userfault.linux import maps
from userfault.linux.pagemap import Pagemap
from userfault.linux.present import Present, from_words, present
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.inputs.protocol import Holds

HOLE_PAGES = [number for number in range(PAGES) if number not in TOUCHED]


def at(pages: ProcessInput, address: int) -> int:
    """The page of the image that has an address."""
    for region in pages.regions:
        if region.start <= address < region.start + region.length:
            return (region.offset + address - region.start) // PAGE
    raise AssertionError(f"{address:#x} is in no region")


def holds(pages: ProcessInput, address: int) -> list[Holds]:
    """What each page of a mapping of the target is said to hold."""
    first = at(pages, address)
    found: list[Holds] = []
    for run in runs(pages):
        low, high = max(run.first, first), min(run.first + run.pages, first + PAGES)
        found += [run.holds] * (high - low)
    return found


def told(pages: ProcessInput, address: int, holding: Holds) -> list[int]:
    """The pages of a mapping that hold something."""
    return [n for n, each in enumerate(holds(pages, address)) if each is holding]


@pytest.mark.parametrize(
    "kind", ["private", "shared", "memfd", "copied", "file", "guarded", "hidden"]
)
def test_touched_pages_are_read_and_others_are_holes(tmp_path: Path, kind: str) -> None:
    with (
        Target(tmp_path, kind) as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        data = told(pages, target.at[kind], Holds.DATA)
        # Reading a file may have brought in the pages around; all else is touched alone.
        assert set(data) >= set(TOUCHED) if kind == "file" else data == list(TOUCHED)
        assert set(told(pages, target.at[kind], Holds.HOLE)) <= set(HOLE_PAGES)
        first = at(pages, target.at[kind])
        for number in TOUCHED:
            expected = content(kind, number)
            assert bytes(pages.read(first + number, 1))[: len(expected)] == expected
        pages.finish()
        assert pages.warnings == []


def test_one_read_goes_over_regions(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "private", "shared") as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        total = pages.length // PAGE
        everything = b"".join(bytes(pages.read(n, min(7, total - n))) for n in range(0, total, 7))
        for kind in ("private", "shared"):
            start = (at(pages, target.at[kind]) + 9) * PAGE
            assert everything[start : start + 20].startswith(content(kind, 9))


def test_pages_that_were_only_read_are_zero(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "read") as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        assert told(pages, target.at["read"], Holds.ZERO) == list(TOUCHED)


def test_what_lies_behind_the_end_of_a_file_is_a_hole(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "cut") as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        assert not [n for n in told(pages, target.at["cut"], Holds.DATA) if n >= 2]
        pages.finish()
        assert pages.warnings == []


def test_looking_adds_no_page_to_the_process(tmp_path: Path) -> None:
    def mapped() -> int:
        with Pagemap(target.pid) as pagemap:
            return sum(
                entry.present
                for kind in ("anon", "memfd")
                for entry in pagemap.entries(target.at[kind], PAGES)
            )

    with Target(tmp_path, "anon", "memfd") as target:
        assert mapped() == 0
        with contextlib.closing(ProcessInput(target.pid)) as pages:
            for run in runs(pages):
                if run.holds is Holds.DATA:
                    pages.read(run.first, run.pages)
            assert told(pages, target.at["memfd"], Holds.DATA) == list(TOUCHED)
        assert mapped() == 0


def test_it_is_stopped_and_runs_on_at_the_end(tmp_path: Path) -> None:
    with Target(tmp_path, "private") as target:
        pages = ProcessInput(target.pid)
        assert target.state == "T"
        about = pages.finish()
        wait_for(lambda: target.state == "S")
        pages.close()
        assert about["pid"] == str(target.pid)
        assert about["command"].startswith("python")
        assert len(bytes.fromhex(about["auxv"])) % 16 == 0


def test_it_runs_on_when_the_work_is_given_up(tmp_path: Path, leaks_nothing: None) -> None:
    del leaks_nothing
    with Target(tmp_path, "private") as target:
        pages = ProcessInput(target.pid)
        pages.read(0, 1)
        pages.close()
        wait_for(lambda: target.state == "S")
        pages.close()


def test_registers_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid, registers=True)) as pages,
    ):
        assert len(pages.finish()[f"registers {target.pid}"]) >= 2 * 8 * 27
        wait_for(lambda: target.state == "S")


def test_running_processes_are_left_running(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid, running=True)) as pages,
    ):
        assert target.state != "T"
        assert told(pages, target.at["private"], Holds.DATA) == list(TOUCHED)
        pages.finish()


def test_a_process_that_was_stopped_before_stays_so(tmp_path: Path) -> None:
    with Target(tmp_path, "private") as target:
        os.kill(target.pid, signal.SIGSTOP)
        wait_for(lambda: target.state == "T")
        with contextlib.closing(ProcessInput(target.pid)) as pages:
            pages.finish()
        time.sleep(0.05)
        assert target.state == "T"


def test_a_process_that_somebody_let_run_meanwhile_is_an_error(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        os.kill(target.pid, signal.SIGCONT)
        wait_for(lambda: target.state == "S")
        with pytest.raises(SourceError, match="ran while its memory was read"):
            pages.finish()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_runs_on_when_whoever_stopped_it_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = (
        "import sys, time\n"
        "from userfault.snapshot.inputs.process import ProcessInput\n"
        "pages = ProcessInput(int(sys.argv[1]))\n"
        "print('stopped', flush=True)\n"
        "time.sleep(60)\n"
    )
    with Target(tmp_path, "private") as target:
        packer = subprocess.Popen(
            [sys.executable, "-c", code, str(target.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        assert packer.stdout is not None
        assert packer.stdout.readline() == b"stopped\n"
        assert target.state == "T"
        packer.send_signal(number)
        packer.communicate()
        wait_for(lambda: target.state == "S")


def test_a_process_that_ends_meanwhile_is_an_error(tmp_path: Path, leaks_nothing: None) -> None:
    del leaks_nothing
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid)) as pages,
    ):
        target.process.kill()
        target.process.wait()
        with pytest.raises(SourceError, match="ended while its memory was read"):
            pages.read(at(pages, target.at["private"]), 1)


def test_what_is_no_process_to_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this very process"):
        ProcessInput(os.getpid())
    with Target(tmp_path) as target:
        gone = target.pid
    with pytest.raises(UsageError, match=f"there is no process {gone}"):
        ProcessInput(gone)
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(UsageError, match="zombie"):
        ProcessInput(zombie.pid)
    zombie.wait()


_LEADERLESS = """
import ctypes, mmap, os, threading, time
memory = mmap.mmap(-1, 4096 * 50, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"still here" * (len(memory) // 10)

def stay():
    while open(f"/proc/{os.getpid()}/stat", "rb").read().rpartition(b") ")[2][:1] != b"Z":
        time.sleep(0.001)
    print("ready", flush=True)
    time.sleep(600)

threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)  # exit(2): one thread
"""


@pytest.mark.parametrize("running", [False, True])
def test_a_process_whose_first_thread_has_ended_is_read(running: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", _LEADERLESS], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with contextlib.closing(
                ProcessInput(process.pid, running=running, registers=True)
            ) as pages:
                found = b"".join(
                    bytes(pages.read(run.first + at, 1))
                    for run in runs(pages)
                    if run.holds is Holds.DATA
                    for at in range(run.pages)
                )
                about = pages.finish()
            assert b"still here" * 2000 in found
            assert about["auxv"]
            assert pages.warnings == []
            [other] = [
                each for each in os.listdir(f"/proc/{process.pid}/task") if each != str(process.pid)
            ]
            assert (f"registers {other}" in about) == (not running)
            wait_for(lambda: Path(f"/proc/{other}/stat").read_text().rpartition(") ")[2][0] == "S")
        finally:
            process.kill()


def test_a_thread_is_refused_with_the_name_of_its_process() -> None:
    started, end = threading.Event(), threading.Event()
    numbers: list[int] = []

    def run() -> None:
        numbers.append(threading.get_native_id())
        started.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        with pytest.raises(UsageError, match=f"thread of process {os.getpid()}"):
            ProcessInput(numbers[0])
    finally:
        end.set()
        thread.join()


def test_a_thread_of_the_kernel_is_refused() -> None:
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and b"kthreadd" in Path(f"/proc/{name}/comm").read_bytes():
                with pytest.raises(UsageError, match="thread of the kernel"):
                    ProcessInput(int(name))
                return
    absent("no kernel threads are to be seen here")


def refused(pid: int) -> list[str]:
    """As nobody."""
    child.become_nobody()
    try:
        ProcessInput(pid)
    except Unavailable as error:
        return [error.what, error.cause, error.cure]
    return []


def test_without_permission_the_reason_and_the_cure_are_told(tmp_path: Path) -> None:
    need_root()
    with Target(tmp_path, "private") as target:
        what, cause, cure = child.run("snapshot.inputs.test_process:refused", target.pid)
        assert what == f"may not read the memory of process {target.pid}"
        assert "belongs to user 0" in cause
        assert "as root" in cure
        assert target.state != "T"


def seen_as_nobody() -> list[object]:
    """What nobody, who may not use /proc/PID/map_files, sees of shared memory of a child."""
    child.become_nobody()
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: changing the user has cleared it
        fd = os.memfd_create("open")
        os.ftruncate(fd, PAGES * PAGE)
        os.pwrite(fd, b"by write", PAGE)
        opened = mmap.mmap(fd, PAGES * PAGE)  # untouched, but its file can be found
        unnamed = mmap.mmap(-1, PAGES * PAGE)
        unnamed[2 * PAGE] = 1
        addresses = [ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in (opened, unnamed)]
        os.write(tell, struct.pack("2Q", *addresses))
        signal.pause()
    try:
        addresses = list(struct.unpack("2Q", os.read(ready, 16)))
        with contextlib.closing(ProcessInput(pid, running=True)) as pages:
            data = [told(pages, address, Holds.DATA) for address in addresses]
            pages.finish()
            return [data, list(pages.warnings)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_an_ordinary_user_cannot_see_of_shared_memory_is_told() -> None:
    need_root()
    data, warnings = child.run("snapshot.inputs.test_process:seen_as_nobody")
    assert data == [[1], [2]]
    assert len(warnings) == 1
    assert warnings[0].startswith("of the shared memory /dev/zero (deleted) only the pages")
    assert warnings[0].endswith("run as root to have them all")


def test_missing_pages_of_a_userfaultfd_are_refused_or_holes_and_nobody_waits() -> None:
    code = (
        "import sys\n"
        "from userfault.kernel.memtypes import memory\n"
        "from userfault.kernel.modes import Mode\n"
        "from userfault.linux.process import LiveKernel\n"
        "process = LiveKernel().process()\n"
        "mapping = process.map(memory('anon'), 16 * 4096)\n"
        "uffd = process.userfaultfd()\n"
        "uffd.register(mapping.address, 16 * 4096, Mode.MISSING)\n"
        "uffd.zeropage(mapping.address + 3 * 4096, 4096)\n"
        "print(mapping.address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    need_root()
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert server.stdout is not None
    try:
        address = int(server.stdout.readline())
        with pytest.raises(SourceError, match="not complete: 15 pages are missing"):
            ProcessInput(server.pid)
        with contextlib.closing(ProcessInput(server.pid, missing_are_holes=True)) as pages:
            assert holds(pages, address).count(Holds.HOLE) == PAGES - 1
            first = at(pages, address)
            assert bytes(pages.read(first, PAGES)) == bytes(PAGES * PAGE)
            pages.finish()
            assert "could not be read" in pages.warnings[0]
    finally:
        server.communicate()


def test_both_ways_of_seeing_pages_agree(tmp_path: Path) -> None:
    with Target(tmp_path, "private", "file", "guarded", "read") as target:
        os.kill(target.pid, signal.SIGSTOP)
        wait_for(lambda: target.state == "T")
        with Pagemap(target.pid) as pagemap:
            for mapping in maps.mappings(target.pid):
                if mapping.name.startswith("[v"):
                    continue
                scanned = _pages(present(pagemap, mapping.start, mapping.end))
                assert scanned == _pages(from_words(pagemap, mapping.start, mapping.end)), mapping


def _pages(found: Iterable[Present]) -> set[int]:
    return {address for each in found for address in range(each.start, each.end, PAGE)}


def wait_for(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)
