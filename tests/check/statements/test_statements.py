"""The statements: that they are well formed, and that this kernel and the model keep them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.skips import absent
from helpers.world import PoolLock
from userfault.check import kernels, statements
from userfault.check.live.kernel import live_kernel
from userfault.check.run import run_case
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.check.words.statement import Statement
from userfault.kernel.memtypes import memory_names
from userfault.model.profiles import PROFILES

STATEMENTS = load()
_SWAP = 164  # uses the one list of swap spaces, as tests/linux/test_swapfile.py does
CASES = [
    pytest.param(
        found,
        memory,
        id=f"{found.number}{'-' if memory else ''}{memory}",
        marks=[pytest.mark.xdist_group("swap")] if found.number == _SWAP else [],
    )
    for found in STATEMENTS
    for memory in found.memories or ("",)
]


@pytest.fixture
def pools(request: pytest.FixtureRequest) -> Iterator[None]:
    """The hugetlb pools are ours where a case may change them."""
    found, memory = request.node.callspec.params["found"], request.node.callspec.params["memory"]
    of_pools = found.subject != "huge"  # that is transparent huge pages
    if "huge" not in memory and not (of_pools and "huge" in found.promise.lower()):
        yield
        return
    with PoolLock():
        yield


@pytest.mark.usefixtures("agent", "leaks_nothing", "pools")
@pytest.mark.parametrize(("found", "memory"), CASES)
def test_the_running_kernel_keeps_it(found: Statement, memory: str) -> None:
    result = run_case(found, memory, live_kernel)

    if result.verdict is Verdict.CANNOT_RUN:
        if result.reason.startswith("it is kept "):
            pytest.skip(result.reason)  # nothing is lacking here but time
        absent(result.reason)
    assert result.verdict is Verdict.PASSED, "\n".join((result.reason, *result.trace))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("found", "memory"), CASES)
def test_the_model_keeps_it(found: Statement, memory: str, profile: str) -> None:
    result = run_case(found, memory, kernels.model(profile).make)

    if profile != "next" and result.reason.startswith(("it is kept ", "this kernel lacks")):
        pytest.skip(result.reason)
    if result.reason == "the model has no swap space":
        pytest.skip(result.reason)
    assert result.verdict is Verdict.PASSED, "\n".join((result.reason, *result.trace))


@pytest.mark.parametrize("found", STATEMENTS, ids=lambda found: str(found.number))
def test_it_is_one_sentence_with_a_source(found: Statement) -> None:
    assert found.promise.endswith(".")
    assert ". " not in found.promise
    assert found.source
    assert set(found.memories) <= set(memory_names())


def test_each_file_and_each_folder_is_a_subject() -> None:
    below = Path(next(iter(statements.__path__))).iterdir()
    names = {path.stem.rstrip("_") for path in below if not path.name.startswith("__")}
    assert {found.subject for found in STATEMENTS} == names


def test_each_file_has_statements() -> None:
    files = Path(next(iter(statements.__path__))).rglob("[!_]*.py")
    filled = {Path(inspect.getfile(found.body)) for found in STATEMENTS}
    assert set(files) == filled
