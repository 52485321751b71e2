"""Properties of the decision core, under random programs on the simulated kernel.

After every step the pages' count is recounted, and every access is judged when it is made; at the
end of a program everything must come to rest, with nobody waiting, every page showing what it
must, and the finish said once.  USERFAULT_EXAMPLES=N runs N examples of each property.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pager_core.planted import BUGS, Bug
from pager_core.planted_takeovers import TAKEOVERS
from pager_core.programs import THEMES, Step, drawn, failure, minimal, random_case
from pager_core.simparts import KINDS, Kind
from pager_core.simstate import Config

EXAMPLES = int(os.environ.get("USERFAULT_EXAMPLES", "0"))
SEEDED = 2000  # programs a theme that are run from seeds


def examined(config: Config, program: list[Step]) -> None:
    """Fail with the smallest program that goes wrong in the same way."""
    wrong = failure(config, program)
    if wrong:
        steps = "\n".join(f"    {tuple(step)}," for step in minimal(config, program))
        pytest.fail(f"{wrong}\nwith {config}\nin\n{steps}", pytrace=False)


@st.composite
def configs(draw: st.DrawFn, kind: Kind) -> Config:
    """Any mapping of this memory type, with any policy."""
    pages = draw(st.integers(1, 10))
    prepared = kind.file and not kind.ambiguous and draw(st.booleans())
    return Config(
        kind=kind,
        pages=pages,
        origin="file" if prepared else draw(st.sampled_from(("file", "function", "zero", "known"))),
        prepared=prepared,
        background=draw(st.booleans()),
        retries=draw(st.integers(0, 2)),
        window=draw(st.sampled_from((1, 2, 4, 8))),
        chunk=draw(st.sampled_from((1, 3, 5))),
        fetches=draw(st.integers(1, 3)),
        has_poison=draw(st.sampled_from((True, True, True, False))),
        on_failure=draw(st.sampled_from(("poison", "poison", "poison", "kill"))),
        fault_deadline=draw(st.sampled_from((None, 0.01, 0.5, 2.0))),
        on_overdue=draw(st.sampled_from(("report", "poison", "poison", "kill"))),
        bad=frozenset(draw(st.lists(st.integers(0, pages - 1), max_size=2))),
    )


def programs(theme: str) -> st.SearchStrategy[list[Step]]:
    """Programs of one theme."""
    number = st.integers(0, 63)
    return st.lists(
        st.builds(Step, st.sampled_from(drawn(theme)), number, number), min_size=10, max_size=60
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(
    max_examples=EXAMPLES or 200,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_no_wrong_byte_and_no_thread_lost(kind: Kind, data: st.DataObject) -> None:
    theme = data.draw(st.sampled_from(sorted(THEMES)))
    examined(data.draw(configs(kind)), data.draw(programs(theme)))


@pytest.mark.parametrize("theme", THEMES)
def test_no_wrong_byte_and_no_thread_lost_in_seeded_programs(theme: str) -> None:
    for seed in range(EXAMPLES or SEEDED):
        examined(*random_case(seed, theme))


@pytest.mark.parametrize("bug", [*BUGS, *TAKEOVERS], ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    assert any(failure(*random_case(seed, bug.theme)) for seed in range(bug.examples))
