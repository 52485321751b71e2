"""Whatever fails, each ends in a clear error or correct bytes, never in a hung thread."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.pages import PAGE, numbers, pages
from helpers.skips import need_features, need_root
from helpers.waiting import wait_for_text, wait_until
from pager_live import functions, scenes
from userfault import Policy, SourceError, SourceTypeError, UsageError, lazy
from userfault.kernel.modes import Feature
from userfault.linux import pidfd

DEMAND = Policy(background=False, retries=1)
SCENES = "pager_live.scenes:"


def numbered(**options: object) -> userfault.LazyMemory:
    return lazy(functions.numbered, length=64 * PAGE, **options)  # type: ignore[arg-type]


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["anon", "shmem"])
def test_a_function_is_a_source(memory: str) -> None:
    with numbered(memory=memory) as mapped:
        assert numbers(mapped[9 * PAGE : 10 * PAGE]) == [10]
        mapped.complete()
        assert numbers(mapped[:]) == list(range(1, 65))


def test_a_function_named_by_text_is_a_source() -> None:
    with lazy("pager_live.functions:numbered", length=4 * PAGE, policy=DEMAND) as mapped:
        assert numbers(mapped[:]) == [1, 2, 3, 4]


class Holder:
    def read(self, offset: int, length: int) -> bytes:
        return bytes(length + offset * 0)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (lambda _, length: bytes(length), "lambda"),
        (Holder().read, "bound method"),
        (object(), "object"),
    ],
)
def test_what_another_process_cannot_find_is_refused(source: object, why: str) -> None:
    with pytest.raises(SourceTypeError, match=why) as caught:
        lazy(source, length=PAGE)
    assert caught.value.cure
    assert isinstance(caught.value, TypeError)


def test_a_closure_is_refused() -> None:
    def closure(_: int, length: int) -> bytes:
        return bytes(length)

    with pytest.raises(SourceTypeError, match="closure"):
        lazy(closure, length=PAGE)


def test_arguments_that_cannot_be_pickled_are_refused() -> None:
    with pytest.raises(SourceTypeError, match="pickled"):
        userfault.function(functions.numbered, PAGE, lambda: 0)


@pytest.mark.parametrize("empty", [b"", "file"])
def test_an_empty_source_is_refused(tmp_path: Path, empty: bytes | str) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(UsageError, match="empty"):
        lazy(path if empty == "file" else empty)


def test_a_source_shorter_than_the_memory_is_refused(image: Path) -> None:
    size = image.stat().st_size
    with pytest.raises(UsageError, match=f"{size} bytes"):
        lazy(image, length=size + 1)
    with pytest.raises(UsageError):
        lazy(image, offset=1)


def test_a_missing_file_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        lazy(tmp_path / "nowhere")


def test_what_cannot_be_read_at_an_offset_is_refused(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(SourceTypeError, match="a pipe"):
            lazy(read)
        with pytest.raises(SourceTypeError):
            lazy(tmp_path)
        (tmp_path / "file").write_bytes(bytes(PAGE))
        with open(tmp_path / "file", "ab") as only_writing, pytest.raises(SourceError):
            lazy(only_writing)
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("how", ["poisoned_access"])
def test_a_page_whose_source_raises_is_poisoned_alone(how: str) -> None:
    need_features(Feature.POISON)
    found = child.run(SCENES + how)
    assert found["good"] == [5]
    assert "Bad address" in found["errno"]
    assert found["neighbour"] == [7]
    assert "page 5 is broken" in found["told"]
    assert "0x5000" in found["told"]
    assert found["states"]["poisoned"] == 1


def test_a_touch_of_a_poisoned_page_is_sigbus_and_standard_error_says_why() -> None:
    need_features(Feature.POISON)
    client = child.start(SCENES + "touch_bad_page")
    _, err = client.communicate(timeout=30)
    assert client.returncode == -signal.SIGBUS
    assert "offset 0x5000" in err
    assert "page 5 is broken" in err
    assert "cure" in err


def test_policy_kill_ends_the_client_with_the_message() -> None:
    client = child.start(SCENES + "touch_bad_page_kill")
    _, err = client.communicate(timeout=30)
    assert client.returncode == -signal.SIGKILL
    assert "page 5 is broken" in err


def test_a_source_that_fails_once_is_read_again(tmp_path: Path) -> None:
    source = userfault.function(functions.flaky, 64 * PAGE, mark=str(tmp_path / "mark"))
    with lazy(source, policy=DEMAND) as mapped:
        assert numbers(mapped[5 * PAGE : 6 * PAGE]) == [6]
        assert mapped.statistics().counters.source_failures == 1
        mapped.check()


def test_a_worker_that_dies_is_replaced_and_its_page_given_up() -> None:
    need_features(Feature.POISON)
    source = userfault.function(functions.crash, 2 * PAGE)
    with lazy(source, policy=DEMAND) as mapped, pytest.raises(SourceError, match="died"):
        mapped.complete()


def test_a_function_that_returns_too_little_is_an_error() -> None:
    need_features(Feature.POISON)
    with (
        lazy(userfault.function(functions.short, PAGE), policy=DEMAND) as mapped,
        pytest.raises(SourceError, match="4095 bytes where 4096"),
    ):
        mapped.complete()


def test_a_source_that_hangs_is_given_up_at_its_deadline() -> None:
    need_features(Feature.POISON)
    source = userfault.function(functions.slow_page, 64 * PAGE, slow=5, seconds=600)
    policy = Policy(background=False, retries=0, deadline_s=1.0)
    with lazy(source, policy=policy) as mapped:
        with pytest.raises(SourceError, match="no answer within"):
            mapped.complete(timeout=60)
        states = mapped.statistics().states
        assert (states["poisoned"], states["present"]) == (1, 63)


def test_one_slow_page_delays_no_other(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = userfault.function(functions.gated, 64 * PAGE, gate=str(gate), closed=5)
    with lazy(source, policy=DEMAND) as mapped:
        mapped.prefetch(5 * PAGE, 6 * PAGE)
        assert numbers(mapped[40 * PAGE : 41 * PAGE]) == [41]  # page 5 cannot have been read yet
        gate.touch()
        assert numbers(mapped[5 * PAGE : 6 * PAGE]) == [6]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changes_while_it_is_served_is_a_source_error(
    tmp_path: Path, change: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "changing"
    path.write_bytes(pages(1, 64))
    with lazy(path, policy=DEMAND) as mapped:
        assert numbers(mapped[:PAGE]) == [1]
        if change == "size":
            os.truncate(path, 10 * PAGE)
        else:
            os.utime(path)
        time.sleep(0.1)  # the pager looks every 50 ms, and once more at the end
        with pytest.raises(SourceError, match=r"changed size|modified"):
            mapped.complete()
    assert str(path) in capfd.readouterr().err


def test_a_file_that_shrinks_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every page behind its end is given up, and all for one cause."""
    need_features(Feature.POISON)
    path = tmp_path / "shrinking"
    path.write_bytes(pages(1, 256))
    policy = Policy(background=False, retries=0)
    with lazy(path, policy=policy) as mapped:
        os.truncate(path, 10 * PAGE)
        with pytest.raises(SourceError, match="changed size"):
            mapped.complete()
        assert mapped.statistics().failed > 200
    told = capfd.readouterr().err.splitlines()
    assert len([line for line in told if "given up" in line]) == 1, told


