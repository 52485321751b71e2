"""The table of policies by traces in the documentation is what the code says today."""

from __future__ import annotations

import zstandard

from bench import rehearsals
from userfault.pager.core import trace


def test_the_document_has_the_table_of_today() -> None:
    """If not: `python -m bench.rehearsals`."""
    text = rehearsals.DOCUMENT.read_text()
    assert rehearsals.put(text) == text


def test_the_traces_are_real_ones_small_and_tell_every_touch() -> None:
    paths = sorted(rehearsals.TRACES.glob("*.trace.zst"))
    assert len(paths) >= 5
    for path in paths:
        assert path.stat().st_size < 100_000, path
        data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        assert trace.decode(data).header.touches, path
