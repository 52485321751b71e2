"""A program at the prompt: who does a step, what it came to, and what there is then."""

from __future__ import annotations

import pytest

from userfault.check.prompt.language import read
from userfault.check.prompt.session import Session, Turn
from userfault.check.prompt.state import rows, state
from userfault.check.prompt.telling import answer_text, call_text, place
from userfault.kernel.errors import UsageError
from userfault.model.profiles import PROFILES

_SLEEPS = "sleeps: fault"


def _run(session: Session, text: str) -> list[Turn]:
    return [turn for command in read(text) for turn in session.run(command)]


def _session(text: str = "", profile: str = "next") -> Session:
    session = Session(PROFILES[profile])
    _run(session, text)
    return session


def _told(turns: list[Turn]) -> list[tuple[str, str, str]]:
    return [
        (told.who, call_text(told.call), answer_text(told)) for turn in turns for told in turn.told
    ]


def test_a_fault_is_answered_by_a_task_that_does_not_sleep() -> None:
    session = _session("map anon; open; register anon missing")
    assert _told(_run(session, "touch anon+2")) == [("0", "Read(anon+2, 8)", _SLEEPS)]
    found = state(session)
    assert found["queues"] == {"u0 pending": "0 (missing, read at anon+2)"}
    assert list(found["waiting"]) == ["task 0"]
    assert _told(_run(session, "read u0")) == [
        ("1", "ReadFd(3, 512, False)", "PAGEFAULT MISSING, a read at anon+2")
    ]
    *_, woken, copied = _told(_run(session, "copy anon+2"))
    assert woken == ("0", "Read(anon+2, 8)", "b'CCCCCCCC'")
    assert copied[1:] == (
        "UFFDIO_COPY(3, dst anon+2, src src+2, len 4096)",
        "0, copy 4096",
    )
    found = state(session)
    assert not found["queues"]
    assert not found["waiting"]
    assert found["entries"]["anon+2"].endswith("writable, exclusive")


def test_a_task_that_is_named_has_to_be_awake() -> None:
    session = _session("map anon; open; register anon missing; touch anon+2")
    with pytest.raises(UsageError, match="task 0 sleeps"):
        _run(session, "0 read u0")
    assert _told(_run(session, "3 read u0"))[0][0] == "3"


def test_what_a_step_changes_is_marked() -> None:
    session = _session("map shm; open; register shm missing; write shm+0")
    before = state(session)
    _run(session, "zeropage shm+0; munmap shm+4 4p")
    found = rows(before, state(session))
    marks = {row.thing: row.change for table in found.values() for row in table}
    assert marks["shm+0"] in ("new", "changed")
    assert marks["task 0"] == "gone"
    assert marks["u0 pending"] == "gone"


def test_a_fork_waits_for_its_event_and_brings_a_userfaultfd() -> None:
    session = _session("map anon; open event_fork; register anon missing")
    assert _told(_run(session, "fork"))[0][2] == "sleeps: event"
    with pytest.raises(UsageError, match="there is no process c1"):
        _run(session, "c1.0 touch anon")
    _run(session, "read u0")
    assert "f0" in session.scopes[0].fds
    assert _told(_run(session, "c1.0 touch anon"))[0] == (
        "c1.0",
        "Read(anon+0, 8)",
        "sleeps: fault",
    )
    assert state(session)["queues"] == {"f0 of space 1 pending": "c1.0 (missing, read at anon+0)"}
    _run(session, "zeropage f0 anon+0")
    assert not state(session)["waiting"]


def test_the_guest_raises_no_message_and_kvm_does() -> None:
    session = _session("map gmem; open; register gmem minor")
    assert _told(_run(session, "guest write gmem+1")) == [("0", "Guest.write(gmem+1)", "8")]
    assert _told(_run(session, "guest kvm gmem+1")) == [("0", "Guest.kvm(gmem+1)", _SLEEPS)]
    assert _told(_run(session, "continue gmem+1"))[0][2] == "b'guest...'"
    _run(session, "guest private gmem+1")
    assert _told(_run(session, "continue gmem+1"))[0][2].startswith("EFAULT")
    with pytest.raises(UsageError, match="no memory for a guest"):
        _run(session, "guest read anon+0")


def test_a_released_kernel_refuses_guest_memfd() -> None:
    session = _session("map gmem; open", profile="7.3")
    assert _told(_run(session, "register gmem minor"))[0][2] == "EINVAL"


def test_the_steps_so_far_are_a_program() -> None:
    session = _session("map shm; open; register shm missing; touch shm+2; copy shm+2")
    assert [str(step) for step in session.program] == [
        "0 map shm",
        "0 uffd u0",
        "0 api u0 0",
        "0 register u0 shm+0 8p 1",
        "0 load shm+2",
        "1 map src",
        "1 copy u0 shm+2 src+2 1p 0",
    ]
    assert not session.beyond


def test_an_address_is_named_by_the_area_that_it_is_in() -> None:
    assert place(0) is None
    command = read("touch part+9")[0]
    spot = command.steps[0].spot
    assert spot is not None
    assert place(spot.address) == "thp+1+36864"
    assert place(1 << 46) is None
