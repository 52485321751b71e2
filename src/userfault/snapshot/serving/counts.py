"""What was done to serve one image from its store."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct):
    """By the pager's worker that serves now; one that goes on for a killed one begins at zero.

    `unpacked` chunks (read, verified, decompressed), of `stored_bytes` that became `raw_bytes`;
    `at_once` of them in the path of a fault, without a thread.  `hits`: pages that came from a
    chunk that was unpacked already, counted by fills.  `failed`: chunks that could not be had.
    """

    unpacked: int = 0
    at_once: int = 0
    hits: int = 0
    stored_bytes: int = 0
    raw_bytes: int = 0
    failed: int = 0
