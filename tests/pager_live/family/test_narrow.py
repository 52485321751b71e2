"""A pager comes up, or says the one cause; and it stays up where little is left for it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from helpers import cgroup, child
from helpers.skips import absent, need_root
from stress.narrow import Went
from stress.tracer import CAN_REFUSE
from userfault.linux.descriptors import RESERVE

SCENES = "pager_live.family.narrow_scenes:"
X86_64 = {
    "pidfd_open": 434,
    "memfd_create": 319,
    "eventfd2": 290,
    "pidfd_send_signal": 424,
    "epoll_create1": 291,
    "madvise": 28,
    "clone": 56,
}


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A program that is no Python, and tells when it is started."""
    path = tmp_path / "application"
    path.write_text(f"#!/bin/sh\necho $$ >>{tmp_path}/started\nexec sleep 77\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "embedded"])
def test_an_application_in_place_of_a_python_is_told_and_not_started(
    application: Path, tmp_path: Path, frozen: bool
) -> None:
    if frozen:
        name, what, cause, cure = child.run(SCENES + "started_by", str(application), True)
        assert "frozen" in cause
    else:  # the Python that the application was linked with serves, where it is known
        base = getattr(sys, "_base_executable", "")
        answer = child.run(SCENES + "started_by", str(application), False)
        if os.access(base, os.X_OK):
            assert answer == ["works", "x"]
            name = ""
        else:
            name, what, cause, cure = answer
    if name:
        assert (name, what) == ("PagerError", "cannot start a pager")
        assert str(application) in cause
        assert "USERFAULT_PYTHON" in cure
    assert not (tmp_path / "started").exists()


def test_a_frozen_application_can_name_a_python() -> None:
    assert child.run(SCENES + "started_with", "") == ["works", "x"]


def test_a_program_that_was_named_and_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\necho no Python here >&2\n")
    path.chmod(0o755)
    name, _, cause, cure = child.run(SCENES + "started_with", str(path))
    assert name == "PagerError"
    assert "no Python here" in cause
    assert "USERFAULT_PYTHON" in cure


def test_a_program_that_was_named_and_says_nothing_is_ended(application: Path) -> None:
    name, _, cause, _ = child.run(SCENES + "started_with", str(application))
    assert name == "PagerError"
    assert "may be no Python" in cause
    for pid in (application.parent / "started").read_text().split():
        assert not Path(f"/proc/{pid}/fd/0").exists()


def test_a_program_that_is_not_there_is_told() -> None:
    name, _, cause, _ = child.run(SCENES + "started_with", "/nonexistent/python")
    assert name == "UsageError"
    assert "/nonexistent/python" in cause


@pytest.mark.parametrize(
    ("call", "code"),
    [*((call, errno.EPERM) for call in X86_64), ("pidfd_open", errno.ENOSYS)],
)
def test_a_call_that_seccomp_refuses_is_done_without_or_named(
    call: str, code: int, image: Path
) -> None:
    if not CAN_REFUSE:
        absent("numbers of calls of x86-64")
    answer = child.run(SCENES + "behind_seccomp", X86_64[call], code, str(image))
    if answer != ["works", "True"]:
        _, _, cause, cure = answer
        assert f"{call}: {os.strerror(code)}" in cause
        assert f"allow `{call}`" in cure


def test_without_proc_the_pager_serves_and_heals(image: Path) -> None:
    need_root()
    found = child.run(SCENES + "without_proc", str(image))
    if found is None:
        absent("needs CAP_SYS_ADMIN, to unmount /proc")
    assert found == {"found": [1, 2, 3, 4], "takeovers": 1}


# --- descriptors ---------------------------------------------------------------------------------


def test_the_whole_family_has_all_descriptors_but_what_a_takeover_needs() -> None:
    found = child.run(SCENES + "below_the_hard_limit")
    assert found == {"worker": RESERVE, "supervisor": 0, "spare": 0}


@pytest.mark.parametrize(
    ("limit", "role"),
    [*((limit, "worker") for limit in range(60, 70, 2)), (63, "supervisor"), (63, "spare")],
)
def test_a_mapping_that_needs_the_reserve_is_refused_and_the_family_heals(
    image: Path, limit: int, role: str
) -> None:
    found = child.run(SCENES + "as_many_as_fit", str(image), limit, role)
    assert "descriptor" in " ".join(found["refused"])
    assert "ulimit -n" in found["refused"][3]
    assert found["kept"]
    mappings = len(found["found"]) // 2 - 1
    assert mappings
    assert found["found"] == [4] * mappings + [True] + [6] * mappings + [True]


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "mend"),
    [
        (["worker"], True),
        (["supervisor"], True),
        (["worker", "worker"], False),
        (["spare", "worker"], False),
        (["supervisor", "worker"], False),
        (["spare", "supervisor"], False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_where_no_process_can_be_had_whoever_is_left_serves(
    image: Path, roles: list[str], mend: bool
) -> None:
    if not cgroup.possible("pids"):
        absent("no control group can be made here")
    found = child.run(SCENES + "without_a_process", str(image), roles, mend)
    assert found["found"] == [*range(1, len(roles) + 2), *([True] if mend else [])]


def test_a_supervisor_that_is_stopped_is_replaced_before_the_next_death_costs_a_thread(
    image: Path,
) -> None:
    started = child.start(SCENES + "stopped_while_another_dies", str(image), "supervisor", "worker")
    assert child.finish(started, 90) == {"found": [1, 8], "healed": True}


# --- sweeps: a sample; `make stress` takes all ---------------------------------------------------


# The limit on processes holds users only, who may have no Python to run: pids are the same.
@pytest.mark.parametrize("name", ["address space", "descriptors", "file size", "pids", "memory"])
def test_under_any_limit_it_works_or_is_told(name: str) -> None:
    found = child.finish(child.start("stress.limits:few", name), 110)
    if found is None:
        absent(f"this limit cannot be set here: {name}")
    assert [each for each in found if not Went(each[1]).right] == []
    assert found[-1][1] == "worked"


def test_any_call_of_the_client_that_is_refused_is_told_and_leaves_nothing() -> None:
    need_root()  # to trace
    if not CAN_REFUSE:
        absent("calls are refused by registers of x86-64")
    calls, bad = child.finish(child.start("stress.refused_calls:few"), 110)
    assert bad == []
    assert calls
