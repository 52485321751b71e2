"""Packing and reading back: the same bytes, stored once, whatever the pages are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.folders import in_memory
from snapshot.images import BASE, HOLE, ZERO, Page, Pages, content, read_image
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchSnapshot, SnapshotInUse, StoreError
from userfault.snapshot.format.index import PAGE_DIGEST
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.dedupe import PageTable
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.keys import CHUNKS, INDEX, LEASES, SNAPSHOTS
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.squash import squash
from userfault.snapshot.upkeep.verify import verify

SMALL = 4 * PAGE  # chunks of four pages: many in a small image


def unique(seed: int) -> bytes:
    """A page that nothing compresses and no other seed makes."""
    return random.Random(seed).randbytes(PAGE)


def text(seed: int) -> bytes:
    """A page that compresses."""
    return (f"page {seed} " * PAGE).encode()[:PAGE]


def word(value: int) -> bytes:
    return value.to_bytes(8, "little") * (PAGE // 8)


pages_strategy = st.lists(
    st.one_of(
        st.sampled_from([ZERO, HOLE, bytes(PAGE)]),
        st.integers(0, 5).map(word),
        st.integers(0, 9).map(unique),
        st.integers(0, 9).map(text),
    ),
    max_size=40,
)
relaxed = settings(deadline=None, max_examples=150)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def keys(store: LocalObjects, prefix: str) -> set[str]:
    return {listed.key for listed in store.list(prefix)}


def bytes_of(pages: list[Page], below: bytes = b"", cut: int = 0) -> bytes:
    """What an image of these pages reads as, on a base that reads as `below`."""
    parts = []
    for number, page in enumerate(pages):
        under = below[number * PAGE : (number + 1) * PAGE].ljust(PAGE, b"\0")
        parts.append(under if page is BASE else content(page))
    whole = b"".join(parts)
    return whole[: len(whole) - cut]


def test_every_kind_of_page_is_told_apart_and_only_new_ones_are_stored(
    store: LocalObjects,
) -> None:
    given: list[Page] = [
        ZERO,
        HOLE,
        bytes(PAGE),
        word(7),
        unique(1),
        unique(2),
        unique(1),
        text(1),
        word(7),
    ]
    made = pack(store, "a", Pages(given))
    assert (made.zero, made.hole, made.word, made.duplicate, made.stored) == (2, 1, 2, 1, 3)
    assert made.shared == made.parent == 0
    assert made.pages == made.zero + made.hole + made.word + made.duplicate + made.stored
    kinds = [(extent.count, extent.kind) for extent in open_image(store, "a").extents(0, 9)]
    assert kinds == [
        (1, Kind.ZERO),
        (1, Kind.HOLE),
        (1, Kind.ZERO),
        (1, Kind.WORD),
        (2, Kind.CHUNK),
        (1, Kind.CHUNK),
        (1, Kind.CHUNK),
        (1, Kind.WORD),
    ]
    assert read_image(store, "a") == bytes_of(given)
    assert not keys(store, LEASES)


@relaxed
@given(
    layers=st.lists(pages_strategy, min_size=1, max_size=4),
    size=st.integers(1, 8),
    cut=st.integers(0, PAGE - 1),
    memory=st.sampled_from([None, 0, 60_000]),
    keep_index=st.booleans(),
    data=st.data(),
)
def test_layers_squash_and_gc_keep_every_byte(
    layers: list[list[Page]],
    size: int,
    cut: int,
    memory: int | None,
    keep_index: bool,
    data: st.DataObject,
) -> None:
    with in_memory() as folder:
        _layers_squash_and_gc(LocalObjects(folder), layers, size, cut, memory, keep_index, data)


def _layers_squash_and_gc(
    store: LocalObjects,
    layers: list[list[Page]],
    size: int,
    cut: int,
    memory: int | None,
    keep_index: bool,
    data: st.DataObject,
) -> None:
    base, below = None, b""
    wanted: dict[str, bytes] = {}
    for number, pages in enumerate(layers):
        mixed: list[Page] = list(pages)
        if base is not None:
            places = data.draw(st.sets(st.integers(0, 39), max_size=8))
            mixed = [BASE if at in places else page for at, page in enumerate(mixed)]
        its_cut = min(cut, PAGE * len(mixed))
        order = data.draw(st.lists(st.integers(0, max(0, len(mixed) - 1)), max_size=5))
        name = f"layer-{number}"
        made = pack(
            store,
            name,
            Pages(mixed, cut=its_cut),
            base=base,
            chunk_size=size * PAGE,
            dedupe_memory=memory,
            order=order if mixed else None,
            threads=2,
        )
        counted = made.zero + made.hole + made.word + made.duplicate + made.shared
        assert counted + made.parent + made.stored == made.pages
        below = bytes_of(mixed, below, its_cut)
        base, wanted[name] = name, below
        if not keep_index:
            store.delete(keys(store, INDEX))
    for name, image in wanted.items():
        assert read_image(store, name) == image
    assert verify(store).sound
    last = f"layer-{len(layers) - 1}"
    squash(store, last, "flat")
    squash(store, last)
    assert len(open_image(store, last).layers) == len(open_image(store, "flat").layers) == 1
    for number in reversed(range(len(layers) - 1)):
        remove(store, f"layer-{number}")
    assert gc(store, grace_s=0).kept_young == 0
    assert read_image(store, last) == read_image(store, "flat") == wanted[last]
    remove(store, last)
    remove(store, "flat")
    gc(store, grace_s=0)
    assert not keys(store, "")


def test_a_page_of_another_snapshot_is_shared_wherever_it_lies(store: LocalObjects) -> None:
    first = [unique(n) for n in range(12)]
    pack(store, "a", Pages(first), chunk_size=SMALL)
    made = pack(store, "b", Pages([*reversed(first), unique(99)]), chunk_size=SMALL)
    assert (made.shared, made.stored) == (12, 1)
    assert read_image(store, "b") == bytes_of([*reversed(first), unique(99)])


def test_a_layer_stores_what_changed_and_refers_to_the_rest(store: LocalObjects) -> None:
    pages: list[Page] = [unique(n) for n in range(32)]
    pack(store, "a", Pages(pages), chunk_size=SMALL)
    pages[5], pages[9] = unique(100), ZERO
    made = pack(store, "b", Pages(pages), base="a", chunk_size=SMALL)
    assert (made.parent, made.stored, made.zero) == (30, 1, 1)
    assert len(open_image(store, "b").manifest.chunks) == 1
    assert read_image(store, "b") == bytes_of(pages)


def test_a_layer_on_a_layer_knows_a_chunk_of_both_as_one(store: LocalObjects) -> None:
    pages: list[Page] = [unique(n) for n in range(16)]
    pack(store, "a", Pages(pages), chunk_size=SMALL)
    moved = [*pages[:12], ZERO, *pages[12:]]
    pack(store, "b", Pages(moved), base="a", chunk_size=SMALL)
    made = pack(store, "c", Pages(moved), base="b", chunk_size=SMALL)
    assert (made.parent, made.shared, made.stored) == (17, 0, 0)
    image = open_image(store, "c")
    used = {(image.chunks.digest(e.chunk), e.chunk) for e in image.extents(0, 17) if e.kind == 4}
    assert len(used) == 4
    assert read_image(store, "c") == bytes_of(moved)


@pytest.mark.parametrize("memory", [None, 0, 50_000])
def test_a_layer_finds_what_did_not_change_without_an_index_or_memory(
    store: LocalObjects, memory: int | None
) -> None:
    pages: list[Page] = [unique(n) for n in range(64)]
    pack(store, "a", Pages(pages), chunk_size=SMALL)
    store.delete(keys(store, INDEX))
    made = pack(store, "b", Pages(pages), base="a", chunk_size=SMALL, dedupe_memory=memory)
    assert (made.parent, made.stored) == (64, 0)


def test_an_index_that_is_damaged_costs_sharing_and_gc_removes_it(store: LocalObjects) -> None:
    pages = [unique(n) for n in range(8)]
    pack(store, "a", Pages(pages))
    (key,) = keys(store, INDEX)
    store.put(key, store.get(key)[:-1] + b"x")
    assert not verify(store).sound
    made = pack(store, "b", Pages(pages))
    assert (made.shared, made.stored) == (0, 8)
    assert gc(store).index_pieces == 1
    assert verify(store).sound
    assert pack(store, "c", Pages(pages)).shared == 8


def test_a_chunk_that_is_gone_is_never_referred_to(store: LocalObjects) -> None:
    pages = [unique(n) for n in range(8)]
    pack(store, "a", Pages(pages))
    store.delete(keys(store, CHUNKS))
    with pytest.raises(StoreError, match="gc"):
        pack(store, "b", Pages(pages))
    assert keys(store, SNAPSHOTS) == {"snapshots/a"}
    gc(store)
    made = pack(store, "b", Pages(pages))
    assert made.stored == 8
    assert read_image(store, "b") == bytes_of(list(pages))


def test_an_image_that_ends_within_a_page_of_its_base_ends_in_zeros(store: LocalObjects) -> None:
    pack(store, "a", Pages([unique(1), unique(2)]))
    pack(store, "b", Pages([BASE, BASE], cut=100), base="a")
    pack(store, "c", Pages([BASE, BASE, ZERO]), base="b")
    short = (unique(1) + unique(2))[:-100]
    assert read_image(store, "b") == short
    assert read_image(store, "c") == short + bytes(100 + PAGE)


def test_a_page_of_a_damaged_base_is_stored_again(store: LocalObjects) -> None:
    pages: list[Page] = [unique(n) for n in range(8)]
    pack(store, "a", Pages(pages), chunk_size=SMALL)
    store.delete(keys(store, INDEX))
    broken = sorted(keys(store, CHUNKS))[0]
    store.put(broken, b"x" * store.size(broken))
    made = pack(store, "b", Pages(pages), base="a", chunk_size=SMALL)
    assert (made.parent, made.stored) == (4, 4)
    assert read_image(store, "b") == bytes_of(pages)


def test_a_working_set_comes_first_in_the_chunks(store: LocalObjects) -> None:
    pages: list[Page] = [unique(n) for n in range(20)]
    pages[3] = HOLE
    pack(store, "a", Pages(pages), chunk_size=SMALL, order=[17, 2, 3, 11, 2])
    image = open_image(store, "a")
    first = {
        extent.page: (extent.chunk, extent.slot)
        for page in (17, 2, 11, 0)
        for extent in image.extents(page, 1)
    }
    assert first == {17: (0, 0), 2: (0, 1), 11: (0, 2), 0: (0, 3)}
    assert read_image(store, "a") == bytes_of(pages)


def test_the_bound_on_memory_holds() -> None:
    table = PageTable(1 << 20, 100_000)
    for number in range(20_000):
        table.find_or_add(random.Random(number).randbytes(PAGE_DIGEST), number)
        assert table.memory <= 100_000
    assert table.forgets
    assert len(table) > 2000


def test_a_name_is_taken_once(store: LocalObjects) -> None:
    pack(store, "a", Pages([unique(1)]))
    before = keys(store, "")
    with pytest.raises(SnapshotInUse, match="another name"):
        pack(store, "a", Pages([unique(2)]))
    assert keys(store, "") == before


def test_wrong_calls_are_refused_before_anything_is_written(store: LocalObjects) -> None:
    with pytest.raises(UsageError):
        pack(store, "../a", Pages([]))
    with pytest.raises(UsageError):
        pack(store, "a", Pages([]), chunk_size=5000)
    with pytest.raises(UsageError):
        pack(store, "a", Pages([]), level=40)
    with pytest.raises(NoSuchSnapshot, match="no snapshot 'b'"):
        pack(store, "a", Pages([]), base="b")
    with pytest.raises(UsageError, match="changed"):
        pack(store, "a", Pages([BASE]))
    with pytest.raises(UsageError, match="working set"):
        pack(store, "a", Pages([ZERO]), order=[1])
    assert not keys(store, "")


def test_an_image_of_no_bytes_is_an_image(store: LocalObjects) -> None:
    pack(store, "a", Pages([]))
    assert read_image(store, "a") == b""


def test_a_base_stays_while_something_lies_on_it(store: LocalObjects) -> None:
    pack(store, "a", Pages([unique(1), unique(2)]))
    pack(store, "b", Pages([unique(1), unique(3)]), base="a")
    pack(store, "c", Pages([unique(1), unique(4)]), base="b")
    with pytest.raises(SnapshotInUse, match="'b' lies on it"):
        remove(store, "a")
    with pytest.raises(SnapshotInUse, match="'c' lies on it"):
        squash(store, "b")
    squash(store, "c")
    remove(store, "b")
    remove(store, "a")
    assert read_image(store, "c") == unique(1) + unique(4)
    with pytest.raises(NoSuchSnapshot):
        remove(store, "a")


def test_a_base_that_was_replaced_or_is_gone_is_told(store: LocalObjects) -> None:
    pack(store, "a", Pages([unique(1), unique(2)]))
    pack(store, "b", Pages([unique(1), unique(3)]), base="a")
    kept = store.get("snapshots/a")
    store.delete(["snapshots/a"])
    with pytest.raises(NoSuchSnapshot, match="base 'a' of snapshot 'b' is gone"):
        open_image(store, "b")
    pack(store, "a", Pages([unique(5), unique(6)]))
    with pytest.raises(FormatError, match="not the one it was made on"):
        open_image(store, "b")
    store.put("snapshots/a", kept)
    assert read_image(store, "b") == unique(1) + unique(3)


class Moving(Pages):
    """Pages that are told again: `again` has (first page, pages) in the order in which they are."""

    def __init__(self, pages: list[Page], again: list[tuple[int, list[bytes]]]) -> None:
        super().__init__(pages)
        self._again = again

    def again(self) -> Iterator[tuple[int, memoryview]]:
        for first, pages in self._again:
            yield first, memoryview(b"".join(pages))


@settings(deadline=None, max_examples=40)
@given(pages_strategy.filter(bool), st.data())
def test_of_pages_that_are_told_again_the_last_bytes_count(
    pages: list[Page], data: st.DataObject
) -> None:
    wanted = [content(page) for page in pages]
    again = []
    for _ in range(data.draw(st.integers(0, 6))):
        first = data.draw(st.integers(0, len(pages) - 1))
        most = len(pages) - first
        kinds = st.one_of(st.just(bytes(PAGE)), st.integers(0, 12).map(unique))
        some = data.draw(st.lists(kinds, min_size=1, max_size=most))
        again.append((first, some))
        wanted[first : first + len(some)] = some
    with in_memory() as folder:
        store = LocalObjects(folder / "store")
        pack(store, "base", Pages([unique(n) for n in range(len(pages))]), chunk_size=SMALL)
        pack(store, "one", Moving(pages, again), base="base", chunk_size=SMALL)
        assert read_image(store, "one") == b"".join(wanted)
        assert verify(store).sound


def test_chunks_that_nothing_is_left_of_count_as_nobodys(store: LocalObjects) -> None:
    """All that was stored is written over while it is read: of three chunks none, of two one."""
    pack(store, "base", Pages([unique(1)] * 4), chunk_size=SMALL)
    pages: list[Page] = [unique(n) for n in range(10, 22)]
    zeros = Moving(pages, [(0, [bytes(PAGE)] * 12)])
    packed = pack(store, "zeros", zeros, chunk_size=SMALL)
    assert (packed.stored, packed.shared, packed.zero) == (0, 0, 12)
    fewer = Moving([*(unique(n) for n in range(30, 38)), unique(1)], [(0, [unique(1)] * 4)])
    packed = pack(store, "fewer", fewer, chunk_size=SMALL)
    assert (packed.stored, packed.shared, packed.duplicate) == (4, 5, 0)
