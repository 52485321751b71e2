"""The helper that finds the machine's package mirror, on made-up source lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from uapi import libc_dev

DEB822 = """\
# first stanza
Types: deb deb-src
# a comment inside
URIs: http://one.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /keys/one.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_stanzas() -> None:
    assert list(libc_dev.parse_deb822(DEB822)) == [
        (
            "http://one.example/debian",
            ["bookworm", "bookworm-updates"],
            ["main", "contrib"],
            "/keys/one.gpg",
        )
    ]


def test_deb822_with_a_pasted_key_leaves_the_key_to_apt() -> None:
    text = (
        "Types: deb\nURIs: http://a.example\nSuites: sid\nComponents: main\nSigned-By:\n -----B\n"
    )

    assert next(libc_dev.parse_deb822(text))[3] == ""


def test_one_line_entries() -> None:
    text = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/one.gpg] http://one.example/debian bookworm main contrib # tail
deb-src http://source.example/debian bookworm main
deb http://two.example/debian sid main
"""

    assert list(libc_dev.parse_one_line(text)) == [
        ("http://one.example/debian", ["bookworm"], ["main", "contrib"], "/keys/one.gpg"),
        ("http://two.example/debian", ["sid"], ["main"], ""),
    ]


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
