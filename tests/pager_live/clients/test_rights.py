"""A pager never does for a client what the client may not do itself, nor lets others ask.

Each scene runs in a process of its own, as root, and gives something up for good.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import child
from helpers.pages import pages
from helpers.skips import need_root
from helpers.stores import store
from pager_live.clients import rights_scenes

SCENES = "pager_live.clients.rights_scenes:"
SAYS = {
    "user": "runs as user 65534, the pager as user 0",
    "group": "runs as group 65534, the pager as group 0",
    "groups": "has left the groups 1, 2",
    "capabilities": "has dropped capabilities",
    "root directory": "has another root directory",
    "no_new_privs": "has set no_new_privs",
    "seccomp": "no_new_privs",  # which a filter needs, or CAP_SYS_ADMIN
    "network": "is in another net namespace",
}


@pytest.fixture(autouse=True)
def as_root() -> None:
    need_root()


@pytest.mark.parametrize("drop", rights_scenes.DROPS)
def test_who_drops_rights_for_good_cannot_have_them_used_by_a_pager(
    drop: str, tmp_path: Path
) -> None:
    path = store(tmp_path / "store", "one", pages(1, 4))
    (called, opened, replaced), served = child.run(f"{SCENES}after_dropping", drop, str(path))
    assert called.startswith("the pager does not call functions for a process with fewer rights")
    assert opened.startswith("the pager does not open stores for")
    assert replaced.startswith("the pager does not start processes for")
    for told in (called, opened, replaced):
        assert SAYS[drop] in told
        assert "make a new Pager()" in told
    assert served == [2, 2, 7, 8]


def test_a_pager_made_afterwards_has_the_rights_that_are_left() -> None:
    assert child.run(f"{SCENES}a_pager_of_its_own") == [1, 2]


def test_rights_that_can_be_had_back_are_not_lost() -> None:
    assert child.run(f"{SCENES}for_a_while") == [1, 2]


def test_a_forked_child_asks_its_parents_pager_in_vain() -> None:
    told, seen = child.run(f"{SCENES}from_a_child")
    assert told == "the pager serves another process"
    assert seen == [1, 2, 3, 4]


def test_the_kernel_vouches_for_the_sender() -> None:
    assert child.run(f"{SCENES}claims_to_be_root") == "refused"
