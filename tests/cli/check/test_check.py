"""`userfault check`: the table, the reports for programs, the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from cli.commands import command, environment, userfault
from helpers.sessions import of_session
from helpers.waiting import wait_until
from userfault.check.statements import load
from userfault.check.words.outcome import Failed, Lost
from userfault.check.words.statement import REGISTRY, statement
from userfault.check.words.thread import Thread
from userfault.cli.main import userfault as main
from userfault.kernel.memtypes import Memory

FAST = "1-10"  # about no memory that this machine could lack


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def on_the_model(*arguments: str) -> Result:
    """Run the command here, where statements can be planted."""
    return CliRunner().invoke(main, ["check", "--model", *arguments], standalone_mode=False)


# --- Reports -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
def test_the_table_has_each_statement_and_the_sums() -> None:
    done = userfault("check", "--only", FAST)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Linux {os.uname().release}: 10 statements")
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line[:4].strip().isdigit()]
    assert rows == [[str(number), "passed"] for number in range(1, 11)]
    assert "10 passed, 0 failed, 0 cannot run here, 0 lost (10 cases" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_model_answers_for_a_release() -> None:
    done = userfault("check", "--model", "--profile", "6.1", "--only", "7,10")

    assert done.returncode == 0
    assert done.stdout.startswith("model 6.1: 2 statements")
    assert "it is kept since Linux 6.7; this is model 6.1" in " ".join(done.stdout.split())


def test_the_model_answers_after_a_design_and_fails_where_that_serves_no_such_type() -> None:
    done = userfault("check", "--model", "--design", "hardcoded", "--only", "41,48")

    assert done.returncode == 1
    assert done.stdout.startswith("model next, design hardcoded: 2 statements")
    assert " 1 failed" in done.stdout


def test_json_is_one_object_a_line() -> None:
    done = userfault("check", "--model", "--json", "--only", "5,48")
    header, *cases, end = lines(done.stdout)
    (several,) = [found for found in load() if found.number == 48]

    assert header == {
        "schema": "userfault.check/1",
        "kernel": "model next",
        "statements": 2,
        "unknown_features": 0,
    }
    assert [(case["number"], case["memory"]) for case in cases] == [
        (5, ""),
        *((48, memory) for memory in several.memories),
    ]
    assert {case["verdict"] for case in cases} == {"passed"}
    assert set(cases[0]) == {
        *("subject", "name", "number", "memory", "verdict", "reason", "seconds")
    }
    assert end["complete"] is True
    assert end["cases"] == {"passed": 6, "failed": 0, "cannot run here": 0, "lost": 0}


def test_junit_counts_every_case(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = userfault(
        "check", "--model", "--profile", "6.18", "--only", "10-12", "--junit", str(report)
    )

    suite = ElementTree.parse(report).getroot()
    assert done.returncode == 0
    assert suite.tag == "testsuite"
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "0",
        "errors": "0",
        "skipped": "1",
    }
    (skipped,) = suite.findall("testcase/skipped")
    assert "Linux 7.3" in (skipped.get("message") or "")
    assert list(tmp_path.iterdir()) == [report]


def test_the_list_has_every_statement() -> None:
    listed = lines(userfault("check", "--list", "--json").stdout)
    table = userfault("check", "--list").stdout

    assert [found["number"] for found in listed] == [found.number for found in load()]
    for found in load():
        assert f"\n{found.number:>4}  " in f"\n{table}"


def test_explain_shows_where_it_comes_from_and_every_call() -> None:
    done = userfault("check", "--model", "--explain", "5")

    assert done.returncode == 0
    assert "5. UFFDIO_API with another version" in done.stdout
    assert "ioctl_userfaultfd(2)" in done.stdout
    assert "model next: passed" in done.stdout
    assert "T1 Ioctl(3, UFFDIO_API, [0xab 0x0" in done.stdout
    assert "-> EINVAL, [0x0 0x0 0x0]" in done.stdout


# --- Exit codes ----------------------------------------------------------------------------------


@pytest.fixture
def broken() -> Any:
    """Statements 900 (fails), 901 (lost) and 902 (of the first two memories, one fails)."""
    load()

    @statement(900, "It is so.", since="4.3", source="this test")
    def never_so(t: Thread) -> None:
        t.map("anon")
        raise Failed("it is not so")

    @statement(901, "It comes to an end.", since="4.3", source="this test")
    def never_ends(t: Thread) -> None:
        del t
        raise Lost("hang")

    @statement(902, "It is so.", since="4.3", source="this test", memories=("anon", "shmem"))
    def sometimes_so(t: Thread, memory: Memory) -> None:
        del t
        if memory.name == "shmem":
            raise Failed("not here")

    yield
    for number in (900, 901, 902):
        del REGISTRY[number]


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("number", "verdict"), [(900, "failed"), (901, "lost"), (902, "failed")])
def test_a_failure_is_exit_code_1(number: int, verdict: str) -> None:
    done = on_the_model("--only", str(number))

    assert done.return_value == 1
    assert f"1 {verdict}" in done.output


@pytest.mark.usefixtures("broken")
def test_a_failure_shows_its_reason_and_in_json_its_trace() -> None:
    table = on_the_model("--only", "902").output
    (case,) = lines(on_the_model("--only", "900", "--json").output)[1:-1]

    assert [word for word in table.split() if word in ("passed", "failed")][:2] == [
        "passed",
        "failed",
    ]
    assert "not here" in table
    assert case["reason"] == "it is not so"
    assert [line.split("(")[0] for line in case["trace"]] == ["T1 Mmap"]


def test_where_nothing_can_run_it_is_exit_code_3() -> None:
    done = userfault("check", "--model", "--profile", "6.18", "--only", "11")

    assert done.returncode == 3


def test_without_a_compiler_it_is_exit_code_3(tmp_path: Path) -> None:
    done = subprocess.run(
        command("check"),
        env=environment(XDG_CACHE_HOME=str(tmp_path), PATH="/nonexistent", CC=""),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 3
    assert "cannot run here: no C compiler" in done.stderr
    assert "install gcc or clang" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--only", "nonsense"),
        ("--explain", "99999"),
        ("--profile", "6.18"),
        ("--model", "--profile", "2.6"),
        ("--design", "merged"),
        ("--model", "--design", "nonsense"),
        ("--nonsense",),
    ],
)
def test_a_wrong_call_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = userfault("check", *arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


# --- Interruptions -------------------------------------------------------------------------------

# Every case waits for a byte, so that the run is surely in the middle when it is ended.
_STEPPED = """
import sys
from userfault.check import run
whole = run.run_case
def stepped(*arguments):
    sys.stdin.read(1)
    return whole(*arguments)
run.run_case = stepped
from userfault.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_run_that_is_ended_keeps_its_results(tmp_path: Path, number: int, code: int) -> None:
    report = tmp_path / "report.xml"
    arguments = ["check", "--model", "--json", "--only", FAST, "--junit", str(report)]
    with subprocess.Popen(
        [sys.executable, "-c", _STEPPED, *arguments],
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("xxx")
        process.stdin.flush()
        head = [process.stdout.readline() for _ in range(4)]
        process.send_signal(number)
        if number != signal.SIGKILL:
            process.stdin.write("x")  # the case it is at comes to its end first
        rest = process.communicate()[0]

    found = lines("".join(head) + rest)
    assert process.returncode == code
    assert [case["number"] for case in found if "verdict" in case][:3] == [1, 2, 3]
    ElementTree.parse(report)  # whole at any moment
    if number != signal.SIGKILL:
        assert found[-1]["complete"] is False
        assert len(ElementTree.parse(report).getroot()) >= 3


def test_a_live_run_that_is_killed_leaves_no_process(agent: None) -> None:  # noqa: ARG001
    with subprocess.Popen(
        command("check", "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.kill()
        process.wait()

    wait_until(lambda: not of_session(process.pid))
