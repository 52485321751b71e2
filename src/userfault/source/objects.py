"""Open files as sources: which objects of Python are the bytes of their descriptor.

`fileno()` says little: that of a gzip file is the descriptor of the compressed bytes, that of a
text file knows nothing of decoding, that of a wrapper is of whatever is inside.  So only those
objects count whose type is known to read exactly what its descriptor reads: `io.FileIO`, and the
buffers of `io` around one, all of them exactly (a subclass may read anything).  Whoever means the
descriptor of another object passes its number.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from userfault.kernel.errors import SourceError, SourceTypeError

_BUFFERS = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)


def descriptor_of(source: Any) -> int | None:
    """The descriptor whose bytes `source` is, after what the program has written to it is there.

    None where it is no such object.  Raises SourceTypeError for one that is closed, SourceError
    where its buffer cannot be written.
    """
    try:
        opened = _unwrapped(source)
        if type(opened) is io.FileIO:
            return opened.fileno()
        if type(opened) in _BUFFERS:
            opened.flush()
            if type(opened.raw) is io.FileIO:
                return int(opened.fileno())
    except OSError as error:
        raise SourceError(
            f"cannot write what the program has written to {source!r}",
            cause=error.strerror or str(error),
            cure="flush the file, and see why that fails",
        ) from None
    except ValueError as error:  # closed, or detached from what it buffers
        raise SourceTypeError(
            f"{source!r} cannot be a source", cause=str(error), cure="pass an open file, or a path"
        ) from None
    return None


def _unwrapped(source: Any) -> Any:
    """The file in a wrapper of `tempfile`, which passes every call on to it."""
    tempfile = sys.modules.get("tempfile")  # if nobody has loaded it, this is none of its objects
    if type(source) is getattr(tempfile, "_TemporaryFileWrapper", None):
        return source.file
    if type(source) is getattr(tempfile, "SpooledTemporaryFile", None):
        source.rollover()  # as its fileno() does: from here on it is a file
        return getattr(source, "_file", None)
    return source


def refusal(source: Any) -> SourceTypeError:
    """Why an object is no source, and what to pass instead."""
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    cause = "it is no path, no file, no buffer and no function"
    cure = "pass a path, an open file, bytes, userfault.zero(length) or a function"
    if isinstance(source, io.TextIOBase):
        cause = "it is open in text mode: its characters are not the bytes of the file"
        cure = 'open it in binary mode ("rb"), or pass the path'
    elif hasattr(source, "fileno") or hasattr(source, "read"):
        cause = (
            "its bytes may be others than those of its descriptor, as with compressed files,"
            " members of archives, sockets and other wrappers"
        )
        cure = (
            "pass the path of an unpacked file, .read() of it (all is copied into memory), or its"
            " .fileno() if the bytes of the descriptor are meant"
        )
    return SourceTypeError(f"an object of type {kind} cannot be a source", cause=cause, cure=cure)
