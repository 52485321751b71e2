"""Cloud Hypervisor's migration protocol, byte by byte."""

from __future__ import annotations

import pytest

from userfault.wire import cloud_hypervisor as wire
from userfault.wire.cloud_hypervisor import Command, Fault, Status
from userfault.wire.errors import BadMessageError

FAULT = bytes.fromhex("0900 000000000000 1000000000000000 0030000001000000 0010000000000000")


def test_a_page_fault_is_read_as_it_is_published() -> None:
    assert wire.size_of(b"") == 16
    assert wire.size_of(FAULT[:16]) == 32
    assert wire.read_fault(FAULT) == Fault(0x1_0000_3000, 4096)
    assert wire.read_fault(wire.request(Command.ABANDON)) is None


def test_requests_and_responses_are_written_as_they_are_published() -> None:
    assert wire.request(Command.START) == bytes.fromhex("0100 000000000000 0000000000000000")
    assert wire.request(Command.CONFIG, 489)[8:] == (489).to_bytes(8, "little")
    assert wire.response(Status.OK) == bytes.fromhex("0100 000000000000 0000000000000000")
    assert wire.read_response(wire.response(Status.ERROR, 7)) == (Status.ERROR, 7)
    assert wire.FAULT_ROLE == b"\x02\x00"
    assert wire.slot_of(wire.slot(3)) == 3


@pytest.mark.parametrize("word", [0, 10, 77, 0xFFFF])
def test_an_unknown_command_is_refused(word: int) -> None:
    with pytest.raises(BadMessageError, match="unknown"):
        wire.size_of(word.to_bytes(2, "little") + bytes(14))


@pytest.mark.parametrize("length", [0, 15, 17, 1 << 63])
def test_a_page_fault_of_another_length_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(BadMessageError, match="PAGE_FAULT"):
        wire.size_of(wire.request(Command.PAGE_FAULT, length))


def test_an_unknown_status_is_refused() -> None:
    for number in (0, 3):
        with pytest.raises(BadMessageError, match="unknown"):
            wire.read_response(number.to_bytes(2, "little") + bytes(14))
