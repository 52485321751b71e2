"""A real guest whose machine breaks: what was lost is told, the next has another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.check.words.statement import REGISTRY
from userfault.lab import command as lab_command
from userfault.lab import session as sessions
from userfault.lab.machine import Machine
from userfault.lab.session import Session
from userfault.lab.store import Kernel

# One after the other: each machine keeps a processor busy.
pytestmark = [pytest.mark.xdist_group("lab"), pytest.mark.timeout(300)]


@pytest.fixture
def session(kernel: Kernel) -> Iterator[Session]:
    load()
    with Session(kernel) as made:
        yield made


def test_a_machine_that_dies_or_hangs_is_lost_and_the_next_case_has_another(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_PULSE_S", 5.0)
    found = REGISTRY[1]
    os.kill(session.guest().pid, signal.SIGKILL)

    died = session.run_case(found, "")
    passed = session.run_case(found, "")
    os.kill(session.guest().pid, signal.SIGSTOP)
    hung = session.run_case(found, "", deadline_s=1.0)

    assert (died.verdict, passed.verdict, hung.verdict) == (
        Verdict.LOST,
        Verdict.PASSED,
        Verdict.LOST,
    )
    assert "the virtual machine has died" in died.reason
    assert "the virtual machine" in hung.reason


def test_a_machine_that_does_not_begin_a_command_is_booted_once_more(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    extras = iter(["rdinit=/x panic=0", ""])  # the first hangs where the second boots
    boots: list[str] = []

    class FirstHangs(Machine):
        def __init__(self, *args: Any, extra: str, **options: Any) -> None:
            boots.append(extra)
            super().__init__(*args, extra=next(extras), **options)

    carry = lab_command._carry

    def carried(machine: Machine, write: Any, boot_s: float, within_s: float | None) -> int:
        # Only the first is known to hang: on a busy machine the second takes its time.
        return carry(machine, write, 5 if len(boots) == 1 else boot_s, within_s)

    monkeypatch.setattr(lab_command, "Machine", FirstHangs)
    monkeypatch.setattr(lab_command, "_carry", carried)
    written: list[bytes] = []

    status = lab_command.run_command(
        kernel,
        ("sh", "-c", "echo here; exit 3"),
        lambda _, data: written.append(data),
        environment={},
    )

    assert (status, b"".join(written), len(boots)) == (3, b"here\n", 2)
