"""A trace out of a file, packed with zstd or not.  Whoever wrote it is not trusted."""

from __future__ import annotations

from pathlib import Path

import zstandard

from userfault.pager.core import trace
from userfault.pager.core.trace import Trace, TraceError

_PACKED = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_MOST = 2 * trace.MOST_BYTES + 8192


def read(path: str) -> Trace:
    """The trace in a file.  Raises OSError for the file, TraceError for what is in it."""
    name = repr(path)
    with Path(path).open("rb") as file:
        data = file.read(_MOST + 1)
    if data.startswith(_PACKED):
        data = _unpacked(data, name)
    if len(data) > _MOST:
        cause = f"it has more than {_MOST} bytes"
        raise TraceError(f"{name} is no trace", cause=cause, cure="record one anew")
    return trace.decode(data, name)


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as stream:
            return stream.read(_MOST + 1)
    except zstandard.ZstdError as error:
        cure = "copy it again: it is damaged"
        raise TraceError(f"{name} cannot be unpacked", cause=str(error), cure=cure) from None
