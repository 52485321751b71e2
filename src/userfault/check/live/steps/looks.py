"""Steps of calls that look from outside, all made by the control thread."""

from __future__ import annotations

import struct
from collections.abc import Generator

import msgspec

from userfault.check.live import syscalls as nr
from userfault.check.live.smaps import parse_smaps
from userfault.check.live.steps.files import STAT_LENGTH, stat_fields
from userfault.check.live.steps.requests import Steps, file, result, system_call
from userfault.check.live.wire import Op, Reply, Step
from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.uapi.pagemap import PM_SWAP

_LOOKS_AGAIN = 50
_SWAP_TYPE = 31  # of an entry that is not present; the last type is that of markers
_MARKER = 31


def pagemap(call: calls.Pagemap) -> Steps:
    first = call.address // calls.PAGE * 8
    length = -(-call.length // calls.PAGE) * 8
    step = file("/proc/self/pagemap", first, length)
    reply, words = yield from _at_rest(step, length // 8)
    return Result(data=words) if not reply.errno else result(reply)


def survey(call: calls.Survey) -> Steps:
    args = (call.stride, call.count, call.mask, call.offset, call.length)
    step = Step(Op.SURVEY, call.address, args, control=True)
    reply, words = yield from _at_rest(step, call.count)
    return Result(data=words + reply.data[len(words) :]) if not reply.errno else result(reply)


def _at_rest(step: Step, count: int) -> Generator[Step, Reply, tuple[Reply, bytes]]:
    """The reply to a look at pagemap, and its `count` first words, but what no two runs share.

    Where compaction moves pages, as it does for huge ones, a migration entry stands in place of a
    page for a moment, which pagemap calls swapped out: then look again.  (Of real swap that is in
    vain; whoever may not see more than flags sees no type.)
    """
    for _ in range(_LOOKS_AGAIN):
        reply = yield step
        words = struct.unpack_from(f"={min(count, len(reply.data) // 8)}Q", reply.data)
        if not any(w & PM_SWAP and w & _SWAP_TYPE not in (0, _MARKER) for w in words):
            break
    return reply, struct.pack(f"={len(words)}Q", *(w & calls.PAGEMAP_BITS for w in words))


def smaps(call: calls.Smaps) -> Steps:
    reply = yield file("/proc/self/smaps")
    if reply.errno:
        return result(reply)
    found = [
        vma
        for vma in parse_smaps(reply.data.decode())
        if vma.end > call.start and vma.start < call.end
    ]
    return Result(vmas=tuple(found))


def fdinfo(call: calls.Fdinfo) -> Steps:
    reply = yield file(f"/proc/self/fdinfo/{call.fd}")
    if reply.errno:
        return result(reply)
    lines = [
        line
        for line in reply.data.splitlines(keepends=True)
        if line.startswith((b"pending:", b"total:", b"API:"))
    ]
    return Result(data=b"".join(lines))


def content(call: calls.Pread) -> Steps:
    """Of a file, by a descriptor of its own."""
    reply = yield file(f"/proc/self/fd/{call.fd}", call.offset, call.length)
    return result(reply, reply.data)


def size(call: calls.Fstat) -> Steps:
    """Of a file, by its path."""
    path = f"/proc/self/fd/{call.fd}".encode() + b"\0"
    room = len(path) + -len(path) % 8
    reply = yield system_call(
        nr.STAT,
        *(0, room),
        payload=path,
        buffered=(0, 1),
        answer=room + STAT_LENGTH,
        control=True,
    )
    return stat_fields(msgspec.structs.replace(reply, data=reply.data[room:]))
