"""Three ways to a userfaultfd: which one works for whom, and what the refusal says."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from helpers.child import run
from helpers.skips import absent, need_root
from helpers.world import World
from userfault.kernel.errors import OpenRefused
from userfault.kernel.modes import Feature
from userfault.linux import opening, uffd

SYSCALL = "userfaultfd(2)"
USER_MODE = "userfaultfd(2) with UFFD_USER_MODE_ONLY"


@pytest.fixture
def _default_sysctl() -> None:
    with open(opening.SYSCTL) as file:
        if file.read().strip() != "0":
            absent("vm.unprivileged_userfaultfd is 1: everybody may open one here")
    if os.stat(opening.DEVICE).st_mode & 0o006:
        absent(f"{opening.DEVICE} is open to everybody here")


def test_root_opens_by_the_device() -> None:
    need_root()
    opened = opening.open_userfaultfd()
    os.close(opened.fd)

    assert (opened.way, opened.user_mode_only) == (opening.DEVICE, False)


def test_the_system_call_is_next_when_the_device_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_root()
    monkeypatch.setattr(opening, "DEVICE", "/nonexistent")
    opened = opening.open_userfaultfd()
    os.close(opened.fd)

    assert (opened.way, opened.user_mode_only) == (SYSCALL, False)


def test_user_mode_only_can_be_asked_for() -> None:
    opened = opening.open_userfaultfd(user_mode_only=True)
    os.close(opened.fd)

    assert (opened.way, opened.user_mode_only) == (USER_MODE, True)


@pytest.mark.parametrize("blocking", [False, True])
def test_descriptors_close_on_exec_and_block_only_when_asked(blocking: bool) -> None:
    opened = opening.open_userfaultfd(blocking=blocking)
    try:
        assert fcntl.fcntl(opened.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert bool(fcntl.fcntl(opened.fd, fcntl.F_GETFL) & os.O_NONBLOCK) is not blocking
    finally:
        os.close(opened.fd)


@pytest.mark.usefixtures("_default_sysctl")
def test_a_user_without_rights_gets_user_mode_only() -> None:
    need_root()

    answer = run("linux.children:open_as_nobody", None)

    assert answer == {"way": USER_MODE, "user_mode_only": True}


@pytest.mark.usefixtures("_default_sysctl")
def test_a_user_without_rights_who_wants_kernel_faults_hears_how_to_get_them() -> None:
    need_root()

    answer = run("linux.children:open_as_nobody", False)

    assert answer["attempts"] == [[opening.DEVICE, errno.EACCES], [SYSCALL, errno.EPERM]]
    for way_out in (opening.DEVICE, opening.SYSCTL, "CAP_SYS_PTRACE"):
        assert way_out in answer["text"]
    assert answer["left"] == 0


@pytest.mark.usefixtures("_default_sysctl")
def test_when_all_ways_are_refused_the_error_names_each_and_seccomp() -> None:
    need_root()

    answer = run("linux.children:open_behind_seccomp", errno.EPERM)

    assert answer["attempts"] == [
        [opening.DEVICE, errno.EACCES],
        [SYSCALL, errno.EPERM],
        [USER_MODE, errno.EPERM],
    ]
    assert f"{opening.DEVICE}: EACCES; {SYSCALL}: EPERM; {USER_MODE}: EPERM" in answer["text"]
    assert "seccomp" in answer["text"]


@pytest.mark.usefixtures("_default_sysctl")
def test_a_filter_that_says_enosys_is_not_taken_for_an_old_kernel_alone() -> None:
    need_root()

    answer = run("linux.children:open_behind_seccomp", errno.ENOSYS)

    assert [code for _, code in answer["attempts"]] == [errno.EACCES, errno.ENOSYS, errno.ENOSYS]
    assert "CONFIG_USERFAULTFD" in answer["text"]
    assert "seccomp" in answer["text"]


def test_descriptor_exhaustion_is_named_and_leaks_nothing() -> None:
    answer = run("linux.children:open_without_a_free_descriptor")

    assert "EMFILE" in answer["open"]
    assert "ulimit -n" in answer["open"]
    assert "ulimit -n" in answer["memory"]
    assert answer["left"] == 0


def test_a_failed_handshake_closes_its_descriptor(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    real = uffd._handshake
    calls: list[Feature] = []

    def fails_the_second_time(fd: int, features: Feature) -> object:
        calls.append(features)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(fd, features)

    monkeypatch.setattr(uffd, "_handshake", fails_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        world.userfaultfd()
    # the fixture checks that no descriptor is left


@pytest.mark.usefixtures("_default_sysctl")
def test_fork_events_need_a_capability_and_the_error_names_it() -> None:
    need_root()

    assert "CAP_SYS_PTRACE" in run("linux.children:ask_for_fork_events_as_nobody")


@pytest.mark.usefixtures("_default_sysctl")
def test_user_mode_only_fails_system_calls_with_efault_and_serves_touches() -> None:
    need_root()

    answer = run("linux.children:system_call_on_a_missing_page_as_nobody")

    assert answer == {"errno": errno.EFAULT, "messages": 0, "faults": 1, "page": [7]}


def test_open_refused_is_a_permission_error() -> None:
    assert issubclass(OpenRefused, PermissionError)
