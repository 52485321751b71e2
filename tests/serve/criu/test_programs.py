"""Programs that people run, restored lazily: what they say over their own protocols is right."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.criu import detached, dump, need_criu, restored
from helpers.redis import Redis, connections, filled, need_redis
from helpers.waiting import wait_for_text, wait_until
from serve.criu import web
from serve.daemons import serving

KEYS = 300_000

pytestmark = pytest.mark.timeout(600)  # the first of its tests loads packages


@pytest.fixture(scope="module")
def criu() -> list[str]:
    return need_criu()


def test_a_web_server_with_threads(criu: list[str], tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    with detached([sys.executable, web.__file__, tmp_path]) as pid:
        port = int(wait_for_text(tmp_path / "port"))
        assert got(port, "1") == web.row(1)  # a thread has come and gone
        wait_until(lambda: not connections(port))
        dump(criu, pid, images)
    with (
        serving(tmp_path / "daemon", "--criu", f"{work}={images}") as daemon,
        restored(criu, images, work),
    ):
        daemon.kill("worker")
        numbers = range(0, web.ROWS, 997)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: got(port, str(number)), numbers))
        assert found == [web.row(number) for number in numbers]
        whole = hashlib.sha256(b"".join(map(web.row, range(web.ROWS)))).hexdigest()
        assert got(port, "all") == whole.encode()


def got(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
        body: bytes = answer.read()
        return body


@pytest.fixture(scope="module")
def dumped(criu: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A Redis with many keys: its images, and its port."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "images").mkdir()
    with filled(need_redis(), folder, KEYS) as (pid, port):
        dump(criu, pid, folder / "images")
    return folder / "images", port


def test_redis_saves_in_the_background(
    criu: list[str], dumped: tuple[Path, int], tmp_path: Path
) -> None:
    images, port = dumped
    with (
        serving(tmp_path / "daemon", "--criu", f"{tmp_path}={images}", "--no-background") as daemon,
        restored(criu, images, tmp_path),
        contextlib.closing(Redis(port)) as redis,
    ):
        assert redis.ask("BGSAVE") == "Background saving started"
        daemon.kill("worker")
        redis.check(range(0, KEYS, 101))
        for number in range(0, KEYS, 1009):  # what the child saves is what was there before
            redis.ask("SET", f"key:{number}", "other")
        wait_until(lambda: b"rdb_bgsave_in_progress:0" in redis.info("persistence"), 120)
        assert b"rdb_last_bgsave_status:ok" in redis.info("persistence")
        redis.ask("FLUSHALL")
        redis.ask("DEBUG", "RELOAD", "NOSAVE")  # it reads what its child has written
        assert redis.ask("DBSIZE") == KEYS
        redis.check(range(0, KEYS, 101))
