"""Memory that is restored from a store shows the image that was packed, whatever happens to it."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.family import member
from helpers.pages import PAGE
from helpers.stores import chunk_files, memory, pages_of_chunk, store
from pager_live.test_restore import MEMORIES, restored
from userfault import Policy, lazy

SCENES = "pager_live.mappings.store_scenes:"
PAGES = 1500  # 5.9 MiB: the third huge page is not full


@pytest.fixture(scope="module")
def image() -> bytes:
    return memory(PAGES) + b"ragged"


@pytest.fixture
def packed(tmp_path: Path, image: bytes) -> Path:
    """The path that names the image in a store of its own."""
    return store(tmp_path / "store", "one", image)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("background", [True, False])
def test_every_memory_type_shows_the_image_that_was_packed(
    packed: Path, image: bytes, kind: str, background: bool
) -> None:
    order = list(range(PAGES))
    random.Random(2).shuffle(order)
    with restored(packed, kind, policy=Policy(background=background)) as mapped:
        assert len(mapped) == len(image)
        for page in order[:200]:
            assert mapped[page * PAGE : (page + 1) * PAGE] == image[page * PAGE : (page + 1) * PAGE]
        mapped.complete()
        assert mapped[:] == image
        assert mapped.statistics().finished


def test_the_whole_family_has_loaded_what_reads_a_store(packed: Path) -> None:
    """So that neither the first fault nor one after a takeover waits for it."""
    with lazy(packed, policy=Policy(background=False)) as mapped:
        pager = mapped._parts.pager
        for role in ("worker", "supervisor", "spare"):
            assert "zstandard" in Path(f"/proc/{member(pager, role)}/maps").read_text()


def test_zeros_are_not_read(tmp_path: Path) -> None:
    name = store(tmp_path / "store", "zeros", bytes(300 * PAGE))
    with lazy(name) as mapped:
        mapped.complete()
        assert not any(mapped[:])
        statistics = mapped.statistics()
    assert statistics.counters.zeroed == 300
    assert statistics.store is not None
    assert statistics.store.unpacked == 0


def test_a_touch_brings_the_whole_run_of_its_chunk_and_nothing_else(tmp_path: Path) -> None:
    data = b"".join(f"{n:8}".encode() * 512 for n in range(64)) + bytes(64 * PAGE)
    dice = random.Random(5)
    data = b"".join(dice.randbytes(PAGE) for _ in range(64)) + data[64 * PAGE :]
    policy = Policy(background=False, record="never")  # a recording wants single pages
    with lazy(store(tmp_path / "store", "one", data), policy=policy) as mapped:
        assert mapped[40 * PAGE] == data[40 * PAGE]
        present = [page for page, state in enumerate(mapped.page_states[:128]) if state]
        assert present == list(range(32, 64))
        counters = mapped.statistics().counters
    assert (counters.copied, counters.zeroed, counters.around) == (32, 0, 31)


def test_a_part_of_a_snapshot_can_be_taken(packed: Path, image: bytes) -> None:
    first, length = 100 * PAGE, 700 * PAGE + 123
    with lazy(packed, offset=first, length=length) as mapped:
        mapped.complete()
        assert mapped[:] == image[first : first + length]
    with pytest.raises(userfault.UsageError, match="multiples of 4096"):
        lazy(packed, offset=100)
    with pytest.raises(userfault.UsageError, match="it has"):
        lazy(packed, length=len(image) + 1)


def test_behind_a_part_of_a_page_there_are_zeros(packed: Path, image: bytes) -> None:
    page = next(n for n in range(PAGES) if any(image[n * PAGE + 100 : (n + 1) * PAGE]))
    with lazy(packed, offset=page * PAGE, length=100) as mapped:
        held = userfault.linux.libc.read_memory(mapped.address, PAGE)
        assert held == image[page * PAGE : page * PAGE + 100] + bytes(PAGE - 100)


def test_layers_show_the_changed_pages_over_those_of_their_base(
    tmp_path: Path, image: bytes
) -> None:
    changed = bytearray(image)
    other = memory(PAGES, seed=9)
    for page in random.Random(3).sample(range(PAGES), 200):
        changed[page * PAGE : (page + 1) * PAGE] = other[page * PAGE : (page + 1) * PAGE]
    folder = tmp_path / "store"
    store(folder, "base", image)
    with lazy(store(folder, "layer", bytes(changed), base="base")) as mapped:
        mapped.complete()
        assert mapped[:] == bytes(changed)


def test_a_file_at_the_path_is_that_file_and_no_snapshot(packed: Path) -> None:
    packed.write_bytes(b"a file of this name")
    with lazy(packed) as mapped:
        assert mapped[:] == b"a file of this name"


def test_what_is_not_in_the_store_is_told(packed: Path) -> None:
    with pytest.raises(userfault.NoSuchSnapshot, match="'two'"):
        lazy(packed.with_name("two"))
    with pytest.raises(userfault.UsageError, match="they are for snapshots"):
        lazy(b"bytes", store2=str(packed.parent))


def test_a_damaged_manifest_is_told(packed: Path) -> None:
    manifest = packed.parent / "snapshots" / "one"
    manifest.chmod(0o600)
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(data)
    with pytest.raises(userfault.FormatError):
        lazy(packed)


def spoil(path: Path) -> None:
    """One bit of a file is not what it was."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["corrupt", "gone", "short"])
