"""The reproducers: small, alone, about statements that exist; here and in a guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.programs import need_static_libc
from userfault.check.live.agent.build import compiler
from userfault.check.statements import load
from userfault.kernel.errors import UsageError
from userfault.lab.collect import programs_in_guest
from userfault.lab.reproduce import OPTIONS, Reproducer, reproducer, reproducers, run_here
from userfault.lab.store import Kernel

ALL = list(reproducers().values())
NUMBERS = {found.number for found in load()}


@pytest.fixture(autouse=True)
def static_libc(tmp_path: Path) -> None:
    """Programs are linked statically."""
    need_static_libc(tmp_path)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_it_is_short_asks_a_question_and_names_statements(one: Reproducer) -> None:
    assert len(one.source.read_text().splitlines()) < 60
    assert one.question.endswith(("?", "."))
    assert one.story.endswith(".")
    assert set(one.statements) <= NUMBERS


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_it_compiles_without_a_warning_and_stands_alone(one: Reproducer, tmp_path: Path) -> None:
    strict = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-result")
    alone = tmp_path / one.source.name  # nothing beside it to include
    alone.write_bytes(one.source.read_bytes())

    done = subprocess.run(
        [*compiler(), *OPTIONS, *strict, "-o", str(tmp_path / "program"), str(alone)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


# It takes every free huge page for a moment.
@pytest.mark.parametrize("one", [o for o in ALL if o.name != "empty-huge-pool"], ids=str)
def test_it_prints_one_line_here(one: Reproducer) -> None:
    (line,) = run_here([one])[one.name].splitlines()

    assert ":" in line or line.startswith("features")


def test_a_program_that_hangs_is_killed_and_said_to_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "hangs.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    monkeypatch.setattr("userfault.lab.reproduce.PROGRAM_S", 1)

    said = run_here([Reproducer("hangs", "Does it end?", (), "", source)])

    assert said == {"hangs": "hangs (1 s)"}


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="no reproducer 'nothing'") as error:
        reproducer("nothing")
    assert "sysv-huge-segments" in error.value.cure


@pytest.mark.xdist_group("lab")
@pytest.mark.timeout(300)
def test_a_guest_runs_them_all_in_one_boot(kernel: Kernel) -> None:
    said = programs_in_guest(kernel)

    assert set(said) == {one.name for one in ALL}
    assert not [line for line in said.values() if "lost" in line or "hangs" in line]
    assert said["sysv-huge-segments"].endswith("MISSING EINVAL, WP EINVAL, MINOR EINVAL")
