"""How an array lies in a checkpoint, and the words in which its manifest says so."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.protocol import PAGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = "array "  # how the word of an array begins
_MOST = 4000  # arrays: what a manifest has room for
_TOO_LONG = 1 << 16


class Kept(msgspec.Struct, frozen=True):
    """An array: `dtype` as NumPy's own files have it, `shape`, and the order of its axes.

    It has the pages `first` to `first + pages` of the image, which begin with its `length` bytes.
    Behind these it may have room, from when it was larger; the image may end before that does.
    """

    dtype: str
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    length: int
    first: int = 0
    pages: int = 0


def flat(numpy: Any, name: str, value: Any) -> tuple[Kept, Any]:
    """What `value` is, and its bytes as an array, without a copy.  Raises UsageError."""
    array = value if isinstance(value, numpy.ndarray) else numpy.asarray(value)
    cause = ""
    if isinstance(array, numpy.ma.MaskedArray):
        cause = "a masked array is two: its data and its mask"
    elif array.dtype.hasobject:
        cause = "it holds references to objects"
    elif not (array.flags.c_contiguous or array.flags.f_contiguous):
        cause = "it does not lie in one piece (a slice with gaps)"
    if cause:
        raise UsageError(
            f"cannot keep the array {name!r}",
            cause=cause,
            cure="keep arrays of plain items in one piece: numpy.ascontiguousarray(x), x.filled()",
        )
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    lying = array if order == "C" else array.T
    words = numpy.lib.format.dtype_to_descr(array.dtype)
    kept = Kept(repr(words), array.shape, order, array.nbytes)
    return kept, (lying.reshape(-1).view(numpy.uint8) if array.nbytes else None)


def words(arrays: Mapping[str, Kept]) -> dict[str, str]:
    """For the manifest.  Raises UsageError for more than it can hold."""
    found = {_WORD + name: msgspec.json.encode(kept).decode() for name, kept in arrays.items()}
    if len(found) > _MOST or any(max(len(k), len(v)) >= _TOO_LONG for k, v in found.items()):
        raise UsageError(
            f"a checkpoint of {len(arrays)} arrays",
            cause=f"there may be {_MOST}, with names and types of less than {_TOO_LONG} characters",
            cure="keep them in several checkpoints",
        )
    return found


def read(about: Mapping[str, str], pages: int, what: str) -> dict[str, Kept]:
    """The arrays of an image of `pages` pages.  Raises FormatError where they cannot be."""
    found = {}
    for word, text in about.items():
        if not word.startswith(_WORD):
            continue
        try:
            kept = msgspec.json.decode(text, type=Kept)
        except msgspec.DecodeError as error:
            raise _damaged(what, word, str(error)) from None
        inside = kept.first * PAGE + kept.length <= pages * PAGE
        if min(kept.first, kept.length, kept.pages, *kept.shape, 0) < 0 or not inside:
            raise _damaged(what, word, "it lies outside of the image")
        if kept.length > kept.pages * PAGE:
            raise _damaged(what, word, "it has more bytes than its pages")
        found[word.removeprefix(_WORD)] = kept
    return found


def dtype_of(numpy: Any, kept: Kept, what: str) -> Any:
    """Its type.  Raises FormatError for one that cannot be, or not with these sizes."""
    try:
        dtype = numpy.lib.format.descr_to_dtype(ast.literal_eval(kept.dtype))
    except Exception as error:  # whatever NumPy makes of words that somebody else has written
        raise _damaged(what, kept.dtype, f"no type of NumPy's: {error}") from None
    if dtype.hasobject or math.prod(kept.shape) * dtype.itemsize != kept.length:
        raise _damaged(what, kept.dtype, "its shape and its type do not make its length")
    return dtype


def shown(numpy: Any, kept: Kept, memory: Any, what: str) -> NDArray[Any]:
    """The array over `memory`, which begins with its first page; None: it has no bytes."""
    dtype = dtype_of(numpy, kept, what)
    if memory is None:
        made: NDArray[Any] = numpy.empty(kept.shape, dtype, order=kept.order)
    else:
        made = numpy.ndarray(kept.shape, dtype, memory, order=kept.order)
    return made


def _damaged(what: str, word: str, cause: str) -> FormatError:
    return FormatError(
        f"{what} is no checkpoint of arrays",
        cause=f"{word[:100]!r}: {cause}",
        cure="load another one: load(at=...), history()",
    )
