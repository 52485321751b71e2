"""The list of mutations is sound, and a few of them are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

import userfault
from helpers.skips import absent
from mutants.hunt import hunt
from mutants.mutations import MUTATIONS, QUICK
from userfault.check.live.agent.build import NoAgent, agent_path


def test_every_mutation_is_one_place_of_the_model() -> None:
    assert len(MUTATIONS) >= 25
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        text = Path(userfault.__file__).parent.joinpath("model", mutation.file).read_text()
        assert text.count(mutation.before) == 1, mutation.name
        compile(text.replace(mutation.before, mutation.after), mutation.file, "exec")


@pytest.mark.usefixtures("pool_lock")
@pytest.mark.parametrize("name", QUICK)
def test_it_is_caught(name: str) -> None:
    try:
        agent_path()
    except NoAgent as error:
        absent(str(error))
    mutation = next(one for one in MUTATIONS if one.name == name)
    assert hunt(mutation, 300).caught
