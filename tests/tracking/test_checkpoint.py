"""`Checkpoint`: arrays come back as they were, and only what changed is stored."""

from __future__ import annotations

import gc
import os
import random
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.child import start
from helpers.folders import in_memory
from helpers.waiting import wait_until
from userfault.api.checkpoint import Checkpoint
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchSnapshot, SnapshotInUse, StoreError
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.verify import verify

numpy = pytest.importorskip("numpy")


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal in names, types, shapes and bytes."""
    return found.keys() == wanted.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in ((n, numpy.asarray(a)) for n, a in wanted.items())
    )


def test_types_shapes_and_orders_come_back(store: Path) -> None:
    record = numpy.dtype([("x", "<f4", (2,)), ("when", "<M8[s]"), ("name", "S3")])
    arrays = {
        "plain": numpy.arange(100_000, dtype=">i2").reshape(100, -1),
        "columns": numpy.asfortranarray(numpy.random.default_rng(1).random((70, 300))),
        "scalar": 5,
        "empty": numpy.zeros((3, 0, 2), "f4"),
        "dates": numpy.array(["2026-11-28", "1970-01-01"], "M8[D]"),
        "text": numpy.array(["one", "three"]),
        "records": numpy.zeros(3000, record),
        "flags": numpy.array([True, False]),
    }
    with Checkpoint(store, "all") as checkpoint:
        checkpoint.save(**arrays)
        found = checkpoint.load()
    assert same(found, arrays)
    assert found["columns"].flags.f_contiguous
    assert found["plain"].flags.c_contiguous
    found["plain"][3, 3] = 7  # theirs alone
    assert Checkpoint(store, "all").load(writable=False)["plain"][3, 3] != 7


def test_a_save_stores_the_pages_that_changed(store: Path) -> None:
    weights = numpy.random.default_rng(1).random((1024, 1024))
    with Checkpoint(store, "m") as checkpoint:
        whole = checkpoint.save(weights=weights, step=0)
        weights[7] += 1
        layer = checkpoint.save(weights=weights, step=1)
        assert layer.base == whole.name
        assert layer.read <= 8
        assert layer.bytes < whole.bytes / 100
        assert same(checkpoint.load(), {"weights": weights, "step": 1})
        assert checkpoint.load(at=1)["step"] == 0
        assert checkpoint.history() == [1, 2]


def test_another_array_of_the_same_content_is_stored_as_what_differs(store: Path) -> None:
    weights = numpy.random.default_rng(1).random((512, 1024))
    with Checkpoint(store, "m") as checkpoint:
        checkpoint.save(weights=weights)
        other = weights.copy()
        other[5, 5] = 0
        assert checkpoint.save(weights=other).stored == 1
        assert same(checkpoint.load(), {"weights": other})


def test_a_new_program_goes_on_where_the_last_one_was(store: Path) -> None:
    weights = numpy.random.default_rng(1).random((512, 1024))
    with Checkpoint(store, "m") as checkpoint:
        checkpoint.save(weights=weights)
    with Checkpoint(store, "m") as checkpoint:
        found = checkpoint.load()
        found["weights"][100, 100] = -1
        layer = checkpoint.save(**found)
        assert (layer.base, layer.stored) == ("m.000001", 1)
        found["weights"][101, 100] = -1
        assert checkpoint.save(**found).read <= 3
        again = checkpoint.load()["weights"]
    assert again[100, 100] == again[101, 100] == -1


def test_the_last_array_may_become_smaller_and_larger_again(store: Path) -> None:
    """It keeps the room that it had, of which the image ends before the end."""
    sizes = (5_000, 700, 4_000, 1, 5_000, 40_000, 0, 700)
    draw = numpy.random.default_rng(1)
    with Checkpoint(store, "m") as checkpoint:
        saved = [{"first": draw.random(5_000), "last": draw.random(size)} for size in sizes]
        for arrays in saved:
            checkpoint.save(**arrays)
        for number, arrays in enumerate(saved, 1):
            assert same(checkpoint.load(at=number), arrays)
    with Checkpoint(store, "m") as checkpoint:
        checkpoint.save(first=saved[0]["first"], last=saved[2]["last"])
        assert same(checkpoint.load(), {"first": saved[0]["first"], "last": saved[2]["last"]})


@settings(deadline=None, max_examples=4)
@given(st.data())
def test_arrays_that_come_and_go_and_change_their_size_are_what_was_saved(data: Any) -> None:
    chosen = random.Random(data.draw(st.integers(0, 1 << 32)))
    held: dict[str, Any] = {}
    wanted: list[dict[str, Any]] = []
    keep = data.draw(st.sampled_from([None, None, 2]))
    with (
        in_memory() as folder,
        Checkpoint(folder / "s", "m", keep=keep) as checkpoint,
    ):
        for _ in range(data.draw(st.integers(2, 5))):
            for name in "abcd":
                step = data.draw(st.sampled_from(["stay", "write", "new", "go"]))
                if step == "new":
                    size = chosen.choice([0, 1, 700, 5_000, 40_000])
                    held[name] = numpy.random.default_rng(chosen.getrandbits(32)).random(size)
                elif step == "go":
                    held.pop(name, None)
                elif step == "write" and name in held:
                    for _ in range(3 if held[name].size else 0):
                        held[name][chosen.randrange(held[name].size)] = chosen.random()
            checkpoint.save(**held)
            wanted.append({name: array.copy() for name, array in held.items()})
        last = len(wanted)
        numbers = checkpoint.history()
        assert numbers == list(range(1 if keep is None else max(1, last - 1), last + 1))
        for number in numbers:
            assert same(checkpoint.load(at=number), wanted[number - 1])


def test_old_ones_go_where_few_are_to_be_kept(store: Path) -> None:
    array = numpy.zeros(10_000)
    with Checkpoint(store, "m", keep=3) as checkpoint:
        for step in range(5):
            array[step] = step + 1
            assert checkpoint.save(array=array).base == ""
        assert checkpoint.history() == [3, 4, 5]
        assert checkpoint.load(at=4)["array"][:5].tolist() == [1, 2, 3, 4, 0]
        assert checkpoint.load()["array"][:5].tolist() == [1, 2, 3, 4, 5]


def test_many_layers_stay_few(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userfault.api.updating._MOST_LAYERS", 2)
    array = numpy.zeros(2000)
    with Checkpoint(store, "m") as checkpoint:
        bases = []
        for step in range(6):
            array[step] = step + 1
            bases.append(checkpoint.save(array=array).base)
        assert bases == ["", "m.000001", "", "m.000003", "", "m.000005"]
        for at in checkpoint.history():
            assert checkpoint.load(at=at)["array"][:6].sum() == at * (at + 1) / 2


def test_two_savers_of_one_name_are_told_of_each_other(store: Path) -> None:
    array = numpy.zeros(2000)
    with Checkpoint(store, "m") as one, Checkpoint(store, "m") as other:
        one.save(array=array)
        other.save(array=array.copy())
        with pytest.raises(SnapshotInUse, match="somebody else"):
            one.save(array=array)
        assert one.history() == [1, 2]
        other.save(array=array.copy())


def test_a_full_store_leaves_the_last_checkpoint(small_disk: Path) -> None:
    generator = numpy.random.default_rng(1)
    array = generator.random(100_000)
    with Checkpoint(small_disk / "s", "m") as checkpoint:
        array[1000:] = 0
        checkpoint.save(array=array, step=1)
        old = array.copy()
        array[:] = generator.random(100_000)
        array = numpy.concatenate([array, array + 1])  # 1.6 MB on a disk of one
        with pytest.raises(StoreError):
            checkpoint.save(array=array, step=2)
        assert checkpoint.history() == [1]
        assert same(checkpoint.load(), {"array": old, "step": 1})
        array[:] = 0
        checkpoint.save(array=array, step=3)
        assert same(checkpoint.load(), {"array": array, "step": 3})


@pytest.mark.parametrize("seed", range(3))
def test_a_program_that_is_killed_while_it_saves_leaves_the_last_one(
    store: Path, seed: int
) -> None:
    child = start("tracking.scenes:save_for_ever", str(store))
    checkpoint = Checkpoint(store, "m")
    number = 2 + seed
    try:
        wait_until(lambda: len(checkpoint.history()) >= number, 120)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    found = checkpoint.load()
    step = int(found["step"])
    assert step == checkpoint.history()[-1]
    assert (found["array"] == step).all()
    assert verify(open_objects(store)).sound
    with checkpoint:  # and another program can go on at once
        array = found["array"]
        array[:] = step + 1
        assert checkpoint.save(array=array, step=step + 1).name == f"m.{step + 1:06}"


def test_the_memory_of_arrays_that_are_saved_no_more_goes(store: Path) -> None:
    class Mine(numpy.ndarray):  # type: ignore[misc, name-defined]
        pass

    array = numpy.zeros(100_000).view(Mine)
    gone = weakref.ref(array)
    with Checkpoint(store, "m") as checkpoint:
        checkpoint.save(array=array)
        checkpoint.save(other=numpy.zeros(5))
        del array
        gc.collect()
        assert gone() is None


def test_what_cannot_be_kept_is_told_before_anything_is_stored(store: Path) -> None:
    with Checkpoint(store, "m") as checkpoint:
        for value in (
            numpy.zeros((10, 10))[:, 3],
            numpy.array([object()]),
            numpy.ma.masked_array([1, 2], [True, False]),
        ):
            with pytest.raises(UsageError, match="cannot keep the array 'value'"):
                checkpoint.save(value=value)
        assert checkpoint.history() == []
        with pytest.raises(NoSuchSnapshot, match="save"):
            checkpoint.load()
        checkpoint.save(value=1)
        with pytest.raises(NoSuchSnapshot):
            checkpoint.load(at=7)
    with pytest.raises(UsageError, match="closed"):
        checkpoint.save(value=1)
    with pytest.raises(UsageError, match="keep"):
        Checkpoint(store, "m", keep=0)


@pytest.mark.parametrize(
    "word",
    [
        "{}",
        '{"dtype":"\'<f8\'","shape":[1],"order":"C","length":8,"first":9,"pages":1}',
        '{"dtype":"\'<f8\'","shape":[1],"order":"C","length":9000,"first":0,"pages":1}',
        '{"dtype":"\'<f8\'","shape":[3],"order":"C","length":8,"first":0,"pages":1}',
        '{"dtype":"\'O\'","shape":[1],"order":"C","length":8,"first":0,"pages":1}',
        '{"dtype":"__import__(\'os\')","shape":[1],"order":"C","length":8,"first":0,"pages":1}',
    ],
)
def test_a_manifest_that_lies_about_arrays_is_refused(
    tmp_path: Path, store: Path, word: str
) -> None:
    (tmp_path / "image").write_bytes(b"x" * 4096)
    lying = FileInput(tmp_path / "image", about={"array it": word})
    pack(open_objects(store), "m.000001", lying)
    lying.close()
    with pytest.raises(FormatError, match="no checkpoint"):
        Checkpoint(store, "m").load()


def test_a_damaged_one_is_told_and_others_can_be_loaded(store: Path) -> None:
    with Checkpoint(store, "m", keep=5) as checkpoint:
        checkpoint.save(value=1)
        checkpoint.save(value=2)
        (store / snapshot_key("m.000002")).write_bytes(b"\x89UFS nothing")
        with pytest.raises(FormatError):
            checkpoint.load()
        assert checkpoint.load(at=1)["value"] == 1
