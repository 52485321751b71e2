"""The commands of the snapshot store, as a script would use them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cli.commands import command, environment, userfault
from helpers.stores import memory
from snapshot.dumps import PRESENT, Dump, area, page
from snapshot.target import Target, content

PAGE = 4096
COMMANDS = ("pack", "ls", "info", "verify", "diff", "export", "squash", "rm", "gc")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of 200 pages of all kinds."""
    path = tmp_path / "image"
    path.write_bytes(memory(200))
    return path


@pytest.fixture
def store(tmp_path: Path, image: Path) -> Path:
    """A store with the image as `one`."""
    ok("pack", str(image), f"{tmp_path}/store/one")
    return tmp_path / "store"


def ok(*arguments: str) -> str:
    """Run a command that must succeed, and say nothing on standard error."""
    done = userfault(*arguments)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def values(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command with --json tells."""
    done = userfault(*arguments, "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("schema") == f"userfault.{arguments[0]}/1"
    return found


def files(folder: Path) -> dict[str, int]:
    """The files below a folder, with their sizes."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    done = ok(name, "--help")
    assert done.startswith(f"Usage: userfault {name}")
    assert "Example" in done
    assert f"userfault {name}" in done.partition("Example")[2]


def test_an_image_goes_in_and_comes_out(tmp_path: Path, store: Path, image: Path) -> None:
    said = ok("export", f"{store}/one", str(tmp_path / "out"))
    assert said.startswith(f"{tmp_path / 'out'}: 800.0 KiB")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_a_store_is_named_by_its_relative_path_too(tmp_path: Path, image: Path) -> None:
    for place in ("store/one", "./store/two"):
        done = userfault("pack", str(image), place, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [each["name"] for each in values("ls", str(tmp_path / "store"))["snapshots"]] == [
        "one",
        "two",
    ]


@pytest.mark.timeout(400)  # some twenty commands, each a Python that starts
def test_layers_differences_and_what_becomes_of_them(
    tmp_path: Path, store: Path, image: Path
) -> None:
    changed = bytearray(image.read_bytes())
    changed[7 * PAGE : 9 * PAGE] = os.urandom(2 * PAGE)
    image.write_bytes(changed)
    packed = values("pack", str(image), f"{store}/two", "--base", "one")
    assert (packed["parent"], packed["stored"]) == (198, 2)
    assert values("info", f"{store}/two")["layers"] == ["two", "one"]
    found = values("diff", f"{store}/one", "two", code=4)
    assert found["runs"] == [{"start": 7 * PAGE, "pages": 2, "change": "changed"}]
    assert found["pages"] == {"changed": 2, "added": 0, "removed": 0}
    assert "2 changed" in userfault("diff", f"{store}/one", f"{store}/two").stdout
    assert "0x7000" in userfault("diff", f"{store}/one", "two", "--runs").stdout
    assert "are the same" in ok("diff", f"{store}/one", "one")

    refused = userfault("rm", f"{store}/one")
    assert refused.returncode == 1
    assert "'two' lies on it" in refused.stderr
    assert values("squash", f"{store}/two")["layers"] == 2
    assert values("rm", f"{store}/one")["removed"] == [f"{store}/one"]
    assert values("gc", str(store), "--grace", "0", "--dry-run")["dry_run"]
    assert values("gc", str(store), "--grace", "0")["kept"] > 0
    assert values("verify", "--all", str(store))["sound"]
    ok("export", f"{store}/two", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == bytes(changed)


def test_damage_is_told_with_whom_it_hurts(store: Path) -> None:
    chunk = next((store / "chunks").glob("*/*"))
    chunk.write_bytes(b"damage")
    found = values("verify", f"{store}/one", code=1)
    assert [each["snapshots"] for each in found["damage"]] == [["one"]]
    told = userfault("verify", "--all", str(store))
    assert told.returncode == 1
    assert "hurts: one" in told.stdout


def test_info_tells_what_is_known(store: Path) -> None:
    found = values("info", f"{store}/one")
    assert found["about"] == {"file": "image"}
    assert sum(found["pages"].values()) == 200
    assert found["distinct"] <= found["pages"]["chunk"]
    said = ok("info", f"{store}/one")
    for word in ("raw", "800.0 KiB", found["digest"], "image"):
        assert word in said


def test_a_terminal_sees_a_bar_and_a_pipe_the_result_alone(tmp_path: Path, image: Path) -> None:
    screen, terminal = pty.openpty()
    try:
        done = subprocess.run(
            command("pack", str(image), f"{tmp_path}/store/one"),
            env=environment(TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=60,
            check=True,
        )
        assert "packing one" in os.read(screen, 1 << 16).decode()
    finally:
        os.close(terminal)
        os.close(screen)
    assert done.stdout.startswith(f"{tmp_path}/store/one: 800.0 KiB".encode())
    assert done.stdout.count(b"\n") == 1


def test_a_process_is_packed_and_runs_on(tmp_path: Path) -> None:
    with Target(tmp_path, "private") as target:
        ok("pack", "--pid", str(target.pid), f"{tmp_path}/store/live")
        assert target.process.poll() is None
        said = ok("info", "--regions", f"{tmp_path}/store/live")
    assert "[stack]" in said
    ok("export", "--elf", f"{tmp_path}/store/live", str(tmp_path / "core"))
    core = (tmp_path / "core").read_bytes()
    assert core.startswith(b"\x7fELF")
    assert content("private", 9) in core


def test_a_dump_of_several_tasks_is_a_snapshot_of_each(tmp_path: Path) -> None:
    dump = Dump(tmp_path / "dump", (7, 8))
    for pid in (7, 8):
        dump.memory(pid, area(0x10000, 0x10000 + PAGE))
        dump.pages(str(pid), pid, (0x10000, page(pid), PRESENT))
    ok("pack", str(dump.folder), f"{tmp_path}/store/web")
    ok("pack", str(dump.folder), f"{tmp_path}/store/one", "--pid-of-image", "8")
    listed = values("ls", str(tmp_path / "store"))["snapshots"]
    assert [each["name"] for each in listed] == ["one", "web-7", "web-8"]
    assert ok("diff", f"{tmp_path}/store/one", "web-8").count("same")


def test_the_order_file_decides_what_lies_in_the_first_chunk(tmp_path: Path, image: Path) -> None:
    image.write_bytes(b"".join(page(n) for n in range(64)))
    (tmp_path / "order").write_text("# a working set\n60-63\n\n5\n")
    place = f"{tmp_path}/store/one"
    ok("pack", str(image), place, "--order", str(tmp_path / "order"), "--chunk-size", "16K")
    ok("export", place, str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == image.read_bytes()
    (tmp_path / "order").write_text("5\nsix\n")
    done = userfault("pack", str(image), f"{place}-2", "--order", str(tmp_path / "order"))
    assert done.returncode == 2
    assert "line 2 is 'six'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pack", "image"), "takes IMAGE and STORE/NAME"),
        (("pack", "image", "name"), "is no snapshot: write STORE/NAME"),
        (("pack", "image", "store/.."), "cannot be the name of a snapshot"),
        (("pack", "image", "s3://bucket"), "write STORE/NAME"),
        (("pack", "absent", "store/x"), "cannot open absent"),
        (("pack", "--pid", "1", "image", "store/x"), "takes STORE/NAME alone"),
        (("pack", "image", "store/x", "--running"), "--running belongs to --pid"),
        (("pack", "image", "store/x", "--chunk-size", "big"), "is no size"),
        (("pack", "image", "store/x", "--chunk-size", "1000"), "chunks of 1000 bytes"),
        (("pack", "image", "store/x", "--base", "/other/one"), "is in another store"),
        (("pack", "image", "store/x", "--pid-of-image", "3"), "is no CRIU dump"),
        (("pack", "--pid", "4194305", "store/x"), "there is no process 4194305"),
        (("pack", "image", "smoke://store/x"), "no stores of the kind smoke://"),
        (("ls", "absent"), "there is no folder absent"),
        (("gc", "absent"), "there is no folder absent"),
        (("verify", "--all", "absent"), "there is no folder absent"),
        (("export", "--elf", "store/one", "out"), "cannot become an ELF core"),
        (("export", "store/one", "/"), "is a directory"),
    ],
)
def test_a_wrong_call_ends_with_2_and_leaves_nothing(
    tmp_path: Path, store: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = files(tmp_path)
    done = userfault(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert files(tmp_path) == before
    assert store.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "store/absent"), "no snapshot 'absent'"),
        (("pack", "image", "store/one"), "there is a snapshot 'one'"),
        (("pack", "image", "store/x", "--base", "absent"), "no snapshot 'absent'"),
        (("export", "store/one", "absent/out"), "No such file or directory"),
    ],
)
def test_a_failure_ends_with_1_and_says_why(
    tmp_path: Path, store: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = userfault(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("userfault: ")
    assert said in done.stderr
    assert store.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pack_that_is_interrupted_leaves_no_snapshot_and_lets_the_process_go(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Target(tmp_path, "large") as target:
        packer = subprocess.Popen(
            command("pack", "--pid", str(target.pid), f"{tmp_path}/store/live", "--level", "22"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while not list((tmp_path / "store" / "chunks").glob("*/*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert target.state != "T"  # its pages were copied aside
        packer.send_signal(number)
        _, said = packer.communicate(timeout=60)
        assert packer.returncode == 128 + number
        assert said.strip() == ("userfault: interrupted" if number is signal.SIGINT else "")
        deadline = time.monotonic() + 30
        while target.state == "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert values("ls", str(tmp_path / "store"))["snapshots"] == []
    assert values("gc", str(tmp_path / "store"), "--grace", "0")["kept"] == 0
    assert not list((tmp_path / "store" / "chunks").glob("*/*"))
