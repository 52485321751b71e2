"""A memory type that breaks its contract is caught by name, and the address space stays sound."""

from __future__ import annotations

import pytest

from model.memtypes.breaches import ADDS, ALLOCS, KERNEL, LOOKUPS, types
from userfault.kernel.modes import Mode
from userfault.model.errors import ContractBreach
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import ModelKernel, ModelMapping

PAGE = 4096


def world(kind: str) -> tuple[ModelKernel, ModelMapping, ModelUserfaultfd]:
    """Two cached pages of the type, registered, none of them mapped; a third index is empty."""
    kernel = ModelKernel(types=types())
    KERNEL[:] = [kernel.machine]
    process = kernel.process()
    area = process.map_type(kind, 4 * PAGE)
    assert area.backing is not None
    area.backing.write(0, b"x" * 2 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING | Mode.MINOR)
    kernel.check()
    return kernel, area, uffd


@pytest.mark.parametrize("kind", LOOKUPS)
def test_a_bad_lookup_is_caught_and_leaves_nothing(kind: str) -> None:
    kernel, area, uffd = world(kind)
    with pytest.raises(ContractBreach, match="get_folio_noalloc") as caught:
        uffd.continue_(area.address, PAGE)
    assert caught.value.kind == kind
    assert LOOKUPS[kind][1] in caught.value.rule
    if kind == "beyond-the-end":  # the type has shortened its own file: undo what it did to it
        area.backing.truncate(4 * PAGE)  # type: ignore[union-attr]
    kernel.check()


@pytest.mark.parametrize("kind", ADDS)
def test_a_bad_insertion_is_caught_and_undone(kind: str) -> None:
    kernel, area, uffd = world(kind)
    with pytest.raises(ContractBreach, match="filemap_add") as caught:
        uffd.copy(area.address + 3 * PAGE, b"y" * PAGE, PAGE)
    assert caught.value.kind == kind
    assert ADDS[kind][1] in caught.value.rule
    kernel.check()


@pytest.mark.parametrize("kind", ALLOCS)
def test_a_bad_allocation_is_caught(kind: str) -> None:
    kernel, area, uffd = world(kind)
    with pytest.raises(ContractBreach, match="alloc_folio") as caught:
        uffd.copy(area.address + 3 * PAGE, b"y" * PAGE, PAGE)
    assert ALLOCS[kind][1] in caught.value.rule
    kernel.check()


def test_after_a_breach_the_memory_still_works() -> None:
    kernel, area, uffd = world("unlocked")
    with pytest.raises(ContractBreach):
        uffd.continue_(area.address, PAGE)
    assert uffd.copy(area.address + 3 * PAGE, b"y" * PAGE, PAGE) == PAGE
    kernel.check()