def test_a_function_that_fails_for_every_page_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    need_features(Feature.POISON)
    source = userfault.function(functions.broken, 100 * PAGE)
    with lazy(source, policy=Policy(background=False, retries=0)) as mapped:
        with pytest.raises(SourceError, match="the disk is gone"):
            mapped.complete()
        assert mapped.statistics().failed == 100
    assert capfd.readouterr().err.count("the disk is gone") == 1


def test_each_cause_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    need_features(Feature.POISON)
    source = userfault.function(functions.bad_pages, 100 * PAGE, bad=[7, 8])
    with (
        lazy(source, policy=Policy(background=False, retries=0)) as mapped,
        pytest.raises(SourceError, match="is broken"),
    ):
        mapped.complete()
    told = capfd.readouterr().err
    assert told.count("page 7 is broken") == told.count("page 8 is broken") == 1


def test_pages_that_are_not_cached_are_read_by_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(pages(1, 256))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with lazy(path, policy=DEMAND) as mapped:
        assert numbers(mapped[100 * PAGE : 101 * PAGE]) == [101]
        mapped.complete()
        assert numbers(mapped[:]) == list(range(1, 257))


# --- clients --------------------------------------------------------------------------------------


def test_the_pager_of_a_client_that_is_killed_in_a_fault_ends(tmp_path: Path) -> None:
    report = tmp_path / "pid"
    client = child.start(SCENES + "killed_with_faults_pending", str(report))
    pager = os.pidfd_open(int(wait_for_text(report)))
    try:
        wait_until(lambda: Path(f"/proc/{client.pid}/wchan").read_text() == "handle_userfault")
        client.kill()
        client.communicate()
        assert pidfd.wait(pager, 30)
    finally:
        os.close(pager)