def test_only_the_pages_of_a_bad_chunk_are_given_up_and_it_is_told(
    packed: Path, image: bytes, how: str
) -> None:
    victim = chunk_files(packed.parent, "one")[2]
    if how == "corrupt":
        spoil(victim)
    elif how == "gone":
        victim.unlink()
    else:
        os.truncate(victim, victim.stat().st_size - 1)
    bad = pages_of_chunk(packed.parent, "one", 2)
    with lazy(packed, policy=Policy(retries=1)) as mapped:
        with pytest.raises(userfault.SourceError, match=f"{len(bad)} pages given up") as raised:
            mapped.complete()
        assert raised.value.offset // PAGE in bad
        states = mapped.page_states[: mapped.statistics().pages]
        assert [page for page, state in enumerate(states) if state == 4] == bad
        for page in set(range(PAGES)) - set(bad):
            assert mapped[page * PAGE : (page + 1) * PAGE] == image[page * PAGE : (page + 1) * PAGE]


def test_a_touch_of_a_page_whose_chunk_is_corrupt_is_sigbus(packed: Path) -> None:
    spoil(chunk_files(packed.parent, "one")[2])
    page = pages_of_chunk(packed.parent, "one", 2)[0]
    client = child.start(SCENES + "touch", str(packed), page)
    _, err = client.communicate(timeout=30)
    assert client.returncode == -signal.SIGBUS
    assert f"offset {page * PAGE:#x} given up" in err


def test_a_second_store_heals_what_the_first_has_lost(tmp_path: Path, image: bytes) -> None:
    first = store(tmp_path / "first", "one", image)
    store(tmp_path / "second", "one", image)
    files = chunk_files(tmp_path / "first", "one")
    spoil(files[0])
    files[1].unlink()
    with lazy(first, store2=str(tmp_path / "second")) as mapped:
        mapped.complete()
        assert mapped[:] == image


def test_a_store_that_vanishes_in_the_middle_harms_only_what_was_not_read(
    packed: Path, image: bytes, tmp_path: Path
) -> None:
    with lazy(packed, policy=Policy(background=False, retries=0)) as mapped:
        read = [page for page in range(0, PAGES, 100) if mapped[page * PAGE : (page + 1) * PAGE]]
        packed.parent.rename(tmp_path / "elsewhere")
        with pytest.raises(userfault.SourceError, match="given up"):
            mapped.complete()
        for page in read:
            assert mapped[page * PAGE : (page + 1) * PAGE] == image[page * PAGE : (page + 1) * PAGE]
        states = mapped.page_states[: mapped.statistics().pages]
        for page, state in enumerate(states):
            if state == 2:
                there = mapped[page * PAGE : (page + 1) * PAGE]
                assert there == image[page * PAGE : (page + 1) * PAGE]


@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_a_worker_killed_in_the_middle_is_replaced_and_no_byte_is_wrong(
    packed: Path, image: bytes, tmp_path: Path, kind: str
) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(image)
    found = child.finish(child.start(SCENES + "killed", str(packed), str(expected), kind), 90)
    assert found["takeovers"] >= found["kills"] > 0
    assert found["right"]


def test_a_name_that_is_packed_anew_changes_nothing_for_who_is_being_restored(
    packed: Path, image: bytes, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(image)
    found = child.finish(child.start(SCENES + "packed_anew", str(packed), str(expected)), 60)
    assert found == {"right": True, "takeovers": 1, "anew": True}


def test_a_forked_child_reads_the_same_image(packed: Path, image: bytes, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(image)
    assert child.run(SCENES + "forked", str(packed), str(expected)) == 0


def test_processes_that_unpack_may_be_killed_at_any_time(tmp_path: Path) -> None:
    large = random.Random(7).randbytes(24 << 20)
    packed, expected = store(tmp_path / "store", "one", large), tmp_path / "expected"
    expected.write_bytes(large)
    found = child.finish(child.start(SCENES + "unpackers_killed", str(packed), str(expected)), 90)
    assert found["right"]
    assert found["killed"] >= 2
    assert found["takeovers"] == 0


def test_what_is_read_in_order_for_a_moment_only_starts_nobody_who_unpacks(
    packed: Path, image: bytes, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(image)
    found = child.finish(child.start(SCENES + "unpackers_killed", str(packed), str(expected)), 90)
    assert found == {"right": True, "killed": 0, "takeovers": 0}


def test_a_handover_in_the_middle_goes_on_with_the_same_image(
    packed: Path, image: bytes, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(image)
    found = child.finish(child.start(SCENES + "replaced", str(packed), str(expected)), 60)
    assert found["right"]
    assert found["worker"] != found["before"]


def test_images_that_come_and_go_leave_nothing_in_the_pager(packed: Path) -> None:
    found = child.finish(child.start(SCENES + "come_and_go", str(packed)), 60)
    assert found["descriptors"] <= found["before"]
    assert found["threads"] <= 1 + Policy().fetches  # those that read stand ready for the next
