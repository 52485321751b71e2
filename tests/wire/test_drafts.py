"""The drafts' forms are told apart by their first bytes, at every length of what came so far."""

from __future__ import annotations

import struct

import pytest

from userfault.wire import drafts
from userfault.wire.drafts import Form, Sizes, Word
from userfault.wire.errors import BadMessageError

REGION = struct.pack("<QQQQiiQ", 1 << 20, 8192, 4096, 4096, 3, 2, 0)
FRAME = struct.pack("<HHBBHQ", 0x0A, 1, 5, 1, 1, 48) + REGION
MAGIC = struct.pack("<IHHQIHBB", 0x55464644, 0, 1, 0, 44, 1, 1, 1) + REGION[:40]
TEXT = b'{"type":"handoff","version":0,"vmm_pid":7,"mode":"MISSING","regions":[]}'
OBJECT = b'{"type":0,"policy":1,"regions":[]}'

WHOLE = {
    Form.FRAMES: FRAME,
    Form.MAGIC: MAGIC,
    Form.OBJECT: OBJECT,
    Form.HANDOFF: struct.pack("<I", len(TEXT)) + TEXT,
}


@pytest.mark.parametrize("form", WHOLE)
def test_a_message_is_known_a_byte_at_a_time(form: Form) -> None:
    data = WHOLE[form]
    sizes = Sizes(1 << 16)
    for length in range(len(data)):
        assert sizes(data[:length]) > length
    assert sizes(data + b"more"[: 0 if form is Form.OBJECT else 4]) == len(data)
    assert sizes.form is form


@pytest.mark.parametrize("low", [ord("{"), ord("["), 0x0A, 0x44])
def test_a_length_that_looks_like_another_form_is_a_length(low: int) -> None:
    data = struct.pack("<I", low) + b"{" + b" " * low
    assert drafts.form_of(data) is Form.HANDOFF


def test_a_frame_says_all_that_is_published() -> None:
    told = drafts.read(Form.FRAMES, FRAME)
    assert (told.word, told.managed, told.answered) == (Word.HELLO, True, True)
    (region,) = told.regions
    assert (region.address, region.size, region.offset) == (1 << 20, 8192, 4096)
    assert drafts.read(Form.MAGIC, MAGIC).regions == told.regions


@pytest.mark.parametrize("form", [Form.FRAMES, Form.MAGIC])
def test_a_frame_with_other_regions_than_it_counts_is_refused(form: Form) -> None:
    data = bytearray(WHOLE[form])
    data[6 if form is Form.FRAMES else 23] = 2
    with pytest.raises(BadMessageError, match="2 regions"):
        drafts.read(form, bytes(data))


@pytest.mark.parametrize("form", Form)
def test_what_is_cut_short_or_no_json_is_refused(form: Form) -> None:
    head = {Form.HANDOFF: b"\x02\0\0\0{x", Form.FRAMES: FRAME[:17], Form.MAGIC: MAGIC[:21]}
    with pytest.raises(BadMessageError):
        drafts.read(form, head.get(form, b"{x"))
