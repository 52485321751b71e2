"""Texts of others (exceptions, names), fit to be sent and shown: bounded, one line, no escapes."""

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


def one_line(text: str) -> str:
    """`text` without what a terminal would act on: line ends, escapes, reordering."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
