"""Which words of users mean a snapshot in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from userfault.kernel.errors import UsageError
from userfault.snapshot.stores.place import place_of


def test_what_a_path_or_a_url_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert place_of(f"{folder}/one") == (folder, "one")
    assert place_of("one") == (".", "one")
    assert place_of(f"{folder}/file") is None  # there is something at that path
    assert place_of(f"{folder}/snapshots/one") is None  # no store
    assert place_of(f"{folder}/a b") is None  # no name
    assert place_of("s3://bucket/prefix/one") == ("s3://bucket/prefix", "one")
    assert place_of(f"file://{folder}/one") == (f"file://{folder}", "one")
    for text in ("s3://bucket/prefix/", "https://host/a/..", "gs://bucket/x?y"):
        with pytest.raises(UsageError):
            place_of(text)