def test_a_client_whose_pager_is_killed_ends_instead_of_hanging(image: Path) -> None:
    client = child.start(SCENES + "fault_after_the_pagers_death", str(image))
    client.communicate(timeout=30)
    assert client.returncode == -signal.SIGBUS


def test_a_dead_pager_is_told_by_check(image: Path) -> None:
    signal.signal(signal.SIGBUS, lambda *_: None)
    try:
        with lazy(image, policy=DEMAND) as mapped:
            mapped.check()
            pager = mapped._parts.pager
            scenes.kill_all(scenes.stop_family(pager))
            wait_until(lambda: not pager.alive)
            with pytest.raises(userfault.PagerError, match="died"):
                mapped.check()
            with pytest.raises(userfault.PagerError, match="died"):
                mapped.wait(10)
    finally:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)


def test_views_that_outlive_a_dead_pager_show_poison_and_never_zeros(image: Path) -> None:
    need_features(Feature.POISON)
    found = child.run(SCENES + "views_after_the_pagers_death", str(image))
    assert found == {"filled": [4], "rest": "Bad address", "told": True}


def test_a_forked_child_gets_sigsegv_and_never_zeros(image: Path) -> None:
    assert child.run(SCENES + "forked_child_of_ordinary_memory", str(image)) == signal.SIGSEGV
    assert child.run(SCENES + "multiprocessing_child_is_refused", str(image)) == -signal.SIGSEGV


@pytest.mark.parametrize("memory", ["anon", "shmem", "shmem-private"])
def test_with_fork_events_a_child_is_served_from_the_same_source(image: Path, memory: str) -> None:
    need_root()
    found = child.run(SCENES + "forked_children", str(image), memory)
    assert found == [[9], [1, 8, 1901], [8]]


def test_parent_and_child_read_a_function_source_at_once() -> None:
    need_root()
    assert child.run(SCENES + "fork_with_a_function_source") == [[11], [21]]


def test_a_child_killed_with_many_faults_waiting_harms_nobody(image: Path) -> None:
    need_root()
    found = child.run(SCENES + "child_killed_with_faults_waiting", str(image))
    assert found == [101, 102, 103]


def test_children_that_have_ended_are_served_no_more(image: Path) -> None:
    need_root()
    assert child.run(SCENES + "many_children", str(image), 12) == [1, 0]


def test_without_privilege_it_works_for_user_accesses(image: Path) -> None:
    need_root()
    found = child.run(SCENES + "as_nobody", str(image))
    assert found["first"] == [1]
    assert found["limited"]
    assert found["before"] == "Bad address"
    assert found["after"] == 8
    assert found["pid_gone"]


def test_fork_events_without_privilege_are_refused_with_the_cure(image: Path) -> None:
    need_root()
    told = child.run("pager_live.scenes:fork_as_nobody", str(image))
    assert "CAP_SYS_PTRACE" in told


def test_running_out_of_descriptors_is_a_clear_error_and_leaks_none(image: Path) -> None:
    found = child.run(SCENES + "without_descriptors", str(image))
    assert found["leaked"] == 0
    assert found["told"]["served"] > 0
    assert len(found["told"]) > 1
    assert all(found["causes"])


def test_memory_that_this_system_lacks_is_told(image: Path) -> None:
    with pytest.raises(userfault.UserfaultError) as caught:
        lazy(image, memory="guest_memfd")
    assert "released kernel" in str(caught.value) or "KVM" in str(caught.value)
    with pytest.raises(UsageError, match="no memory type"):
        lazy(image, memory="tape")
    with pytest.raises(UsageError, match="page sizes"):
        lazy(image, page_size=8192)
