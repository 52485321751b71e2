"""Names and words that somebody else has chosen: packed as they are, shown as what cannot harm."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import ROOT, command, environment
from helpers.stores import memory
from userfault.cli.shared.screen import Screen
from userfault.cli.shared.terminal import printable
from userfault.kernel.errors import UserfaultError
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects

PAGE = 4096
RAW = b"caf\xe9.mem"
HOSTILE = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xe2\x80\xae"
PROGRAM = b"\x1b[31mRED\xff\r"  # PR_SET_NAME: 15 bytes
FILES = (
    HOSTILE,
    b"a\rb",
    b"a\\999b\\101",
    b"caf\xe9",
    b"two\nlines",
    b"x\r7f0000000000-7f0000001000 rw-p 00000000 00:00 0 [heap]",
)


def run(*arguments: str | bytes, cwd: Path | None = None, **more: str) -> bytes:
    """What a command that must succeed writes, on both streams; without a control character."""
    done = subprocess.run(
        [*command(), *arguments],
        cwd=cwd,
        env=environment(COLUMNS="200", **more),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return harmless(done.stdout + done.stderr)


def harmless(said: bytes) -> bytes:
    text = said.decode("utf-8", "surrogateescape")
    assert all(each.isprintable() or each == "\n" for each in text), said
    return said


@pytest.mark.timeout(300)  # a dozen commands, each a Python that starts
def test_names_that_are_not_utf8_go_in_and_come_out(tmp_path: Path) -> None:
    image = memory(40)
    (tmp_path / os.fsdecode(RAW)).write_bytes(image)
    store = b"./st\xffore"
    said = run("pack", RAW, store + b"/a", cwd=tmp_path)
    assert rb"./st\xffore/a" in said
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    assert rb"caf\xe9.mem" in run("info", store + b"/a", cwd=tmp_path)
    assert b"a  " in run("ls", store, cwd=tmp_path, **ascii_only)
    found = json.loads(run("ls", "--json", store, cwd=tmp_path, **ascii_only))
    assert os.fsencode(found["store"]) == os.fsencode(tmp_path) + b"/st\xffore"
    found = json.loads(run("export", "--json", store + b"/a", b"o\xffut", cwd=tmp_path))
    assert os.fsencode(found["path"]) == b"o\xffut"
    assert (tmp_path / os.fsdecode(b"o\xffut")).read_bytes() == image
    (tmp_path / "naïve.mem").write_bytes(image)
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run("pack", "naïve.mem", store + b"/b", cwd=tmp_path, **plain)
    run("info", store + b"/b", cwd=tmp_path, **plain)
    run("export", store + b"/b", "éxport.mem", cwd=tmp_path, **ascii_only)
    assert (tmp_path / "éxport.mem").read_bytes() == image


_TARGET = """
import ctypes, mmap, os, sys
held = []
for name in map(os.fsencode, sys.argv[2:]):
    file = open(name, "w+b")
    file.truncate(4096)
    held.append(mmap.mmap(file.fileno(), 4096))
    held[-1][0] = 1
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[1]), 0, 0, 0)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def target(folder: Path) -> Iterator[int]:
    """A process with such a name that maps files of such names."""
    with subprocess.Popen(
        [sys.executable, "-c", _TARGET, PROGRAM, *FILES],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.timeout(300)
def test_a_hostile_process_is_packed_as_it_is_and_shown_without_harm(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    place = f"{tmp_path}/store/it"
    with target(tmp_path / "files") as pid:
        run("pack", "--pid", str(pid), place)
    image = open_image(open_objects(tmp_path / "store"), "it")
    names = {region.name.rpartition("/files/")[2] for region in image.regions}
    assert {name.decode("utf-8", "backslashreplace") for name in FILES} <= names
    assert not [region for region in image.regions if region.start == 0x7F0000000000]
    assert image.about["command"] == "\x1b[31mRED\\xff\r"
    said = run("info", "--regions", place)
    assert rb"\x1b[31mRED\xff\r" in said
    assert rb"two\nlines" in said
    json.loads(run("info", "--regions", "--json", place))
    for arguments in (["ls", f"{tmp_path}/store"], ["verify", place], ["diff", place, "it"]):
        run(*arguments)
    run("export", "--elf", place, b"core" + HOSTILE, cwd=tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        [HOSTILE],
        ["info", b"./" + HOSTILE + b"/x"],
        ["info", b"./store/" + HOSTILE],
        ["pack", HOSTILE, "./store/x"],
        ["ls", HOSTILE],
        ["export", "--nonsense" + os.fsdecode(HOSTILE)],
    ],
)
def test_errors_show_names_without_harm(tmp_path: Path, arguments: list[str | bytes]) -> None:
    done = subprocess.run(
        [*command(), *arguments], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert b"owned" in harmless(done.stderr)
    assert not harmless(done.stdout)


def test_no_command_writes_but_through_the_terminal_module() -> None:
    """What is printed there is printable; a print of one's own would be a hole."""
    for path in sorted((ROOT / "src/userfault/cli").rglob("*.py")):
        if path.name in ("terminal.py", "target.py"):  # that one talks to the demo alone
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("click.echo", "click.secho", "print", "Console"), path


def test_a_screen_shows_no_control_character_whatever_it_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.table import Table
    from rich.text import Text

    text = HOSTILE.decode() + "[bold]:smile:"
    screen = Screen()
    screen.print(text)
    screen.print(Text(text, "red"))
    table = Table()
    table.add_column(text)
    table.add_row(text)
    table.add_row(Text(text))
    screen.print(table)
    said = capsys.readouterr().out
    assert harmless(said.encode())
    assert said.count("[bold]:smile:") == 5


def test_lines_stay_lines_and_all_else_is_an_escape() -> None:
    assert printable("a\tb\r\nc\x9b\u2028\udcff") == "a\\tb\\r\nc\\x9b\\u2028\\xff"


def test_an_error_as_a_traceback_shows_it_is_printable() -> None:
    error = UserfaultError("a\x1b[2J", cause="b\udcff", cure="c\nd")
    assert str(error) == "a\\x1b[2J: b\\xff (cure: c\nd)"
