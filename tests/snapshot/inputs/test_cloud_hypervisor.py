"""Folders of Cloud Hypervisor: what restores the VM, and the memory in the order of its image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve import vmm_snapshots
from serve.vmm_snapshots import CPUID, SLOTS, memory_data, offloaded, snapshot, vm_config
from userfault.kernel.errors import UserfaultError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs import cloud_hypervisor
from userfault.snapshot.inputs.cloud_hypervisor_machine import of_files, of_messages
from userfault.snapshot.inputs.opening import open_image_file
from userfault.snapshot.inputs.protocol import PAGE, Holds


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(b"".join(number.to_bytes(8, "little") * 512 for number in range(512)))
    return path


def files(**memory: Any) -> tuple[bytes, bytes]:
    """config.json and state.json."""
    config, state = vm_config(**memory), vmm_snapshots.state()
    return json.dumps(config).encode(), json.dumps(state).encode()


def test_the_message_is_made_of_the_files() -> None:
    config, state = files(shared=True)
    machine = of_files(config, state)
    told = json.loads(machine.config)
    assert told["vm_config"] == vm_config(shared=True)
    assert told["common_cpuid"] == CPUID
    assert told["memory_manager_data"] == memory_data()
    assert machine.state == state
    assert [(each.gpa, each.size, each.file_offset) for each in machine.slots] == list(SLOTS)
    assert (machine.length, machine.page_size, machine.shared) == (2 << 20, 4096, True)


def test_huge_pages_and_zones_are_seen() -> None:
    config, state = files(zones=[{"id": "a", "size": 1, "shared": True, "hugepages": True}])
    with pytest.raises(FormatError, match="whole pages of 2097152"):
        of_files(config, state)  # its slots have 1 MiB
    config, state = files(
        zones=[{"id": "a", "shared": True}, {"id": "b", "shared": True, "hugepages": True}]
    )
    with pytest.raises(FormatError, match="different sizes"):
        of_files(config, state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"guest_ram_mappings": []},
        {"guest_ram_mappings": [{"slot": 0, "gpa": 0, "size": 5000, "file_offset": 0}]},
        {"guest_ram_mappings": [{"slot": 0, "gpa": -4096, "size": 4096, "file_offset": 0}]},
        {"guest_ram_mappings": [{"slot": 0, "gpa": 1 << 60, "size": 4096, "file_offset": 0}]},
        {"guest_ram_mappings": [{"slot": s, "gpa": 0, "size": 4096} for s in (0, 1)]},
        {"guest_ram_mappings": [{"slot": 0, "gpa": g, "size": 4096} for g in (0, 8192)]},
        {"memory_ranges": {"data": [{"gpa": 0, "length": 4096}] * 2}},
        {"memory_ranges": {"data": "all of it"}},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    config = {"vm_config": vm_config(), "memory_manager_data": {**memory_data(), **wrong}}
    with pytest.raises(FormatError, match="no snapshot of Cloud Hypervisor"):
        of_messages(json.dumps(config).encode(), b"{}", slots=False)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b'{"snapshots": 3}'])
def test_rubbish_is_refused(text: bytes) -> None:
    config, state = files()
    for pair in ((text, state), (config, text)):
        with pytest.raises(FormatError):
            of_files(*pair)


@pytest.mark.parametrize("make", [snapshot, offloaded])
def test_the_image_is_memory_then_configuration_then_state(
    tmp_path: Path, image: Path, make: Any
) -> None:
    folder = make(tmp_path / "vm", image, shared=True)
    pages = open_image_file(str(folder))
    assert sum(run.pages for run in pages.runs()) == -(-pages.length // PAGE)
    assert bytes(pages.read(255, 2)) == image.read_bytes()[255 * PAGE : 257 * PAGE]
    about = pages.finish()
    memory, config, state, slots = cloud_hypervisor.parts(about, pages.length)
    tail = b"".join(bytes(pages.read(page, 1)) for page in range(512, -(-pages.length // PAGE)))
    assert (memory, slots) == (image.stat().st_size, True)
    assert json.loads(tail[:config])["common_cpuid"] == CPUID
    assert tail[config : config + state] == (folder / "state.json").read_bytes()
    pages.close()


def test_holes_are_holes(tmp_path: Path, image: Path) -> None:
    folder = snapshot(tmp_path / "vm", image)
    with (folder / "memory-ranges").open("r+b") as file:
        file.truncate(0)
        file.truncate(2 << 20)
        file.seek(PAGE)
        file.write(b"x" * PAGE)
    pages = open_image_file(str(folder))
    assert [(run.first, run.pages, run.holds) for run in pages.runs()][:3] == [
        (0, 1, Holds.HOLE),
        (1, 1, Holds.DATA),
        (2, 510, Holds.HOLE),
    ]
    pages.close()


def test_memory_of_another_snapshot_is_refused(tmp_path: Path, image: Path) -> None:
    folder = snapshot(tmp_path / "vm", image)
    (folder / "memory-ranges").write_bytes(b"x" * PAGE)
    with pytest.raises(UserfaultError, match="does not belong"):
        open_image_file(str(folder))


def test_words_that_do_not_fit_the_image_are_refused() -> None:
    right = {"memory_bytes": "4096", "config_bytes": "10", "state_bytes": "5", "slots": "1"}
    assert cloud_hypervisor.parts(right, 4111) == (4096, 10, 5, True)
    for wrong in ({}, {**right, "state_bytes": "6"}, {**right, "config_bytes": "-1"}):
        with pytest.raises(FormatError):
            cloud_hypervisor.parts(wrong, 4111)
