"""A store that hangs: the second one answers in its place, and it is left alone for a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from cli.commands import userfault
from helpers.pages import PAGE
from helpers.stores import memory, store
from snapshot.chunks import Chunk, make
from snapshot.servers import faults
from snapshot.servers.faults import Proxy
from snapshot.servers.nginx import Web
from userfault import Policy, lazy
from userfault.linux.libc import read_memory
from userfault.snapshot.errors import StoreError
from userfault.snapshot.serving.reading import ChunkReader, open_reader
from userfault.snapshot.stores.opening import open_objects

pytestmark = [
    pytest.mark.usefixtures("nothing_stays", "no_credentials"),
    pytest.mark.xdist_group("stores"),
]

# Nobody could wait for that: what comes at all came from the other store.
FOR_EVER = 1_000_000.0
MOST_PROBES = 10  # of the store that hangs, while forty chunks are read from the other one


@contextlib.contextmanager
def stopped(web: Web) -> Iterator[None]:
    """nginx stands still: the kernel accepts connections for it, and nothing answers."""
    server = int((web.root.parent / "pid").read_text())
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    """In front of nginx, without a fault yet."""
    found = Proxy(web.port)
    yield found
    found.close()


@pytest.fixture
def chunks(web: Web, prefix: str) -> list[Chunk]:
    """In two folders of nginx."""
    made = make(40)
    for folder in ("first", "second"):
        objects = open_objects(web.root / prefix / folder)
        for chunk in made:
            objects.put(chunk.key, chunk.data)
    return made


@pytest.mark.parametrize("second", ["folder", "web"])
@pytest.mark.parametrize("urgent", [True, False])
def test_while_the_first_store_hangs_the_second_one_is_read(
    web: Web, proxy: Proxy, chunks: list[Chunk], prefix: str, second: str, urgent: bool
) -> None:
    folder = f"{prefix}/second"
    other = open_objects(web.root / folder if second == "folder" else web.url(folder))
    first = open_objects(web.url(f"{prefix}/first", proxy.port))
    reader = ChunkReader([first, other], deadline=FOR_EVER)
    try:
        proxy.hit(always=faults.hung)
        for _ in range(2):
            for chunk in chunks:
                assert reader.chunk(*chunk.wanted, urgent=urgent) == chunk.data
        while proxy.answers:  # until it is left, one read after another finds it silent
            proxy.hit(always=faults.hung)
            for chunk in chunks:
                assert reader.chunk(*chunk.wanted, urgent=urgent) == chunk.data
            if proxy.answers <= MOST_PROBES:
                break
    finally:
        reader.close()


def test_a_store_that_answers_again_is_read_again(
    web: Web, proxy: Proxy, chunks: list[Chunk], prefix: str
) -> None:
    first = open_objects(web.url(f"{prefix}/first", proxy.port))
    reader = ChunkReader([first, open_objects(web.root / prefix / "second")], deadline=FOR_EVER)
    try:
        proxy.hit(always=faults.hung)
        for chunk in chunks:
            assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
        proxy.hit()
        before = reader.counts[0].chunks
        end = time.monotonic() + 120
        while reader.counts[0].chunks < before + 40:
            assert time.monotonic() < end
            for chunk in chunks:
                assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
    finally:
        reader.close()


def test_what_is_read_in_advance_is_read_from_the_store_that_answers(
    web: Web, proxy: Proxy, chunks: list[Chunk], prefix: str
) -> None:
    first = open_objects(web.url(f"{prefix}/first", proxy.port))
    reader = ChunkReader([first, open_objects(web.url(f"{prefix}/second"))], deadline=FOR_EVER)
    try:
        proxy.vanish()
        assert reader.chunk(*chunks[0].wanted) == chunks[0].data
        while (found := reader.now(*chunks[-1].wanted)) is None:
            reader.ahead([chunk.wanted for chunk in chunks])  # to the first, until it is left
            time.sleep(0.05)
        assert found == chunks[-1].data
    finally:
        reader.close()


def test_seconds_that_were_waited_before_are_not_waited_again(
    web: Web, proxy: Proxy, chunks: list[Chunk], prefix: str
) -> None:
    reader = open_reader(web.url(f"{prefix}/first", proxy.port), cache="")
    try:
        proxy.hit(always=faults.hung)
        with pytest.raises(StoreError, match=r"none came within 2\.0 s"):
            reader.chunk(*chunks[0].wanted, urgent=True, waited=19.0)
    finally:
        reader.close()


@pytest.mark.parametrize("background", [True, False])
def test_memory_whose_first_store_hangs_is_filled_from_the_second(
    web: Web, prefix: str, tmp_path: pathlib.Path, background: bool
) -> None:
    image = memory(2000, seed=5)
    store(web.root / prefix, "one", image)
    shutil.copytree(web.root / prefix, tmp_path / "second")
    policy = Policy(background=background, deadline_s=FOR_EVER, fault_deadline_s=None)
    where = web.url(f"{prefix}/one")
    with lazy(where, cache="", store2=str(tmp_path / "second"), policy=policy) as mapped:
        with stopped(web):
            mapped.prefetch(0, len(image) // 2)
            for page in range(0, 2000, 97):
                assert (
                    read_memory(mapped.address + page * PAGE, PAGE) == image[page * PAGE :][:PAGE]
                )
            mapped.complete()
        assert mapped[:] == image


def test_a_snapshot_is_opened_in_the_second_store_where_the_first_one_hangs(
    web: Web, prefix: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = memory(100, seed=6)
    store(web.root / prefix, "one", image)
    shutil.copytree(web.root / prefix, tmp_path / "second")
    where, second = web.url(f"{prefix}/one"), str(tmp_path / "second")
    with stopped(web):
        with lazy(where, cache="", store2=second) as mapped:
            assert mapped[:] == image
        done = userfault("export", where, "out", "--cache", "", "--second", second, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == image
    assert f"snapshot one is that of {second}" in caplog.text


def test_a_first_store_that_answers_is_believed(
    web: Web, prefix: str, tmp_path: pathlib.Path
) -> None:
    store(tmp_path / "second", "one", memory(100, seed=7))
    store(web.root / prefix, "other", memory(100, seed=8))
    with pytest.raises(Exception, match="there is no snapshot 'one' in http"):
        lazy(web.url(f"{prefix}/one"), cache="", store2=str(tmp_path / "second"))
