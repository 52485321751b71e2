"""Programs see in a lazy mapping what the kernel would show in one of the file."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from exec.conftest import SIZE, Exec, scene
from helpers.skips import need_root
from helpers.stores import store


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_every_kind_of_mapping_shows_the_bytes(run: Exec, data: Path) -> None:
    held = data.read_bytes()
    done = run(["--map", data], scene("reads", data))
    assert done.stdout.split() == [*[digest(held)] * 3, digest(held[4096 : 4096 + 8192])]
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_comes_in_that_nobody_touches(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("lazily", data))
    assert done.stdout.split() == [str(data.read_bytes()[5 << 20]), "1", "True"], done.stderr


def test_a_budget_bounds_what_is_in_memory(run: Exec, data: Path) -> None:
    done = run(["--map", data, "--resident", "1M"], scene("bounded", data))
    found, most = done.stdout.split()
    assert found == digest(data.read_bytes())
    assert int(most) <= 3 << 10, done.stderr  # and one fill, and what is under way


def test_the_rest_of_the_last_page_is_zero_and_behind_it_is_sigbus(run: Exec, data: Path) -> None:
    assert run(["--map", data], scene("beyond", data)).stdout.split() == ["True", "-7"]


def test_what_moves_shows_the_same_and_nothing_grows(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("moves", data))
    assert done.stdout.split() == ["True", "12", digest(data.read_bytes()[: 1 << 20])], done.stderr


def test_threads_map_at_the_same_time(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("threads", data))
    assert done.stdout.split() == ["24", digest(data.read_bytes()[1 << 20 : 2 << 20])], done.stderr


@pytest.mark.parametrize("budget", [[], ["--resident", "1M"]], ids=["all", "budget"])
def test_children_of_fork_see_what_their_parent_sees(
    run: Exec, data: Path, budget: list[str]
) -> None:
    need_root()  # the event of fork(2) needs CAP_SYS_PTRACE
    held = data.read_bytes()
    done = run(["--map", data, *budget], scene("forks", data))
    whole = [digest(held)] * 2
    assert done.stdout.split() == [str(held[0]), *whole, "0", *whole], done.stderr


def test_programs_that_programs_start_are_served_too(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("execs", data))
    assert done.stdout.split()[1:] == ["1", "True"], done.stderr


def test_children_that_outlive_the_program_are_served(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("leaves", data))
    assert done.stdout.split() == [digest(data.read_bytes())]
    assert done.returncode == 7


def test_numpy_and_sqlite(run: Exec, tmp_path: Path, data: Path) -> None:
    python = [sys.executable, str(Path(__file__).with_name("scenes.py"))]
    done = run(["--map", data, "--resident", "2M"], [*python, "numpys", str(data)])
    assert done.stdout.split() == [str(sum(data.read_bytes()))], done.stderr
    path = tmp_path / "db"
    with sqlite3.connect(path) as database:
        database.execute("create table t (b blob)")
        database.executemany("insert into t values (?)", [(os.urandom(3000),)] * 1000)
    database.close()
    done = run(["--map", path], [*python, "sqlites", str(path)])
    assert done.stdout.split("\n")[:2] == ["(1000, 3000000)", "True"], done.stderr


def test_a_file_that_is_not_there_shows_a_snapshot(run: Exec, tmp_path: Path, data: Path) -> None:
    held = data.read_bytes()
    named = store(tmp_path / "store", "data", held)
    path = tmp_path / "absent"
    done = run(["--map", f"{path}={named}"], scene("reads", path))
    assert done.stdout.split() == [*[digest(held)] * 3, digest(held[4096 : 4096 + 8192])]
    assert (done.returncode, done.stderr) == (0, "")
    assert not path.exists()  # it was made for the program, and has gone with it


def test_writes_stay_in_memory(run: Exec, tmp_path: Path, data: Path) -> None:
    need_root()
    path = tmp_path / "written"
    done = run(["--map", f"{path}={data}"], scene("writes", path))
    held = data.read_bytes()
    assert done.stdout.split("\n")[:2] == [
        f"b'mine' b'ours' {digest(held[8192:])}",
        "b'ours' True",
    ], done.stderr
    assert data.read_bytes() == held


def test_a_file_shown_from_itself_is_written_by_the_kernel(run: Exec, data: Path) -> None:
    done = run(["--map", data], scene("writes", data))
    held = data.read_bytes()
    assert len(held) == SIZE
    assert held[4096:4100] == b"ours"
    assert "left alone" in done.stderr
