"""When a page was touched first, coarsely: classes of time since the restore began.

What a restore needs in its first tenth of a second has to be there first; whether a page is wanted
after 3.1 or after 3.4 s makes no difference.  So the classes double: class 0 is the first 1/16 s,
and class k ends 2 ** k sixteenths after the beginning.
"""

from __future__ import annotations

CLASSES = 16  # the last one begins after 17 minutes, and does not end
_UNIT_S = 1 / 16


def class_at(seconds: float) -> int:
    """The class of a time since the restore began."""
    return min(int(max(seconds, 0.0) / _UNIT_S).bit_length(), CLASSES - 1)


def ends(number: int) -> float:
    """When a class is over: seconds since the restore began."""
    return float("inf") if number >= CLASSES - 1 else _UNIT_S * (1 << number)
