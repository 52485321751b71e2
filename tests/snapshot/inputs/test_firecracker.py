"""Firecracker's two files: told by the state file, which is never taken for memory."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from blake3 import blake3

from snapshot.dumps import kinds, page
from userfault.kernel.errors import UsageError
from userfault.snapshot.inputs import firecracker
from userfault.snapshot.inputs.opening import Kind, open_image_file
from userfault.snapshot.inputs.protocol import Holds

X86 = 0x0710_1984_8664_0000
ARM = 0x0710_1984_AAAA_0000
# The heads of state files of three generations: versionize, bincode, bitcode
OLD = struct.pack("<QH", X86 | 3, 5) + b"state" * 20
NOW = struct.pack("<QQ", X86, 5) + b"4.0.0" + b"state" * 20
NEXT = b"\0" + struct.pack("<Q", ARM) + b"state" * 20


def vm(folder: Path, state: bytes = NOW) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "mem").write_bytes(page(1) + page(2))
    (folder / "snap").write_bytes(state)
    return folder / "mem", folder / "snap"


@pytest.mark.parametrize(
    ("state", "architecture", "version"),
    [(OLD, "x86_64", ""), (NOW, "x86_64", "4.0.0"), (NEXT, "aarch64", "")],
)
def test_state_files_of_all_generations_are_known(
    tmp_path: Path, state: bytes, architecture: str, version: str
) -> None:
    _, path = vm(tmp_path, state)
    assert firecracker.state_of(str(path)) == firecracker.State(str(path), architecture, version)


@pytest.mark.parametrize("content", [b"", b"short", bytes(64), b"\1" + NOW])
def test_other_files_are_no_state_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert firecracker.state_of(str(tmp_path / "file")) is None
    assert firecracker.state_of(str(tmp_path / "absent")) is None
    assert firecracker.state_of(str(tmp_path)) is None


def test_a_memory_file_beside_a_state_file_is_known_and_the_pair_kept(tmp_path: Path) -> None:
    memory, state = vm(tmp_path)
    with contextlib.closing(open_image_file(str(memory))) as pages:
        assert pages.kind == "firecracker"
        about = pages.finish()
    assert about["vmstate"] == "snap"
    assert about["vmstate_version"] == "4.0.0"
    assert about["vmstate_digest"] == blake3(state.read_bytes()).hexdigest()


def test_a_folder_with_the_two_files_is_one_image(tmp_path: Path) -> None:
    vm(tmp_path)
    with contextlib.closing(open_image_file(str(tmp_path))) as pages:
        assert pages.kind == "firecracker"
        assert pages.finish()["file"] == "mem"


def test_two_state_files_in_a_folder_decide_nothing(tmp_path: Path) -> None:
    memory, _ = vm(tmp_path)
    (tmp_path / "another").write_bytes(OLD)
    with contextlib.closing(open_image_file(str(memory))) as pages:
        assert pages.kind == "raw"
    with pytest.raises(UsageError, match="cannot tell what image the folder"):
        open_image_file(str(tmp_path))
    with contextlib.closing(open_image_file(str(memory), vmstate=str(tmp_path / "snap"))) as pages:
        assert pages.finish()["vmstate"] == "snap"


def test_the_state_file_itself_is_refused(tmp_path: Path) -> None:
    _, state = vm(tmp_path)
    with pytest.raises(UsageError, match="state file of a Firecracker snapshot, not its memory"):
        open_image_file(str(state))


def test_a_named_state_file_must_be_one(tmp_path: Path) -> None:
    memory, _ = vm(tmp_path)
    with pytest.raises(UsageError, match="is no state file"):
        open_image_file(str(memory), vmstate=str(memory))


def test_the_kind_can_be_forced(tmp_path: Path) -> None:
    memory, _ = vm(tmp_path)
    with contextlib.closing(open_image_file(str(memory), kind=Kind.RAW)) as pages:
        assert pages.kind == "raw"
    (tmp_path / "snap").unlink()
    with contextlib.closing(open_image_file(str(memory), kind=Kind.FIRECRACKER)) as pages:
        assert pages.kind == "firecracker"


def test_holes_of_a_diff_snapshot_are_the_base(tmp_path: Path) -> None:
    memory, _ = vm(tmp_path)
    with memory.open("r+b") as file:
        file.truncate(1 << 20)
    with contextlib.closing(open_image_file(str(memory), diff=True)) as pages:
        assert kinds(pages)[Holds.BASE] == 254
        assert kinds(pages)[Holds.DATA] == 2
