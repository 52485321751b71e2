"""Texts of others (exceptions, names), fit to be sent: bounded, and no half characters."""

from __future__ import annotations

MOST = 2000  # bytes of a cause; a traceback's last lines and any path fit
_CUT = "…"


def clipped(text: str, most: int = MOST) -> str:
    """`text` in at most `most` bytes of UTF-8, cut between two characters.

    What is no character (half a surrogate pair, a byte of a name that is not UTF-8) is written as
    an escape.
    """
    data = text[: most + 1].encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data.decode()
    return data[: most - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def formatted(error: BaseException) -> str:
    """An exception with where it comes from, in full."""
    import traceback  # noqa: PLC0415  # for bugs; a pager's start would wait 2 ms for it

    return "".join(traceback.format_exception(error))
