"""Which words of users mean a snapshot in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from userfault.kernel.errors import UsageError
from userfault.snapshot.stores.place import place_for, place_of


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


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/srv/memory/web", ("/srv/memory", "web")),
        ("./store/web-1", ("./store", "web-1")),
        ("s3://bucket/prefix/web", ("s3://bucket/prefix", "web")),
    ],
)
def test_where_something_is_to_be_stored_the_last_part_is_the_name(
    place: str, expected: tuple[str, str]
) -> None:
    assert place_for(place, "") == expected


def test_a_name_alone_names_no_store() -> None:
    with pytest.raises(UsageError, match="names no store") as told:
        place_for("web", "saving it")
    assert "./store/web" in told.value.cure


def test_nothing_is_stored_under_a_name_that_none_can_have() -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        place_for("/srv/memory/..", "saving it")
