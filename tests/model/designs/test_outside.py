"""A type from outside of the core keeps the statements of shmem in each design that takes it."""

from __future__ import annotations

import errno

import pytest

from model.designs.outside import NAME, OUTSIDE
from model.designs.rows import ROWS
from userfault.check.run import run_case
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.kernel.errors import KernelError, RegistrationRefused
from userfault.kernel.modes import Mode
from userfault.model.faces.calls import ModelCalls
from userfault.model.faces.kernel import ModelKernel
from userfault.model.profiles import NEXT, Config

PAGE = 4096
PROMISED = [found for found in load() if "shmem" in found.memories]
SERVED = ["uffd_copy", "per_operation", "closed_choice", "merged"]


@pytest.mark.parametrize("design", SERVED)
def test_it_keeps_the_statements_of_shmem(design: str) -> None:
    config = Config(design=design)
    failed = {}
    for found in PROMISED:
        result = run_case(
            found,
            "shmem",
            lambda: ModelCalls(NEXT, config, types=[OUTSIDE], memfd=NAME, checking=True),
        )
        if result.verdict is not Verdict.PASSED:
            failed[found.number] = result.reason

    assert set(failed) == {number for number, memory in ROWS[design] if memory == "shmem"}, failed


def test_before_the_series_it_cannot_be_served() -> None:
    kernel = ModelKernel(NEXT, Config(design="hardcoded"), types=[OUTSIDE])
    process = kernel.process()
    area = process.map_type(NAME, PAGE)
    uffd = process.userfaultfd()
    for mode in (Mode.MISSING, Mode.WP, Mode.MINOR):
        with pytest.raises(RegistrationRefused):
            uffd.register(area.address, area.length, mode)


def test_with_a_lookup_alone_it_has_continue_and_not_copy() -> None:
    kernel = ModelKernel(NEXT, Config(design="get_folio_only"), types=[OUTSIDE])
    process = kernel.process()
    area = process.map_type(NAME, 2 * PAGE)
    assert area.backing is not None
    area.backing.write(0, b"cached")
    uffd = process.userfaultfd()
    with pytest.raises(RegistrationRefused):
        uffd.register(area.address, area.length, Mode.MISSING)
    ioctls = uffd.register(area.address, area.length, Mode.MINOR)
    assert [each.name for each in ioctls] == ["WAKE", "CONTINUE"]
    touch = process.task().read(area.address, 6)
    kernel.settle()

    assert uffd.continue_(area.address, PAGE) == PAGE
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address + PAGE, b"x" * PAGE, PAGE)

    assert caught.value.errno == errno.EINVAL
    assert touch.result().data == b"cached"
    kernel.check()
