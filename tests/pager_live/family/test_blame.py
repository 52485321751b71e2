"""Whose doing it is that workers fail: who is ended for it, and who is served on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

import userfault
from userfault import Policy
from userfault.pager.core.plan import Counters
from userfault.pager.core.recorded import ContextRecord
from userfault.pager.drivers.family.blame import CRASHES, Crashes
from userfault.pager.drivers.record.journal import MESSAGE, Journal, Word
from userfault.pager.drivers.record.records import (
    ClientRecord,
    Descriptors,
    FamilyRecord,
    Kept,
    ServedRecord,
    encode,
)
from userfault.pager.drivers.wire import messages


class Family:
    """A journal that names two clients: the first with context 11, the second with context 22."""

    def __init__(self) -> None:
        self.journal = Journal.create()
        self.clients = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
        self.pidfds = [os.pidfd_open(each.pid) for each in self.clients]
        records = [
            ClientRecord(number, pidfd, -1, served=[raw(mapping(11 * number))])
            for number, pidfd in enumerate(self.pidfds, 1)
        ]
        self.journal.commit(encode(FamilyRecord(messages.Hello(), clients=list(map(raw, records)))))
        self.crashes = Crashes(self.journal)

    def crash(self, *, asking: int = 0, context: int = 0) -> bool:
        """A worker fails while it answers a client, or serves a context."""
        self.journal.words[Word.ASKING] = asking
        _, view = self.journal.batch(context)
        view[:MESSAGE] = bytes([0x12 if context else 0]) * MESSAGE
        self.journal.words[Word.CRASHES] += 1
        return self.crashes.for_ever()

    def judge(self, *killed: int) -> None:
        """These were killed, and no other."""
        for number, each in enumerate(self.clients, 1):
            if number in killed:
                assert each.wait(60) == -signal.SIGKILL
        assert [each.poll() is None for each in self.clients] == [
            number not in killed for number in (1, 2)
        ]

    def close(self) -> None:
        for each, pidfd in zip(self.clients, self.pidfds, strict=True):
            each.kill()
            each.wait()
            os.close(pidfd)
        self.journal.close()


def raw(record: ClientRecord | ServedRecord) -> msgspec.Raw:
    return msgspec.Raw(encode(record))


def mapping(context: int) -> ServedRecord:
    attach = messages.Attach(
        number=1,
        start=0,
        pages=1,
        page_size=4096,
        shared=False,
        zeropage=True,
        exists_is_ambiguous=False,
        has_poison=True,
        prepared=False,
        has_source=False,
        has_memory=False,
        source=userfault.zero(4096),
        policy=Policy(),
    )
    kept = Kept(-1, ContextRecord(context, -1, ()), Counters())
    return ServedRecord(attach, Descriptors(*[-1] * 5), [kept], [], 0)


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.close()


@pytest.mark.parametrize("doing", [{"asking": 2}, {"context": 22}])
def test_who_is_to_blame_each_time_is_ended_alone(family: Family, doing: dict[str, int]) -> None:
    assert [family.crash(**doing) for _ in range(CRASHES)] == [False, False, True]
    assert family.crashes.end_clients()
    family.judge(2)
    assert not family.crash(**doing)  # it is counted anew


def test_if_it_is_now_one_and_now_the_other_all_are_ended(family: Family) -> None:
    assert not family.crash(asking=1)
    assert not family.crash(context=22)
    assert family.crash(asking=1)
    assert not family.crashes.end_clients()
    family.judge(1, 2)


def test_if_nobody_is_to_blame_all_are_ended(family: Family) -> None:
    assert [family.crash() for _ in range(CRASHES)][-1]
    assert not family.crashes.end_clients()
    family.judge(1, 2)


def test_a_client_that_was_ended_in_vain_does_not_keep_the_others_waiting(family: Family) -> None:
    """Its forked children are served on, and the workers fail on."""
    for _ in range(CRASHES):
        family.crash(asking=2)
    assert family.crashes.end_clients()
    family.judge(2)
    for _ in range(CRASHES):
        family.crash(asking=2)
    assert not family.crashes.end_clients()
    family.judge(1, 2)
