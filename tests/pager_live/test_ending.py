"""A client whose pager is killed as a whole ends, whatever signals it hears."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from helpers import child

SCENES = "pager_live.ending_scenes:"


@pytest.mark.parametrize(
    ("how", "when", "ends"),
    [
        ("not", "before", signal.SIGBUS),
        ("ignored", "before", signal.SIGKILL),
        ("blocked", "before", signal.SIGKILL),
        ("ignored", "after", signal.SIGKILL),
        ("blocked", "after", signal.SIGKILL),
        ("ignored", "after, and back", signal.SIGBUS),
        ("blocked", "after, and back", signal.SIGBUS),
    ],
)
def test_a_client_that_does_not_hear_sigbus_is_killed(
    image: Path, how: str, when: str, ends: signal.Signals
) -> None:
    client = child.start(SCENES + "touches_when_all_are_dead", str(image), how, when)
    _, told = client.communicate(timeout=60)
    assert client.returncode == -ends, told
    if how != "ignored":  # who ignores it has taken faulthandler's handler away
        assert ("in touches_when_all_are_dead" in told) == (ends == signal.SIGBUS)


@pytest.mark.parametrize("blocked", [[], [True, True], [True, False], [False]])
def test_a_signal_reaches_a_process_one_of_whose_threads_does_not_block_it(
    blocked: list[bool],
) -> None:
    found = child.run(SCENES + "threads_that_block", blocked)
    assert found == (False in blocked)


def test_a_signal_reaches_nobody_who_ignores_it_or_has_ended() -> None:
    assert child.run(SCENES + "not_to_be_seen") == [None, False, True]
