"""A swap file for a while: given back, healed after a kill, refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import absent, need_root
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import libc, swapfile
from userfault.linux.swapfile import SwapFile, swaps

# The system has one list of swap spaces: these tests, and statement 164, take turns.
pytestmark = pytest.mark.xdist_group("swap")


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """One whose file system takes swap files, of a system without swap space."""
    need_root()
    if any(not name.endswith("userfault.swap") for name in swaps()):
        absent("the system has swap space, so none is added")
    try:
        SwapFile([str(tmp_path)]).close()
    except MemoryUnavailable as error:
        absent(str(error))
    return str(tmp_path)


def test_it_is_there_until_it_is_closed(directory: str) -> None:
    swap = SwapFile([directory])
    assert swaps() == [f"{directory}/userfault.swap"]
    swap.close()
    swap.close()  # twice is no error
    assert f"{directory}/userfault.swap" not in swaps()
    assert os.listdir(directory) == []


def test_where_there_is_swap_space_none_is_added(directory: str, tmp_path: Path) -> None:
    first = SwapFile([directory])
    # As if it were a stranger's: by another name, and with nothing locked.
    stranger = f"{directory}/stranger"
    os.link(f"{directory}/userfault.swap", stranger)
    libc.swapoff(f"{directory}/userfault.swap")
    first.close()
    libc.swapon(stranger)
    try:
        other = tmp_path / "other"
        other.mkdir()
        SwapFile([str(other)]).close()
        assert list(other.iterdir()) == []
        assert stranger in swaps()
    finally:
        libc.swapoff(stranger)


def test_what_a_killed_program_left_is_taken_away(directory: str) -> None:
    child.start("linux.children:leave_a_swap_file", directory).communicate()
    assert f"{directory}/userfault.swap" in swaps()
    SwapFile([directory]).close()
    assert f"{directory}/userfault.swap" not in swaps()
    assert os.listdir(directory) == []


def test_a_file_of_that_name_that_is_somebodys_stays(directory: str, tmp_path: Path) -> None:
    mine = Path(directory) / "userfault.swap"
    for make in (
        lambda: mine.write_bytes(b"notes on swapping"),
        lambda: mine.symlink_to(tmp_path / "target"),
    ):
        make()
        with pytest.raises(MemoryUnavailable, match="File exists"):
            SwapFile([directory])
        assert os.path.lexists(mine)
        mine.unlink()
    mine.write_bytes(bytes(4096))  # a run that was killed while it wrote it
    SwapFile([directory]).close()
    assert os.listdir(directory) == []


def test_a_name_in_the_list_is_read_as_the_kernel_writes_it(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(directory) / "a b\t\\040\n"
    odd.mkdir()
    swap = SwapFile([str(odd)])
    assert str(odd / "userfault.swap") in swaps()
    monkeypatch.setattr(swap, "_path", "")  # as if it were killed
    swap.close()
    SwapFile([directory]).close()
    assert not [name for name in swaps() if name.endswith("userfault.swap")]
    assert os.listdir(odd) == []


def test_two_programs_do_not_have_it_at_once(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapfile, "_WAIT_S", 0.05)
    swap = SwapFile([directory])
    with pytest.raises(MemoryUnavailable, match="another program"):
        SwapFile([directory])
    assert f"{directory}/userfault.swap" in swaps()
    swap.close()


def test_a_file_system_without_swap_files_is_named(directory: str) -> None:  # noqa: ARG001
    with pytest.raises(MemoryUnavailable) as caught:
        SwapFile(["/dev/shm"])
    assert "/dev/shm: " in caught.value.cause
    assert not [name for name in os.listdir("/dev/shm") if "swap" in name]


def test_a_user_without_rights_hears_that_it_needs_root() -> None:
    need_root()
    said = child.run("linux.children:swap_as_nobody")
    assert "be root" in said
