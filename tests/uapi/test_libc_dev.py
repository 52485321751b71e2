"""The newest headers are fetched once and used again, also when the network is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from uapi import libc_dev


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return libc_dev.cache_directory()


def unpack_empty(cache: Path) -> str:
    header = cache / "trees" / "1.0-1" / "usr/include/linux/userfaultfd.h"
    header.parent.mkdir(parents=True)
    header.touch()
    return "1.0-1"


def refuse(_cache: Path) -> str:
    raise libc_dev.NoHeadersError("no network")


def test_a_fresh_fetch_is_used_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc_dev, "_fetch", unpack_empty)
    first = libc_dev.newest_headers()
    monkeypatch.setattr(libc_dev, "_fetch", refuse)

    assert libc_dev.newest_headers() == first
    assert first.include == cache / "trees/1.0-1/usr/include"
    assert not first.note


def test_a_stale_fetch_serves_when_the_network_is_gone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libc_dev, "_fetch", unpack_empty)
    libc_dev.newest_headers()
    monkeypatch.setattr(libc_dev, "FRESH_FOR", -1.0)
    monkeypatch.setattr(libc_dev, "_fetch", refuse)

    assert "no network" in libc_dev.newest_headers().note
    assert (cache / "failed").read_text() == "no network"


def test_a_failure_is_remembered_for_a_while(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc_dev, "_fetch", refuse)
    with pytest.raises(libc_dev.NoHeadersError, match="no network"):
        libc_dev.newest_headers()
    monkeypatch.setattr(libc_dev, "_fetch", unpack_empty)

    with pytest.raises(libc_dev.NoHeadersError, match="no network"):
        libc_dev.newest_headers()
    monkeypatch.setattr(libc_dev, "RETRY_AFTER", -1.0)
    assert libc_dev.newest_headers().version == "1.0-1"
    assert not (cache / "failed").exists()
