"""What a guest is made of: lists of sources, modules, archives, the project's dependencies."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import zstandard

from helpers.skips import absent
from userfault.check.differential.batch import Batch, each, slices
from userfault.kernel.errors import UsageError
from userfault.lab import python, sources
from userfault.lab.cpio import Archive
from userfault.lab.modules import Modules
from userfault.lab.sources import Source
from userfault.lab.suites import suite

ROOT = Path(__file__).resolve().parents[2]


# --- Lists of sources ----------------------------------------------------------------------------


def test_a_list_of_lines_is_read() -> None:
    text = (
        "# a comment\n"
        "deb-src http://src.example/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k/1,/k/2] http://a.example/debian trixie main extra\n"
        "deb [trusted=yes] file:/srv/debian bookworm main # here\n"
    )

    assert list(sources.one_line(text)) == [
        Source("http://a.example/debian", ("trixie",), ("main", "extra"), "/k/1,/k/2"),
        Source("file:/srv/debian", ("bookworm",), ("main",), trusted=True),
    ]


def test_stanzas_are_read() -> None:
    text = (
        "Types: deb deb-src\n# a comment\nURIs: http://a.example/debian http://b.example\n"
        "Suites: trixie\n trixie-updates\nComponents: main\nSigned-By: /k/one.gpg\n"
        "\n"
        "Types: deb\nURIs: http://off.example\nSuites: trixie\nComponents: main\nEnabled: no\n"
        "\n"
        "Types: deb\nURIs: http://c.example\nSuites: sid\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )

    assert list(sources.deb822(text)) == [
        Source("http://a.example/debian", ("trixie", "trixie-updates"), ("main",), "/k/one.gpg"),
        Source("http://c.example", ("sid",), ("main",)),
    ]


def test_the_mirror_is_debians_with_its_security_updates(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "other.list").write_text("deb http://other.example stable-ish main\n")
    (parts / "debian.sources").write_text(
        "Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\nSigned-By: /k\n\n"
        "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\nComponents: main\n"
    )

    found = sources.mirror(tmp_path)

    assert sources.lines(found, ("trixie", "trixie-security")) == (
        "deb [signed-by=/k] http://a.example trixie main\n"
        "deb http://s.example trixie-security main\n"
    )


def test_without_a_mirror_of_security_updates_the_suite_itself_must_do(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://a.example bookworm main\n")

    found = sources.mirror(tmp_path)

    assert (
        sources.lines(found, ("trixie", "trixie-security")) == "deb http://a.example trixie main\n"
    )


def test_an_unknown_suite_is_told_from_those_known() -> None:
    assert suite("unstable") == suite("sid")
    with pytest.raises(UsageError, match="use one of bookworm, trixie"):
        suite("potato")


# --- Random programs -----------------------------------------------------------------------------


def test_slices_of_a_batch_are_the_same_programs() -> None:
    whole = Batch(25, seed=4)
    pieces = list(slices(iter([whole]), 10))

    assert [piece.programs for piece in pieces] == [10, 10, 5]
    assert [program for piece in pieces for program in each(piece)] == list(each(whole))


# --- Modules and archives ------------------------------------------------------------------------


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    def module(path: str, depends: bytes) -> None:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        data = b"ELF\0license=GPL\0depends=" + depends + b"\0name=x\0"
        place.write_bytes(lzma.compress(data) if path.endswith(".xz") else data)

    module("kernel/drivers/virtio_pci.ko", b"virtio,virtio-ring")
    module("kernel/drivers/virtio.ko.xz", b"virtio-ring")
    module("kernel/drivers/virtio_ring.ko", b"")
    module("kernel/drivers/other.ko", b"")

    order = Modules(tmp_path).load_order(["virtio-pci", "built_in", "virtio"])

    assert [name for name, _ in order] == ["virtio_ring", "virtio", "virtio_pci"]
    assert dict(order)["virtio"].startswith(b"ELF")


@pytest.mark.parametrize("sized", [True, False])
def test_modules_that_are_compressed_need_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sized: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    data = b"ELF\0depends=\0" + bytes(1 << 16)
    squeezed = zstandard.ZstdCompressor(write_content_size=sized).compress(data)
    (tmp_path / "small.ko.zst").write_bytes(squeezed)
    (tmp_path / "other.ko.gz").write_bytes(gzip.compress(data))

    assert Modules(tmp_path).load_order(["small", "other"]) == [("small", data), ("other", data)]


def test_an_archive_is_one_that_others_unpack(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        absent("needs cpio(1)")
    archive = Archive()
    archive.file("a/b/file", b"four", 0o755, mtime=1000)
    archive.file("a/empty", b"")
    archive.link("a/link", "b/file")
    command = ["cpio", "--extract", "--quiet", "--preserve-modification-time"]

    subprocess.run(command, input=archive.pack(), cwd=tmp_path, check=True)

    found = tmp_path / "a" / "b" / "file"
    assert found.read_bytes() == b"four"
    assert found.stat().st_mode & 0o777 == 0o755
    assert int(found.stat().st_mtime) == 1000
    assert (tmp_path / "a" / "empty").read_bytes() == b""
    assert (tmp_path / "a" / "link").readlink() == Path("b/file")


def test_a_guest_gets_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(python.NEEDS) == {need.partition(">")[0] for need in project["dependencies"]}
