"""What a new pager imports before it serves, and `userfault exec` before its program runs: a third
of their start was modules that nobody used."""

from __future__ import annotations

import subprocess
import sys

from userfault.pager.drivers.processes.lean import _LEAN, lean_path

# Each takes some ms (with what it imports itself) that every first fault of a new pager would wait.
_HEAVY = {
    "asyncio", "concurrent.futures", "dataclasses", "hashlib", "inspect", "json", "logging",
    "pathlib", "pickle", "platform", "random", "secrets", "shutil", "subprocess", "tempfile",
    "textwrap", "threading", "traceback", "typing_extensions", "urllib.parse",
}  # fmt: skip
_STORES = {"blake3", "zstandard"}
# What reads chunks waits for others by threading's events, and zstandard asks for the platform.
_WITH_STORES = _HEAVY - {"platform", "threading"}
_AHEAD = "import sys; sys.path += {!r}; import userfault.api.ahead; print(*sys.modules)"


def imported_by(*modules: str) -> set[str]:
    """What a process of a pager has loaded when it has these."""
    program = (
        f"import sys; sys.path[:] = {lean_path()!r} + sys.path\n{_LEAN}"
        f"import {', '.join(modules)}\nprint(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_pager_of_files_loads_no_more_than_it_needs() -> None:
    assert not imported_by("userfault.api.pager_main") & (_HEAVY | _STORES)


def test_a_pager_of_a_packed_image_loads_little_more() -> None:
    loaded = imported_by(
        "userfault.api.pager_main",
        "userfault.snapshot.serving.taking_up",
        "userfault.pager.drivers.mappings.unpackers",
    )
    assert loaded >= _STORES
    assert not loaded & _WITH_STORES
    assert "userfault.snapshot.format.manifest" not in loaded  # the client has read that


def test_exec_loads_nothing_of_what_serves_or_draws() -> None:
    program = "import userfault.cli.main, userfault.cli.serve.exec, userfault.exec.desk, sys"
    command = [sys.executable, "-c", f"{program}\nprint(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.split(".")[0] == "rich"]
    assert "userfault.pager.core.core" not in loaded
    assert not [name for name in loaded if name.startswith("userfault.pager.drivers.serving")]


def test_a_pager_is_started_ahead_of_all_that_takes_time() -> None:
    command = [sys.executable, "-S", "-c", _AHEAD.format(lean_path())]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"click", "enum", "msgspec", "re", "socket", "subprocess", "typing"}


def test_modules_that_a_start_leaves_out_are_there_for_who_asks() -> None:
    program = (
        f"{_LEAN}import platform, textwrap, typing_extensions, uuid, sys\n"
        "assert platform.__file__ and textwrap.__file__ and typing_extensions.__file__\n"
        "class Shown(msgspec.Struct):\n"
        '    """What is shown."""\n'
        "    number: uuid.UUID\n"
        "print(msgspec.json.schema(Shown)['$defs']['Shown']['description'])\n"
        "print(uuid.uuid4().version, getattr(uuid, '_LINUX', True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["What is shown.", "4 True", ""]
