"""Numbers as callers hand them over: Python's, NumPy's, or whatever says that it is one.

`mmap.mmap` and `numpy.memmap` take whatever has `__index__`, so we do; text is no number.  What
comes back is exactly an int, a float, a bool or a str: msgpack takes no subclasses of them, and
NumPy's float64 is one of float.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from userfault.kernel.errors import UsageError

_MOST = (1 << 63) - 1  # off_t and ssize_t


def whole(what: str, value: Any) -> int:
    """The whole number `value` (it has `__index__`), at most 63 bits and a sign.

    Raises UsageError, with `what` as the name of the number, for anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(
            f"{what}={value!r}",
            cause=f"it is of type {type(value).__name__}, and no whole number",
            cure="pass an int",
        ) from None
    if not -_MOST <= number <= _MOST:
        raise UsageError(
            f"{what}={number}", cause="no address space is so large", cure="pass a smaller number"
        )
    return number


def is_number(value: Any) -> bool:
    """Whether `value` is one whole number and not an array, which may have `__index__`, too."""
    return hasattr(type(value), "__index__") and not hasattr(type(value), "__len__")


def real(what: str, value: Any) -> float:
    """The number `value` (it has `__float__` or `__index__`); infinity is one.

    Raises UsageError for anything else: text, complex numbers, arrays of several, NaN.
    """
    if type(value) is not float:
        kind = type(value)
        numeric = hasattr(kind, "__float__") or hasattr(kind, "__index__")
        # NumPy would drop the imaginary part with a warning, and take an array of one.
        several = getattr(value, "ndim", 0)
        if not numeric or several or _is_complex(value):
            raise _no_number(what, value)
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _no_number(what, value) from None
    if math.isnan(value):
        raise UsageError(f"{what}=nan", cause="it is no number", cure="pass one")
    return float(value)


def flag(what: str, value: Any) -> bool:
    """True or False: `value` equals one of them, as NumPy's, 0 and 1 do.

    Raises UsageError for anything else: whether "no" is meant as True, nobody knows.
    """
    try:
        held = bool(value)
        if bool(value == held):
            return held
    except (TypeError, ValueError):  # an array of several
        pass
    raise UsageError(
        f"{what}={value!r}", cause="it is neither True nor False", cure="pass one of them"
    )


def one_of(what: str, value: Any, allowed: tuple[str, ...]) -> str:
    """The text `value`, one of `allowed`.  Raises UsageError for any other."""
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(
            f"{what}={value!r}", cause="unknown value", cure=f"use {' or '.join(allowed)}"
        )
    return str.__str__(value)


def _is_complex(value: Any) -> bool:
    from numbers import Complex, Real  # noqa: PLC0415  # a pager never gets here

    return isinstance(value, Complex) and not isinstance(value, Real)


def _no_number(what: str, value: Any) -> UsageError:
    return UsageError(
        f"{what}={value!r}",
        cause=f"it is of type {type(value).__name__}, and no real number",
        cure="pass an int or a float",
    )
