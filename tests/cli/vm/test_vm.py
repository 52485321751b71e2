"""`userfault vm`: what is told, as text and as JSON, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cli.commands import userfault
from helpers.skips import absent
from userfault.cli import main
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import kvm

GUEST = ("--size", "2", "--seconds", "0.05", "--cpus", "1")


@pytest.fixture
def machine() -> None:
    """A test that runs a guest."""
    try:
        kvm.Vm().close()
    except MemoryUnavailable as error:
        absent(str(error))


@pytest.mark.usefixtures("machine")
def test_a_guest_goes_on_and_the_sums_are_told() -> None:
    memories = ("--memory", "anon", "--memory", "guest_memfd")
    done = userfault("vm", "run", *GUEST, *memories, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["schema"] == "userfault.vm.run/1"
    assert [each["memory"] for each in told["resumed"]] == ["anon", "guest_memfd"]
    assert [each["sums"] for each in told["resumed"]] == [told["saved"]["sums"]] * 2
    assert told["resumed"][0]["filled"] > 0
    assert "filled before" in told["resumed"][1]["told"][0]


@pytest.mark.usefixtures("machine")
def test_a_saved_guest_is_restored_by_another_process(tmp_path: Path) -> None:
    place = str(tmp_path / "store" / "vm")
    saved = userfault("vm", "save", place, *GUEST, "--kernel-mode", "--json")
    assert saved.returncode == 0, saved.stderr
    done = userfault("vm", "restore", place, "--memory", "shmem", "--json")

    assert json.loads(done.stdout)["sums"] == json.loads(saved.stdout)["sums"]
    assert userfault("vm", "restore", place).returncode == 0


def test_steps_run_on_the_model_without_kvm(capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["vm", "steps", "--on", "next", "--on", "6.18"]
    assert main.userfault.main([*steps, "--memory", "shmem"], standalone_mode=False) == 0
    assert "step for step the same on next, 6.18" in capsys.readouterr().out

    # No release registers a guest_memfd: the logs differ, and that is told.
    assert main.userfault.main(steps, standalone_mode=False) == 1
    assert "+UFFDIO_REGISTER, MINOR: EINVAL" in capsys.readouterr().out


def test_without_kvm_it_ends_with_3_cause_and_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", "/nonexistent/kvm")
    for arguments in (
        ["vm", "run"],
        ["vm", "save", str(tmp_path / "store" / "vm"), "--size", "2"],
        ["vm", "steps", "--on", "live"],
    ):
        monkeypatch.setattr(sys, "argv", ["userfault", *arguments])
        assert main._run() == 3
        what, cause, cure = capsys.readouterr().err.splitlines()
        assert what == "userfault: a virtual machine needs KVM"
        assert cause == "  cause: /nonexistent/kvm: No such file or directory"
        assert cure.startswith("  cure:  load the kvm module")

    monkeypatch.setattr(sys, "argv", ["userfault", "vm", "run", "--if-there"])
    assert main._run() == 0
    assert "no guest was run: a virtual machine needs KVM" in capsys.readouterr().out


def test_what_is_no_machine_is_told(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    place = str(tmp_path / "store" / "vm")
    userfault("pack", str(image), place)

    done = userfault("vm", "restore", place)
    assert done.returncode == 1
    assert "'vm' is no machine" in done.stderr
