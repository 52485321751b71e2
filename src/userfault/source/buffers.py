"""The bytes of a buffer or an array, whatever its items are.

A view of any C-contiguous buffer as plain bytes: memoryview.cast() knows only native types of one
letter, and NumPy exports no buffer of dates (datetime64) or of types from elsewhere (bfloat16).
"""

from __future__ import annotations

import re
import sys
from typing import Any

from userfault.kernel.errors import SourceTypeError

_FIELD_NAME = re.compile(":[^:]*:")  # in the format of a structure (PEP 3118)


def raw(source: Any) -> memoryview | None:
    """A flat view of the bytes of `source`; None where it has no buffer.

    Raises SourceTypeError where its memory is not its bytes in the order of its indices: one that
    is not C-contiguous, that has gaps or a mask, or that holds references to objects.
    """
    plain = _plain(source)
    try:
        view = memoryview(plain)
    except TypeError:
        return None
    except (ValueError, BufferError) as error:  # closed, or of a type that cannot be exported
        raise _refusal(source, str(error), "pass its bytes") from None
    if "O" in _FIELD_NAME.sub("", view.format):
        raise _references(source)
    if not view.c_contiguous:
        raise _refusal(
            source,
            "its bytes do not lie one behind the other in the order of its indices (C order)",
            "pass a copy that is contiguous: numpy.ascontiguousarray(array)",
        )
    import pickle  # noqa: PLC0415  # a pager's start need not wait for it

    return pickle.PickleBuffer(view).raw()


def _plain(source: Any) -> Any:
    """An array of NumPy as one of items that are nothing but bytes; anything else as it is."""
    numpy = sys.modules.get("numpy")  # if nobody has loaded it, this is none of its arrays
    if numpy is None or not isinstance(source, numpy.ndarray):
        return source
    if isinstance(source, numpy.ma.MaskedArray):
        raise _refusal(source, "its mask is not in its bytes", "pass .filled(), or .data")
    if source.dtype.hasobject:
        raise _references(source)
    size = source.dtype.itemsize
    return numpy.asarray(source).view(f"V{size}") if size else b""


def _references(source: Any) -> SourceTypeError:
    cause = "its items are references to objects of this process"
    return _refusal(source, cause, "pass an array of a type of fixed size")


def _refusal(source: Any, cause: str, cure: str) -> SourceTypeError:
    what = f"an object of type {type(source).__name__} cannot be a source"
    return SourceTypeError(what, cause=cause, cure=cure)
