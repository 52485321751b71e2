"""CRIU's page server: each header in both its forms, and that nothing else means anything."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from userfault.wire.criu.page_server import (
    LAZY,
    PAGE,
    PARENT,
    PRESENT,
    Command,
    Form,
    PageMap,
    Request,
    Requests,
    answer,
    decode,
    decode_answer,
    encode,
)
from userfault.wire.errors import BadMessageError
from userfault.wire.regions import HIGHEST

FORMS = st.sampled_from(Form)
_PAGES = st.integers(1, 1 << 20)
# Below, a count of pages in the long form might be an address of the short one: see `_form_of`.
_ADDRESSES = st.integers(1 << 10, (HIGHEST >> 12) - (1 << 20)).map(lambda page: page * PAGE)
_TASKS = st.builds(PageMap, st.integers(1, (1 << 22) - 1))
_MAPS = _TASKS | st.builds(PageMap, st.integers(0, (1 << 56) - 1), st.just(True))
_OPENS = st.builds(
    lambda command, held: Request(command, map=held),
    st.sampled_from((Command.OPEN, Command.OPEN2, Command.PARENT)),
    _MAPS,
)
_GETS = st.builds(
    lambda pages, address, held: Request(Command.GET, 0, pages, address, held),
    _PAGES,
    _ADDRESSES,
    _TASKS,
)
_ADDS = st.builds(
    Request,
    st.sampled_from((Command.ADD_F, Command.ADD_F_COMPRESSED)),
    st.sampled_from((PARENT, LAZY, PRESENT, LAZY | PRESENT, PARENT | LAZY)),
    _PAGES,
    _ADDRESSES,
    _MAPS,
)
_OLD = st.builds(
    lambda kind, pages, address, held: Request(kind[0], kind[1], pages, address, held),
    st.sampled_from(((Command.ADD, PRESENT), (Command.HOLE, PARENT))),
    _PAGES,
    _ADDRESSES,
    _MAPS,
)
_ENDS = st.sampled_from((Command.CLOSE, Command.FORCE_CLOSE)).map(Request)


def heard(data: bytes, step: int, form: Form | None = None) -> list[Request]:
    """What a server makes of these bytes, which come `step` at a time."""
    requests = Requests(form)
    found, held = [], b""
    for at in range(0, len(data), step):
        held += data[at : at + step]
        while len(held) >= requests.wanted:
            piece, held = held[: requests.wanted], held[requests.wanted :]
            request = requests.take(piece)
            if request is not None:
                found.append(request)
    return found


@settings(max_examples=60, deadline=None)
@given(FORMS, _OPENS | _GETS, st.lists(_OPENS | _GETS | _ADDS | _OLD, max_size=4), _ENDS)
def test_the_first_header_tells_the_form_of_all(
    form: Form, first: Request, others: list[Request], last: Request
) -> None:
    said = [first, *others, last]
    data = b"".join(encode(each, form) for each in said)
    assert len(data) == form.size * len(said)
    for step in (1, 7, len(data)):
        assert heard(data, step) == said


@given(_GETS, st.binary(min_size=4, max_size=4))
def test_what_is_in_the_padding_tells_nothing(request: Request, padding: bytes) -> None:
    data = encode(request, Form.LONG)
    assert heard(data[:4] + padding + data[8:], 32) == [request]


@given(FORMS, _ADDS | _OLD)
def test_what_is_no_first_request_is_refused(form: Form, request: Request) -> None:
    with pytest.raises(BadMessageError, match="begins with"):
        heard(encode(request, form), 24)


def test_numbers_of_types_of_older_releases_mean_the_same() -> None:
    for kind in (1, 10, 11, 16, 17):
        data = Form.SHORT.value.pack(Command.OPEN2, 0, 0, 77 << 8 | kind)
        assert heard(data, 24)[0].map == PageMap(77)
    for kind in (2, 27, 28, 29, 32, 33, 34):
        data = Form.LONG.value.pack(Command.OPEN2, 0, 0, 77 << 8 | kind)
        found = heard(data, 32)[0].map
        assert found == PageMap(77, shared=True)
        assert str(found) == "shmem-77"


@settings(max_examples=300, deadline=None)
@given(FORMS, st.binary(min_size=32, max_size=32))
@example(Form.LONG, struct.pack("=I4xQQQ", Command.GET, 1 << 60, 0, 1))
@example(Form.LONG, struct.pack("=I4xQQQ", Command.GET, 1, (1 << 64) - PAGE, 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 6 | 4 << 16, 1 << 52, PAGE, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 6 | 5 << 16, 1, PAGE, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 6 | 12 << 16, 1, PAGE, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 6 | 4 << 16, 1, PAGE + 1, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 6 | 4 << 16, 0, PAGE, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", 9, 1, PAGE, 1 << 8 | 1))
@example(Form.LONG, struct.pack("=I4xQQQ", Command.GET, 1, PAGE, 1 << 40))
@example(Form.LONG, struct.pack("=I4xQQQ", Command.OPEN2, 0, 0, 1 << 8 | 3))
def test_any_bytes_are_a_request_that_makes_sense_or_are_refused(form: Form, data: bytes) -> None:
    try:
        request = decode(data[: form.size], form)
    except BadMessageError:
        return
    assert request.end <= HIGHEST
    assert request.flags & ~(PARENT | LAZY | PRESENT) == 0 or request.command is Command.GET
    assert (request.map is None) == (request.command in (Command.CLOSE, Command.FORCE_CLOSE))


@given(FORMS, _GETS, st.data())
def test_an_answer_has_the_pages_that_were_asked_for_or_fewer(
    form: Form, asked: Request, data: st.DataObject
) -> None:
    given_ = data.draw(st.integers(1, asked.pages))
    assert decode_answer(answer(asked, given_, form), asked, form) == given_
    for wrong in (0, asked.pages + 1):
        with pytest.raises(BadMessageError):
            decode_answer(answer(asked, wrong, form), asked, form)


@given(_GETS)
def test_an_answer_in_the_other_form_is_refused(asked: Request) -> None:
    long = answer(asked, 1, Form.LONG)
    with pytest.raises(BadMessageError, match="release"):
        decode_answer(long[: Form.SHORT.size], asked, Form.SHORT)


def test_a_release_says_its_form() -> None:
    assert {Form.of(each) for each in ("3.17", "4.1", "4.1.1")} == {Form.SHORT}
    assert {Form.of(each) for each in ("4.2", "4.2.1", "5.0")} == {Form.LONG}
