"""However a program lets go of its memory, it leaves no process, and no view shows a wrong byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.pages import PAGE
from helpers.waiting import wait_for_text, wait_until
from userfault import Policy, UsageError, lazy
from userfault.linux import pidfd

DEMAND = Policy(background=False, retries=1)
SCENES = "pager_live.scenes:"


@pytest.mark.parametrize(("on_exit", "where"), [("complete", "right"), ("poison", "Bad address")])
def test_views_that_outlive_the_block_show_the_source_or_poison(
    image: Path, on_exit: str, where: str
) -> None:
    found = child.run(SCENES + "keeps_views", str(image), on_exit)
    expected = {"right": True, "where": where, "still_mapped": True, "gone": True}
    assert found == {**expected, "pager_gone": True}


def test_an_exception_in_the_block_leaves_no_process(image: Path) -> None:
    mapped = lazy(image, policy=DEMAND)
    pager = os.pidfd_open(mapped.statistics().pager_pid)

    def fails() -> None:
        with mapped:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    assert pidfd.wait(pager, 0)
    os.close(pager)


def test_ctrl_c_leaves_no_process(image: Path, tmp_path: Path) -> None:
    report = tmp_path / "pid"
    client = child.start(SCENES + "interrupted", str(image), str(report))
    pager = os.pidfd_open(int(wait_for_text(report)))
    try:
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=30)
        assert "KeyboardInterrupt" in err
        assert out.split() == [str(64 * PAGE)]
        assert pidfd.wait(pager, 30)
    finally:
        os.close(pager)


def test_dropping_the_object_without_closing_it_leaves_no_process(image: Path) -> None:
    mapped = lazy(image, policy=DEMAND)
    pager = os.pidfd_open(mapped.statistics().pager_pid)
    del mapped
    assert pidfd.wait(pager, 30)
    os.close(pager)


def test_close_twice_is_harmless(image: Path) -> None:
    mapped = lazy(image)
    mapped.close()
    mapped.close()


def test_a_program_that_just_ends_leaves_no_process(image: Path) -> None:
    text = (
        f"import userfault; m = userfault.lazy({str(image)!r})\n"
        "print(*m._parts.pager.processes().values(), m[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(userfault.__file__).parents[1])},
    )
    members = done.stdout.split()[:3]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members))
    assert not done.stderr


def test_prefetch_outside_of_the_memory_is_refused(image: Path) -> None:
    with lazy(image) as mapped:
        for start, stop in ((-1, 5), (5, 5), (0, len(mapped) + 1)):
            with pytest.raises(UsageError, match="prefetch"):
                mapped.prefetch(start, stop)


def test_a_closed_pager_refuses(image: Path) -> None:
    pager = userfault.Pager()
    pager.close()
    with pytest.raises(userfault.PagerError, match="closed"):
        lazy(image, pager=pager)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="on_failure"):
        Policy(on_failure="shrug")
    with pytest.raises(UsageError, match="retries"):
        Policy(retries=-1)
