"""An error of the pager's own costs one mapping, or one request, and never its family."""

from __future__ import annotations

from helpers import child
from helpers.skips import need_features
from userfault.kernel.modes import Feature

SCENES = "pager_live.serving.losing_scenes:"


def test_an_error_costs_one_mapping_whatever_process_serves_it() -> None:
    need_features(Feature.POISON)
    first, failed, sound, told, later, rest, again, takeovers, new = child.run(
        f"{SCENES}states_that_make_no_sense"
    )
    assert (first, failed) == ([1], [True, False, True])  # what was there is there still
    assert (sound, rest, new) == ([1, 2, 3, 4], [5, 6, 7, 8], [3])
    assert later == [True, False, True]
    assert told.startswith("an error in the pager: ")
    assert again == told
    assert takeovers == 1  # the one that was killed


def test_the_memory_of_forked_children_is_lost_with_it() -> None:
    need_features(Feature.POISON)
    own, (before, after), takeovers = child.run(f"{SCENES}a_childs_memory_is_lost_with_its_parents")
    assert own
    assert after == 1
    assert before in (0, 1)  # right, or poisoned
    assert takeovers == 0
