"""Calling the user's function for a piece of the source, and holding it to what it promised."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from userfault.kernel.errors import SourceError
from userfault.source.spec import FunctionSpec

# Largest piece asked of a function at once: a 1 GiB page is put together from many.
PIECE = 4 << 20


def told(error: BaseException) -> str:
    """Class and text of an exception of the user's, whose own __str__ may fail."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {text}"


class FunctionSource:
    """The function of a `FunctionSpec`, imported.  Raises SourceError when it cannot be.

    `arguments`: pickled, as they came with the spec.
    """

    def __init__(self, spec: FunctionSpec, arguments: bytes) -> None:
        self.spec = spec
        import pickle  # noqa: PLC0415  # a pager, which wants `told` from here, never needs it

        module, _, name = spec.target.partition(":")
        try:
            found: Any = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            if not callable(found):
                raise TypeError(f"{name} is not callable")
            self._args, self._kwargs = pickle.loads(arguments)
        except Exception as error:
            raise SourceError(
                f"cannot load the source {spec.target}",
                cause=told(error),
                cure="make the module importable from the paths of the program that calls lazy()",
            ) from None
        self._call: Callable[..., Any] = found

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes at `offset`, zeros beyond the end of the source."""
        wanted = min(len(target), self.spec.length - offset)
        for start in range(0, wanted, PIECE):
            piece = min(PIECE, wanted - start)
            target[start : start + piece] = self._piece(offset + start, piece)
        target[wanted:] = bytes(len(target) - wanted)

    def _piece(self, offset: int, length: int) -> memoryview:
        try:
            answer = self._call(offset, length, *self._args, **self._kwargs)
            view = memoryview(answer).cast("B")
        except Exception as error:
            raise self._error(offset, told(error)) from None
        if len(view) != length:
            raise self._error(offset, f"it returned {len(view)} bytes where {length} were asked")
        return view

    def _error(self, offset: int, cause: str) -> SourceError:
        return SourceError(f"the source {self.spec.target} failed", offset=offset, cause=cause)
