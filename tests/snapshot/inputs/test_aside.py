"""A process is stopped while its pages are copied, and runs on while they are packed."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from snapshot.dumps import runs
from snapshot.inputs.test_process import at, told, wait_for
from snapshot.target import PAGES, TOUCHED, Target
from userfault.kernel.errors import SourceError
from userfault.snapshot.inputs.aside import Aside
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.inputs.protocol import PAGE, Holds, Run


@pytest.mark.parametrize("kind", ["private", "shared", "memfd", "copied", "file", "hidden"])
def test_a_copy_aside_is_what_would_be_read_and_the_process_runs_on(
    tmp_path: Path, kind: str
) -> None:
    with (
        Target(tmp_path, kind) as target,
        contextlib.closing(ProcessInput(target.pid, aside=True)) as copy,
    ):
        wait_for(lambda: target.state == "S")
        assert copy.stopped_s > 0
        with contextlib.closing(ProcessInput(target.pid)) as pages:
            first = at(pages, target.at[kind])
            assert first == at(copy, target.at[kind])
            assert told(copy, target.at[kind], Holds.DATA) == told(
                pages, target.at[kind], Holds.DATA
            )
            for run in runs(pages):
                if run.holds is Holds.DATA and first <= run.first < first + PAGES:
                    assert bytes(copy.read(run.first, run.pages)) == bytes(
                        pages.read(run.first, run.pages)
                    )
        copy.finish()


def test_where_there_is_no_memory_for_a_copy_the_process_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userfault.snapshot.inputs.process.room_for", lambda _: False)
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid, aside=True)) as pages,
    ):
        assert target.state == "T"
        assert told(pages, target.at["private"], Holds.DATA) == list(TOUCHED)
        pages.finish()
        wait_for(lambda: target.state == "S")


def test_more_than_the_room_that_was_made_is_read_while_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grew between the look at it and its stop."""
    monkeypatch.setattr("userfault.snapshot.inputs.process.Aside", lambda _: Aside(1))
    with (
        Target(tmp_path, "private") as target,
        contextlib.closing(ProcessInput(target.pid, aside=True)) as pages,
    ):
        assert target.state == "T"
        assert told(pages, target.at["private"], Holds.DATA) == list(TOUCHED)


def test_several_threads_copy_each_page_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    image = [Run(0, 9000, Holds.DATA), Run(9000, 5, Holds.HOLE), Run(9005, 4000, Holds.DATA)]
    threads = set()

    def read(first: int, target: memoryview) -> None:
        threads.add(threading.get_ident())
        for number in range(len(target) // PAGE):
            target[number * PAGE : number * PAGE + 8] = (first + number).to_bytes(8, "little")

    with contextlib.closing(Aside(13_000)) as copy:
        assert copy.fill(image, read)
        assert threading.get_ident() not in threads
        page = bytearray(PAGE)
        for number in (*range(0, 9000, 7), *range(9005, 13_005, 7)):
            copy.read_into(number, memoryview(page))
            assert int.from_bytes(page[:8], "little") == number

    def fails(first: int, _: memoryview) -> None:
        if first > 8000:
            raise SourceError("gone")

    with contextlib.closing(Aside(13_000)) as copy, pytest.raises(SourceError, match="gone"):
        copy.fill(image, fails)
