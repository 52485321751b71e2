"""A process is stopped while its pages are copied, and runs on while they are packed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from snapshot.dumps import runs
from snapshot.inputs.test_process import at, told, wait_for
from snapshot.target import PAGES, TOUCHED, Target
from userfault.snapshot.inputs.aside import Aside
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.inputs.protocol import Holds


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
