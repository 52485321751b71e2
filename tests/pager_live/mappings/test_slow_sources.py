"""Files whose reads hang, fail or come from the disk: what that costs, and whom it spares."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.fuse import SlowFile, slow_file
from helpers.pages import PAGE, numbers, pages
from helpers.waiting import wait_until
from pager_live.scenes import worker_of
from userfault import LazyMemory, Pager, Policy, SourceError, lazy
from userfault.linux.libc import cachestat
from userfault.pager.drivers.mappings.readers import MOST_STUCK

PAGES = 256
FETCHES = 4
DEMAND = Policy(background=False, window_bytes=PAGE)
HASTY = Policy(background=False, window_bytes=PAGE, deadline_s=0.2, retries=0, fetches=FETCHES)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFile]:
    with slow_file(tmp_path, pages(1, PAGES)) as made:
        yield made


class Touch:
    """A thread that touches one page, by a system call, which a poisoned page does not kill."""

    def __init__(self, mapped: LazyMemory, page: int) -> None:
        self._address = mapped.address + page * PAGE
        self.code = 0
        self._thread = threading.Thread(target=self._touch, daemon=True)
        self._thread.start()

    def _touch(self) -> None:
        heard, says = os.pipe()
        try:
            os.write(says, (ctypes.c_char * 8).from_address(self._address))
        except OSError as error:
            self.code = error.errno or 0
        finally:
            os.close(heard)
            os.close(says)

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def ended(self) -> int:
        """The errno that it met, or 0."""
        self._thread.join(60)
        assert not self.waits
        return self.code


def shown(mapped: LazyMemory, page: int) -> int:
    """What a page holds."""
    assert Touch(mapped, page).ended() == 0
    return numbers(mapped[page * PAGE : (page + 1) * PAGE])[0]


def told(mapped: LazyMemory, page: int) -> str:
    """Why this page, and no other, was given up."""
    with pytest.raises(SourceError) as caught:
        mapped.check()
    assert mapped.statistics().failed == 1
    assert caught.value.offset == page * PAGE
    return caught.value.cause


def test_a_read_that_hangs_delays_no_other(slow: SlowFile, image: Path) -> None:
    slow.hold(5)
    with Pager() as pager, lazy(slow.path, policy=DEMAND, pager=pager) as mapped:
        hung = Touch(mapped, 5)
        wait_until(lambda: mapped.statistics().counters.fetches > 0)
        assert [shown(mapped, page) for page in (4, 6, 100, 200)] == [5, 7, 101, 201]
        with lazy(image, policy=DEMAND, pager=pager) as other:
            assert [shown(other, page) for page in (0, 1000)] == [1, 1001]
        assert hung.waits
        slow.release()
        assert hung.ended() == 0
        assert shown(mapped, 5) == 6


def test_a_read_that_hangs_past_its_deadline_costs_its_page_alone(slow: SlowFile) -> None:
    slow.hold(5)
    with lazy(slow.path, policy=HASTY) as mapped:
        assert Touch(mapped, 5).ended() == errno.EFAULT
        assert told(mapped, 5) == "no answer within 0.2 s"
        assert shown(mapped, 6) == 7
        slow.release()


def test_a_source_that_hangs_for_long_keeps_few_threads(slow: SlowFile) -> None:
    hung = range(10, 10 + 3 * MOST_STUCK)
    slow.hold(*hung)
    with Pager() as pager, lazy(slow.path, policy=HASTY, pager=pager) as mapped:
        worker = worker_of(pager)
        touches = [Touch(mapped, page) for page in hung]
        most = 0
        while any(touch.waits for touch in touches):
            most = max(most, len(os.listdir(f"/proc/{worker}/task")))
        assert most <= 1 + MOST_STUCK + FETCHES
        assert {touch.ended() for touch in touches} == {errno.EFAULT}
        slow.release()
        assert shown(mapped, 100) == 101  # its threads have come back


def test_an_io_error_is_told_and_costs_its_page_alone(slow: SlowFile) -> None:
    slow.fail(7)
    with lazy(slow.path, policy=HASTY) as mapped:
        assert Touch(mapped, 7).ended() == errno.EFAULT
        assert told(mapped, 7).endswith("Input/output error")
        assert shown(mapped, 8) == 9


def test_a_worker_killed_in_a_read_has_a_successor_who_reads_on(slow: SlowFile) -> None:
    slow.hold(5)
    with Pager() as pager, lazy(slow.path, policy=DEMAND, pager=pager) as mapped:
        hung = Touch(mapped, 5)
        wait_until(lambda: mapped.statistics().counters.fetches > 0)
        os.kill(worker_of(pager), signal.SIGKILL)
        assert [shown(mapped, page) for page in (4, 6, 100)] == [5, 7, 101]
        assert hung.waits
        slow.release()
        assert hung.ended() == 0
        assert shown(mapped, 5) == 6
        assert pager.takeovers == 1


def test_a_server_that_does_not_even_tell_of_its_file_delays_no_page(slow: SlowFile) -> None:
    """fstat(2) of a file on a network file system asks its server: not what the loop waits for."""
    with Pager() as pager, lazy(slow.path, policy=DEMAND, pager=pager) as mapped:
        with open(slow.path, "rb") as file:  # 64 pages are cached: they can be copied from
            file.read(64 * PAGE)
        assert shown(mapped, 0) == 1
        slow.hold(100)
        slow.hold_attributes()
        hung = Touch(mapped, 100)
        wait_until(lambda: mapped.statistics().counters.fetches > 0)
        assert [shown(mapped, page) for page in range(1, 64, 7)] == list(range(2, 65, 7))
        assert hung.waits
        slow.release()
        assert hung.ended() == 0


def test_mappings_that_read_at_once_all_come_to_their_end(slow: SlowFile) -> None:
    with Pager(in_flight=8) as pager, contextlib.ExitStack() as stack:
        hanging = stack.enter_context(lazy(slow.path, policy=DEMAND, pager=pager))
        slow.hold(*range(100, 108))
        hung = [Touch(hanging, page) for page in range(100, 108)]
        others = [
            stack.enter_context(lazy(slow.path, policy=DEMAND, pager=pager)) for _ in range(4)
        ]
        touches = [Touch(mapped, page) for mapped in others for page in range(20, 40)]
        assert {touch.ended() for touch in touches} == {0}
        assert [shown(mapped, 30) for mapped in others] == [31] * 4
        assert all(touch.waits for touch in hung)
        slow.release()
        assert {touch.ended() for touch in hung} == {0}


@pytest.mark.parametrize("background", [False, True])
def test_a_file_that_is_not_in_the_page_cache_shows_its_bytes(
    tmp_path: Path, background: bool
) -> None:
    path = tmp_path / "cold"
    path.write_bytes(pages(1, 1024) + b"ragged")
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with contextlib.suppress(OSError):  # before 6.5
            assert cachestat(file.fileno(), 0, 1024 * PAGE) < 1024
    order = random.Random(1).sample(range(1024), 1024)
    with lazy(path, policy=Policy(background=background)) as mapped:
        assert [shown(mapped, page) for page in order] == [page + 1 for page in order]
        assert mapped[1024 * PAGE :] == b"ragged"
        assert not any(ctypes.string_at(mapped.address + 1024 * PAGE + 6, PAGE - 6))
