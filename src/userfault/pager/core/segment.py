"""One stretch of addresses that shows pages in a row."""

from __future__ import annotations

import msgspec


class Segment(msgspec.Struct, frozen=True):
    """Addresses [start, end) show the pages from `page` on."""

    start: int
    end: int
    page: int
