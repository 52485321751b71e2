"""The process that pulls pages: workers come and go, it stays until nobody needs it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from serve.page_server.peer import LAZY, PAGE, PRESENT, page_server, pages
from snapshot.dumps import Dump, area
from userfault.kernel.errors import SourceError, UsageError
from userfault.pager.core.segment import Segment
from userfault.serve.page_server.asking import Peer
from userfault.serve.page_server.listening import PageServer
from userfault.serve.page_server.pulling import Pulled, pull, tree_in
from userfault.source.pages import PagesSource, finished
from userfault.source.spec import PagesSpec

HEAP, MORE = 0x5500_0000_0000, 0x7F00_0000_0000


def two_tasks(folder: Path) -> Dump:
    """Of each 300 lazy pages in two areas that lie side by side, an eager one, and 20 lazy ones."""
    dump = Dump(folder / "images", (7, 8))
    for number, task in enumerate((7, 8), 1):
        areas = ((HEAP, 100), (HEAP + 100 * PAGE, 400), (MORE, 50))
        dump.memory(task, *(area(at, at + count * PAGE) for at, count in areas))
        dump.pages(
            str(task),
            number,
            (HEAP, pages(task, 300), PRESENT | LAZY),
            (HEAP + 350 * PAGE, pages(99, 1), PRESENT),
            (MORE, pages(task + 50, 20), PRESENT | LAZY),
        )
    return dump


def expected(task: int) -> bytes:
    return pages(task, 300) + pages(task + 50, 20)


@contextlib.contextmanager
def pulled(folder: Path, **more: object) -> Iterator[tuple[PageServer, Pulled]]:
    images = str(two_tasks(folder).folder)
    with page_server(folder, address="0", give=images) as server:
        host, port = server.address.split(":")
        found = pull(Peer(host, int(port), **more), images)  # type: ignore[arg-type]
        try:
            yield server, found
        finally:
            os.close(found.source.fd)


def source(found: Pulled, task: int = 7) -> PagesSource:
    spec = found.source.spec
    assert isinstance(spec, PagesSpec)
    return PagesSource(PagesSpec(spec.length, spec.name, task), found.source.fd)


def test_lazy_pages_are_laid_out_by_task_and_area(tmp_path: Path) -> None:
    tree = tree_in(str(two_tasks(tmp_path).folder))
    for number, task in enumerate((7, 8)):
        assert tree[task] == (
            Segment(HEAP, HEAP + 100 * PAGE, number * 320),
            Segment(HEAP + 100 * PAGE, HEAP + 300 * PAGE, number * 320 + 100),
            Segment(MORE, MORE + 20 * PAGE, number * 320 + 300),
        )


def test_each_byte_comes_from_where_it_lies(tmp_path: Path) -> None:
    whole = expected(7) + expected(8)
    with pulled(tmp_path) as (_, found):
        one = source(found)
        assert bytes(one.read(0, len(whole))) == whole
        assert bytes(one.read(99 * PAGE, 2 * PAGE)) == whole[99 * PAGE : 101 * PAGE]
        assert bytes(one.read(319 * PAGE, 2 * PAGE)) == whole[319 * PAGE : 321 * PAGE]
        assert bytes(one.read(len(whole) - PAGE, 4 * PAGE)) == whole[-PAGE:] + bytes(3 * PAGE)
        one.close()


def test_several_workers_read_at_once_and_end_when_they_like(tmp_path: Path) -> None:
    def work(which: int) -> None:
        worker = source(found)
        for at in range(which, 640, 9):
            right.append(bytes(worker.read(at * PAGE, PAGE)) == whole[at * PAGE : (at + 1) * PAGE])
        worker.close()

    whole = expected(7) + expected(8)
    right: list[bool] = []
    with pulled(tmp_path) as (_, found):
        threads = [threading.Thread(target=work, args=(which,)) for which in range(9)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert right == [True] * 640


def test_the_other_host_is_told_when_the_restore_is_over_and_all_are_done(tmp_path: Path) -> None:
    with pulled(tmp_path) as (server, found):
        one, two = source(found, 7), source(found, 8)
        assert bytes(one.read(0, PAGE)) == expected(7)[:PAGE]
        one.done()
        with socket.socket(fileno=os.dup(found.source.fd)) as channel:
            finished(channel)
        assert bytes(two.read(0, PAGE)) == expected(7)[:PAGE]  # one of two: it is there still
        server.stop()
        two.done()
        server.wait()  # by CLOSE: the peer has gone
        with pytest.raises(SourceError):
            two.read(0, PAGE)
        one.close()
        two.close()


def test_a_server_that_has_gone_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    with pulled(tmp_path, patience_s=0.2) as (server, found):
        one = source(found)
        assert bytes(one.read(0, PAGE)) == expected(7)[:PAGE]
        server.close(now=True)
        with pytest.raises(SourceError, match="page server"):
            one.read(PAGE, PAGE)
        one.close()


def test_a_process_that_was_killed_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    with pulled(tmp_path) as (_, found):
        one = source(found)
        assert bytes(one.read(0, PAGE)) == expected(7)[:PAGE]
        victim = _process()
        os.kill(victim, 9)
        os.waitpid(victim, 0)
        with pytest.raises(SourceError, match="ended"):
            one.read(PAGE, PAGE)
        one.close()


def _process() -> int:
    """The one of ours that pulls."""
    task = f"/proc/self/task/{threading.get_native_id()}"
    children = map(int, Path(f"{task}/children").read_text().split())
    (found,) = [each for each in children if b"pulling" in _command(each)]
    return found


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_it_ends_when_nobody_has_the_other_end(tmp_path: Path) -> None:
    with pulled(tmp_path):
        process = _process()
    wait_until(lambda: os.waitpid(process, os.WNOHANG) != (0, 0), 30)


def test_images_without_lazy_pages_are_refused(tmp_path: Path) -> None:
    dump = Dump(tmp_path / "images")
    dump.memory(7, area(HEAP, HEAP + PAGE))
    dump.pages("7", 1, (HEAP, pages(1, 1), PRESENT))
    with pytest.raises(UsageError, match="lazily"):
        tree_in(str(dump.folder))
