"""`userfault lab run`: statements, programs and commands in a real guest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli.commands import command, environment
from helpers.skips import absent
from userfault.lab.store import Kernel

# One after the other: each machine keeps a processor busy.
pytestmark = [pytest.mark.xdist_group("lab"), pytest.mark.timeout(300)]

# Of each subject some; every memory type, with guest_memfd; 115 is new in 7.3.
SELECTION = "1-8,17,30,41,42,50,60,80,100,115,120,140,150,164"
_LIMIT_S = 200


def lab(*arguments: str, append: str = "") -> subprocess.CompletedProcess[str]:
    told = ["--append", append] if append else []
    return subprocess.run(
        command("lab", "run", *told, *arguments),
        env=environment(COLUMNS="120"),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )


def machines(word: str) -> list[int]:
    """Processes of QEMU whose kernel has this word on its command line."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdecimal():
                line = Path("/proc", entry, "cmdline").read_bytes()
                if b"qemu" in line and word.encode() in line:
                    found.append(int(entry))
    return found


def until(happens: object, limit_s: float = 60.0) -> None:
    assert callable(happens)
    deadline = time.monotonic() + limit_s
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_statements_are_kept_by_the_newest_kernel(kernel: Kernel, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    done = lab(
        "--guests", "2", kernel.suite, "--", "check", "--only", SELECTION, "--json",
        "--junit", str(junit),
    )  # fmt: skip
    header, *cases, sums = (json.loads(line) for line in done.stdout.splitlines())

    assert done.returncode == 0, done.stdout + done.stderr
    assert header["kernel"] == f"Linux {kernel.release}"
    assert {case["verdict"] for case in cases} == {"passed"}
    numbers = [case["number"] for case in cases]
    assert numbers == sorted(numbers)  # in order, although there are two machines
    assert {"anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private", "guest_memfd"} <= {
        case["memory"] for case in cases
    }
    assert sums["complete"]
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("tests") == str(len(cases))


def test_random_programs_agree_with_the_model(kernel: Kernel) -> None:
    done = lab(
        "--guests", "1", kernel.suite, "--", "check", "--fuzz", "--programs", "12", "--seed", "3"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 programs of" in done.stdout
    assert "0 of them diverged" in " ".join(done.stdout.split())


def test_a_command_runs_inside_with_the_project(kernel: Kernel, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("from outside\n")
    program = (
        "import os, sys, userfault; print(os.uname().release, userfault.__name__);"
        f"print(open({str(mine)!r}).read(), file=sys.stderr); sys.exit(7)"
    )
    done = lab("--with", str(mine), kernel.suite, "--", "python3", "-c", program)

    assert done.returncode == 7, done.stdout + done.stderr
    assert done.stdout == f"{kernel.release} userfault\n"
    assert done.stderr == "from outside\n\n"


def test_a_guest_of_kvm_in_the_machine_is_served_as_on_the_model(kernel: Kernel) -> None:
    profile = ".".join(kernel.release.split(".")[:2])
    words = ("vm", "steps", "--memory", "shmem", "--on", "live", "--on", profile)
    done = lab(kernel.suite, "--", "userfault", *words)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": page ") == 8
    assert done.stdout.endswith(f"step for step the same on live, {profile}\n")


def test_a_kernel_that_panics_is_lost_and_says_why(kernel: Kernel) -> None:
    done = lab("--guests", "1", kernel.suite, "--", "check", "--only", "1,2", append="rdinit=/x")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 lost" in done.stdout
    assert "Kernel panic" in done.stdout


def test_a_command_whose_machine_dies_is_an_error(kernel: Kernel) -> None:
    done = lab(kernel.suite, "--", "sh", "-c", "echo c >/proc/sysrq-trigger")

    assert done.returncode == 1
    assert "the virtual machine has died" in done.stderr
    assert "Kernel panic" in done.stderr


def test_a_command_that_does_not_end_in_its_time_is_lost_with_its_machine(kernel: Kernel) -> None:
    done = lab("--timeout", "1.5", kernel.suite, "--", "sh", "-c", "echo so far; sleep 1000")

    assert done.returncode == 1
    assert done.stdout == "so far\n"
    assert "the command was not done within 1.5 s" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("inner", [("check",), ("sleep", "1000")])
def test_nothing_is_left_running(kernel: Kernel, number: int, inner: tuple[str, ...]) -> None:
    word = f"lab-test-{os.getpid()}-{number}"
    words = command("lab", "run", "--append", word, "--guests", "2", kernel.suite, "--", *inner)
    process = subprocess.Popen(
        words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: machines(word))
        process.send_signal(number)

        assert process.wait(60) == (-9 if number == signal.SIGKILL else 128 + number)
        until(lambda: not machines(word))
    finally:
        process.kill()
        process.wait()


# --- A memory type from outside ------------------------------------------------------------------


def test_a_module_s_memory_is_checked_in_place_of_shmem(kernel: Kernel) -> None:
    told = ("--module", "--guests", "1", kernel.suite, "--", "check")
    checked = lab(*told, "--only", "1,45,49,89", "--json")
    if checked.returncode == 3:  # no headers, no compiler
        absent(checked.stderr)
    assert checked.returncode == 0, checked.stderr
    header, *cases = map(json.loads, checked.stdout.splitlines())
    fuzzed = lab(*told, "--fuzz", "--programs", "20", "--seed", "1")

    assert header["statements"] == 3  # the handshake is about no memory
    assert {case["memory"] for case in cases if "memory" in case} == {"outside", "outside-private"}
    assert {case["verdict"] for case in cases if "verdict" in case} == {"passed"}
    assert fuzzed.returncode == 0, fuzzed.stdout
    assert "20 programs" in fuzzed.stdout


def test_a_kernel_of_one_s_own_has_no_module(kernel: Kernel) -> None:
    done = lab("--module", "--kernel", kernel.vmlinuz, "--", "check")

    assert done.returncode == 3
    assert "a kernel of your own: no package has its headers" in done.stderr
