"""The command itself: help, version, exit codes, and what an error looks like."""

from __future__ import annotations

import subprocess

import pytest

from cli.commands import command, environment, userfault
from helpers import child
from helpers.skips import need_root
from userfault import __version__


@pytest.mark.parametrize("arguments", [(), ("probe",), ("demo",)])
def test_help_describes_every_command_and_option(arguments: tuple[str, ...]) -> None:
    done = userfault(*arguments, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: userfault ")
    assert not done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert userfault("--version").stdout == f"userfault, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command"),
        (("probe", "--nonsense"), "No such option"),
        (("demo", "--size", "1"), "not in the range"),
        (("demo", "--memory", "paper"), "no memory type is called 'paper'"),
        (("demo", "--memory", "anon:2M"), "has no pages of 2097152 bytes"),
        (("demo", "--memory", "hugetlb:big"), "is no page size"),
        (("demo", "--output", "picture.png"), "does not end in .svg"),
        (("demo", "--output", "/nonexistent/picture.svg"), "cannot write into"),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_what_is_wrong(
    arguments: tuple[str, ...], said: str
) -> None:
    done = userfault(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not done.stdout


@pytest.mark.parametrize("arguments", [("probe",), ("demo", "--output", "/tmp/unmade.svg")])
def test_where_userfaultfd_is_refused_it_ends_with_3_cause_and_cure(
    arguments: tuple[str, ...],
) -> None:
    need_root()
    done = child.run("cli.children:run_behind_seccomp", *arguments)
    assert done["code"] == 3
    what, cause, cure = done["err"].splitlines()
    assert what == "userfault: cannot open a userfaultfd"
    assert cause.startswith("  cause: /dev/userfaultfd: EACCES; userfaultfd(2): EPERM")
    assert cure.startswith("  cure:  give yourself /dev/userfaultfd")
    assert not done["out"]


def test_a_reader_that_goes_away_is_no_error_to_tell() -> None:
    with subprocess.Popen(
        command("probe", "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
