"""A function that cannot be loaded is told by lazy(); its module runs once, in the worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import userfault
from helpers.family import member
from helpers.pages import PAGE
from userfault import Policy, SourceError, lazy
from userfault.api import loading

DEMAND = Policy(background=False, retries=0)


class Modules:
    """Modules in a folder of the module path; each notes in `ran` by whom it was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran = folder / "ran"

    def write(self, name: str, text: str = "") -> None:
        note = f"import os\nopen({str(self.ran)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        body = "def read(offset, length):\n    return b'x' * length\n"
        (self.folder / f"{name}.py").write_text(note + text + body)

    def pids(self) -> list[int]:
        return [int(line) for line in self.ran.read_text().split()] if self.ran.exists() else []


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    """Nothing of them is importable elsewhere."""
    monkeypatch.syspath_prepend(tmp_path)
    return Modules(tmp_path)


def wait_until(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


BROKEN = {
    "no_such_module:read": "No module named 'no_such_module'",
    "module_a.part:read": "not a package",
    "module_a:nothing": "no attribute 'nothing'",
    "module_a:os.environ": "not callable",
    "module_b:read": "on purpose",
    "module_c:read": "has ended",
    "module_d:read": "SyntaxError",
}


@pytest.mark.parametrize("target", BROKEN)
@pytest.mark.parametrize("background", [True, False])
def test_what_cannot_be_loaded_is_told_at_once(
    modules: Modules, target: str, background: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    modules.write("module_a")
    modules.write("module_b", "raise ValueError('on purpose')\n")
    modules.write("module_c", "os._exit(3)\n")
    modules.write("module_d", "this is no Python\n")
    policy = Policy(background=background)
    with userfault.Pager() as pager:
        for _ in range(2):  # what failed is not taken for known
            with pytest.raises(SourceError, match=BROKEN[target]) as caught:
                lazy(target, length=PAGE, policy=policy, pager=pager)
            assert target in caught.value.what
            assert caught.value.cure
        wait_until(lambda: all(map(gone, modules.pids())))
        with lazy("module_a:read", length=PAGE, pager=pager) as mapped:
            assert mapped[:3] == b"xxx"
    assert "given up" not in capfd.readouterr().err


class Only:
    """A value of a module that the worker does not find."""


def test_arguments_that_the_worker_cannot_load_are_told(
    modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules.write("module_a")
    monkeypatch.setattr(Only, "__module__", "__main__")
    monkeypatch.setattr("__main__.Only", Only, raising=False)
    source = userfault.function("module_a:read", PAGE, Only())
    with pytest.raises(SourceError, match="Only"):
        lazy(source, policy=DEMAND)


def test_large_arguments_are_there_when_it_is_loaded(modules: Modules) -> None:
    modules.write("module_l", "def cut(offset, length, *, held):\n    return held[-length:]\n")
    source = userfault.function("module_l:cut", PAGE, held=bytes(100_000) + b"y" * PAGE)
    with lazy(source, policy=DEMAND) as mapped:
        assert mapped[:] == b"y" * PAGE
    assert len(modules.pids()) == 1


def test_the_module_runs_once_and_its_process_makes_the_first_read(modules: Modules) -> None:
    modules.write("module_a")
    with lazy("module_a:read", length=4 * PAGE, policy=DEMAND) as mapped:
        (pid,) = modules.pids()
        assert not gone(pid)
        assert mapped[:3] == b"xxx"
        mapped.prefetch(PAGE, 2 * PAGE)
        assert mapped[PAGE] == ord("x")
        assert modules.pids() == [pid]
    wait_until(lambda: gone(pid))


def test_a_function_that_a_pager_knows_has_no_process_before_it_is_called(modules: Modules) -> None:
    modules.write("module_a")
    with (
        userfault.Pager() as pager,
        lazy("module_a:read", length=PAGE, policy=DEMAND, pager=pager),
        lazy("module_a:read", length=PAGE, policy=DEMAND, pager=pager) as second,
    ):
        assert len(modules.pids()) == 1
        assert second[0] == ord("x")
        assert len(modules.pids()) == 2


def gated(modules: Modules) -> Path:
    """A module that is loaded when the file exists that this names."""
    gate = modules.folder / "gate"
    wait = f"import time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n"
    modules.write("module_g", wait)
    return gate


@pytest.mark.parametrize("kill", [False, True], ids=["", "its worker is killed"])
def test_others_are_served_while_a_module_is_loaded(modules: Modules, kill: bool) -> None:
    gate = gated(modules)
    modules.write("module_a")
    found: list[bytes] = []
    with userfault.Pager() as pager:

        def load() -> None:
            with lazy("module_g:read", length=PAGE, policy=DEMAND, pager=pager) as mapped:
                found.append(mapped[:3])

        loader = threading.Thread(target=load)
        loader.start()
        wait_until(lambda: len(modules.pids()) == 1)
        with lazy("module_a:read", length=PAGE, policy=DEMAND, pager=pager) as mapped:
            assert mapped[:3] == b"xxx"
        if kill:
            (first, _) = modules.pids()
            os.kill(member(pager, "worker"), signal.SIGKILL)
            wait_until(lambda: gone(first) and len(modules.pids()) > 2)
        gate.touch()
        loader.join(60)
        assert found == [b"xxx"]


def test_ctrl_c_while_a_module_is_loaded_leaves_no_process(modules: Modules) -> None:
    gated(modules)

    def interrupt() -> None:
        wait_until(lambda: bool(modules.pids()))
        os.kill(os.getpid(), signal.SIGINT)

    with userfault.Pager() as pager:
        watcher = threading.Thread(target=interrupt)
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            lazy("module_g:read", length=PAGE, pager=pager)
        watcher.join()
        wait_until(lambda: all(map(gone, modules.pids())))
        assert pager.alive


def test_a_module_that_is_never_loaded_is_given_up(
    modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated(modules)
    monkeypatch.setattr(loading, "_LEAST_S", 0.2)
    policy = Policy(background=False, deadline_s=0.2)
    with userfault.Pager() as pager, pytest.raises(SourceError, match=r"longer than 0\.2 s"):
        lazy("module_g:read", length=PAGE, policy=policy, pager=pager)
    wait_until(lambda: all(map(gone, modules.pids())))
