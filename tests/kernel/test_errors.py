"""Errors say what was tried, why it failed and what to do; they survive being sent elsewhere."""

from __future__ import annotations

import errno
import pickle

import pytest

from userfault.kernel.errors import (
    FeatureMissing,
    KernelError,
    MemoryUnavailable,
    NotRegistered,
    OpenRefused,
    OwnerGone,
    PageExists,
    PagerError,
    RegistrationRefused,
    SourceError,
    SourceTypeError,
    TryAgain,
    Unavailable,
    UsageError,
    UserfaultError,
)
from userfault.kernel.explain import explain

OPERATIONS = (
    "UFFDIO_API",
    "UFFDIO_REGISTER",
    "UFFDIO_UNREGISTER",
    "UFFDIO_COPY",
    "UFFDIO_ZEROPAGE",
    "UFFDIO_CONTINUE",
    "UFFDIO_POISON",
    "UFFDIO_MOVE",
    "UFFDIO_WRITEPROTECT",
)


def test_the_text_has_what_was_tried_the_cause_and_the_cure() -> None:
    error = UserfaultError("cannot do it", cause="no room", cure="make room")

    assert str(error) == "cannot do it: no room (cure: make room)"
    assert str(UserfaultError("cannot do it")) == "cannot do it"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EAGAIN, TryAgain),
        (errno.EEXIST, PageExists),
        (errno.ENOENT, NotRegistered),
        (errno.ESRCH, OwnerGone),
        (errno.EINVAL, KernelError),
    ],
)
def test_each_errno_that_callers_tell_apart_has_a_class(code: int, kind: type[KernelError]) -> None:
    error = KernelError.of("UFFDIO_COPY", code, start=0x1000, length=0x2000)

    assert type(error) is kind
    assert error.errno == code
    assert isinstance(error, OSError)


def test_a_partial_fill_says_how_far_it_came_and_where_to_go_on() -> None:
    error = KernelError.of("UFFDIO_COPY", errno.EAGAIN, start=0x1000, length=0x3000, done=0x1000)

    assert error.resume == 0x2000
    assert str(error).startswith(
        "UFFDIO_COPY failed with EAGAIN on [0x1000, 0x4000) after 4096 bytes: "
    )


def test_without_a_range_the_error_has_none() -> None:
    error = KernelError.of("UFFDIO_API", errno.EPERM)

    assert str(error).startswith("UFFDIO_API failed with EPERM: EVENT_FORK needs CAP_SYS_PTRACE")
    assert error.resume == 0


def test_a_known_cause_replaces_the_general_one() -> None:
    error = KernelError.of("UFFDIO_REGISTER", errno.EINVAL, memory="anon", cause="a", cure="b")

    assert str(error) == "UFFDIO_REGISTER failed with EINVAL of anon: a (cure: b)"


def test_an_errno_without_a_name_is_told_by_number() -> None:
    assert "errno 4000" in str(KernelError("UFFDIO_COPY", 4000))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "code",
    [
        errno.EAGAIN,
        errno.EEXIST,
        errno.ENOENT,
        errno.ESRCH,
        errno.EFAULT,
        errno.EINVAL,
        errno.ENOMEM,
        errno.EPERM,
    ],
)
def test_every_errno_of_every_operation_is_explained(operation: str, code: int) -> None:
    assert explain(operation, code).cause


def test_an_unexpected_errno_has_the_text_of_the_system() -> None:
    assert explain("UFFDIO_COPY", errno.EIO).cause == "Input/output error"


def test_open_refused_tells_what_each_way_said() -> None:
    error = OpenRefused([("a", errno.EACCES), ("b", errno.ENOSYS)], "change it")

    assert str(error) == "cannot open a userfaultfd: a: EACCES; b: ENOSYS (cure: change it)"
    assert isinstance(error, PermissionError)


@pytest.mark.parametrize(
    ("missing", "text"),
    [(["RWP"], "lacks the userfaultfd feature RWP"), (["A", "B"], "features A, B")],
)
def test_missing_features_are_named(missing: list[str], text: str) -> None:
    assert text in str(FeatureMissing(missing, ["MOVE"]))


def test_a_kernel_that_offers_nothing_is_said_to() -> None:
    assert "it offers none" in str(FeatureMissing(["RWP"], []))


def test_families_are_told_apart_by_class() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(SourceTypeError, TypeError)
    for kind in (OpenRefused, FeatureMissing, MemoryUnavailable):
        assert issubclass(kind, Unavailable)
    assert issubclass(RegistrationRefused, KernelError)


@pytest.mark.parametrize(
    "error",
    [
        UserfaultError("what", cause="cause", cure="cure"),
        UsageError("what", cause="cause", cure="cure"),
        MemoryUnavailable("what", cause="cause"),
        PagerError("what"),
        OpenRefused([("a", 13)], "cure"),
        FeatureMissing(["RWP", "MOVE"], ["POISON"]),
        KernelError.of("UFFDIO_COPY", 17, start=4096, length=8192, done=4096, memory="anon"),
        RegistrationRefused("UFFDIO_REGISTER", 22, start=1, length=2, cause="c", cure="d"),
        SourceError("what", offset=3, length=4, cause="cause"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_being_sent_to_another_process(error: UserfaultError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
