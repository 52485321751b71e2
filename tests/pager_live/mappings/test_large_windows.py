"""Functions are asked for no more than their answers have room for, whatever a planner chose."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import Policy, function, lazy

PAGES = 2048


@pytest.mark.parametrize("window", [PAGE, 16 * PAGE, 64 * PAGE])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_stream_of_faults_shows_what_the_function_returned(
    window: int, recorded: bool, tmp_path: Path
) -> None:
    policy = Policy(background=False, window_bytes=window, chunk_bytes=window)
    source = function(functions.numbered, PAGES * PAGE)
    place = str(tmp_path / "set") if recorded else ""
    with lazy(source, policy=policy, working_set=place) as mapped:
        for page in range(PAGES):
            assert numbers(mapped[page * PAGE : (page + 1) * PAGE]) == [page + 1]
