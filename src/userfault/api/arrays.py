"""`lazy_array()`: a NumPy array whose memory fills itself on first touch."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from userfault.api.lazy import lazy
from userfault.api.memory import LazyMemory
from userfault.kernel.errors import SourceTypeError, Unavailable, UsageError
from userfault.kernel.memtypes import BASE_PAGE, round_up
from userfault.kernel.numbers import one_of
from userfault.source.spec import names_function

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray


def lazy_array(
    source: Any,
    shape: int | Sequence[int] | None = None,
    dtype: DTypeLike = "uint8",
    *,
    order: Literal["C", "F"] = "C",
    length: int | None = None,
    **options: Any,
) -> NDArray[Any]:
    """An array that shows `source` and fills itself on first touch.

    `source`: whatever `lazy()` takes, a snapshot in a store among it.  `shape`: one number may be
    -1, for as many as there are; None: one dimension.  `order`: "C" (the last index changes
    fastest) or "F".  `length`: bytes to take of the source; by default those of the array where
    its size is known and the source does not say its own (a function).  Other options are those of
    `lazy()`; without `writable=True` the array is read-only.

    The array's `base` is the `LazyMemory`: `array.base.complete()`, `.statistics()`.  The memory is
    let go of when the last array that shows it goes.

    The sizes must agree: a source of another size is a UsageError, unless it is the array's rounded
    up to whole pages, as images are.  `length=` takes a part on purpose.  Raises also
    Unavailable without NumPy, SourceTypeError for a dtype that holds references, and what `lazy()`
    raises.

    >>> array = lazy_array(bytes(range(6)), (2, 3))
    >>> array[1].tolist()
    [3, 4, 5]
    """
    numpy = numpy_for("lazy_array()")
    kind = _dtype(numpy, dtype)
    sizes = _sizes(shape)
    layout = one_of("order", order, ("C", "F"))
    needed = _bytes_of(sizes, kind.itemsize)
    wanted = length
    if length is None and needed is not None and names_function(source):
        wanted = needed
    memory = lazy(source, length=wanted, **options)
    try:
        fitted = _fitted(memory, sizes, needed, kind.itemsize)
        array: NDArray[Any] = numpy.ndarray(fitted, kind, buffer=memory, order=layout)
        return array
    except BaseException:
        memory.close()
        raise


def numpy_for(what: str) -> Any:
    """NumPy, which `what` needs.  Raises Unavailable."""
    try:
        import numpy  # noqa: PLC0415  # an extra: nothing else needs it
    except ImportError as error:
        raise Unavailable(
            f"{what} without NumPy",
            cause=f"it cannot be imported: {error}",
            cure='install it: pip install "userfault[numpy]"',
        ) from None
    return numpy


def _dtype(numpy: Any, dtype: DTypeLike) -> np.dtype[Any]:
    try:
        kind: np.dtype[Any] = numpy.dtype(dtype)
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:  # each for some text
        raise SourceTypeError(
            f"dtype={dtype!r}", cause=f"NumPy knows no such type: {error}", cure="for example 'f4'"
        ) from None
    if kind.hasobject or not kind.itemsize:
        raise SourceTypeError(
            f"dtype={dtype!r}",
            cause="bytes of a source cannot be references to objects"
            if kind.hasobject
            else "its items have no bytes",
            cure="pass a type of fixed size, for example 'f4' or 'S8'",
        )
    return kind


def _sizes(shape: int | Sequence[int] | None) -> tuple[int, ...]:
    """The shape as a tuple, with at most one -1."""
    if shape is None:
        return (-1,)
    try:
        sizes = _one_or_several(shape)
    except TypeError:
        raise UsageError(
            f"shape={shape!r}",
            cause="it is no whole number, nor several",
            cure="for example (4, -1)",
        ) from None
    if sizes.count(-1) > 1 or any(size < -1 or size == 0 for size in sizes) or not sizes:
        raise UsageError(
            f"shape={shape!r}",
            cause="an array has at least one element, and one number at most may be -1",
            cure="for example (4, -1)",
        )
    return sizes


def _one_or_several(shape: Any) -> tuple[int, ...]:
    """As numpy.zeros takes it: one number is one dimension.  Raises TypeError."""
    with contextlib.suppress(TypeError):  # of several an array has __index__, too, and raises
        return (operator.index(shape),)
    return tuple(operator.index(size) for size in shape)


def _bytes_of(sizes: tuple[int, ...], itemsize: int) -> int | None:
    """Bytes of such an array; None where the source decides."""
    return None if -1 in sizes else math.prod(sizes) * itemsize


def _fitted(
    memory: LazyMemory, sizes: tuple[int, ...], needed: int | None, itemsize: int
) -> tuple[int, ...]:
    """The shape for this memory; UsageError where it does not fit."""
    held = len(memory)
    if needed is None:
        row = -math.prod(sizes) * itemsize
        count = held // row
        if not count or held % row:
            raise UsageError(
                f"an array of shape {sizes} from {held} bytes",
                cause=f"they are no multiple of {row} bytes",
                cure="pass another shape or dtype, or length= to take a part",
            )
        return tuple(count if size < 0 else size for size in sizes)
    if held not in (needed, round_up(needed, BASE_PAGE)):
        raise UsageError(
            f"an array of shape {sizes} from {held} bytes",
            cause=f"it takes {needed} bytes",
            cure=f"pass length={needed} to take the first of them"
            if needed < held
            else "pass a smaller shape, or the whole source",
        )
    return sizes
