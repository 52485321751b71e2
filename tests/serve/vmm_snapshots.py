"""Snapshot folders as Cloud Hypervisor writes them, of memory that identifies itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MIB = 1 << 20
SLOTS = ((0, MIB, 0), (4 << 30, MIB, MIB))  # guest-physical address, bytes, offset in the memfd
OPTION = ",".join(f"{gpa:x}:{size:x}:{offset:x}" for gpa, size, offset in SLOTS)
CPUID = [{"function": 1, "index": 0}]


def mappings(slots: Any = SLOTS) -> list[dict[str, Any]]:
    """`guest_ram_mappings` of a VM."""
    return [
        {
            "slot": number,
            "gpa": gpa,
            "size": size,
            "zone_id": "mem0",
            "virtio_mem": False,
            "file_offset": offset,
        }
        for number, (gpa, size, offset) in enumerate(slots)
    ]


def memory_data(slots: Any = SLOTS) -> dict[str, Any]:
    """The state of its memory manager."""
    ranges = [{"gpa": gpa, "length": size} for gpa, size, _ in slots]
    return {"memory_ranges": {"data": ranges}, "guest_ram_mappings": mappings(slots)}


def vm_config(**memory: Any) -> dict[str, Any]:
    """Its configuration."""
    return {"cpus": {"boot_vcpus": 1}, "memory": {"size": 2 * MIB, **memory}}


def state(slots: Any = SLOTS) -> dict[str, Any]:
    """The tree of its components."""
    manager = {"snapshots": {}, "snapshot_data": {"state": json.dumps(memory_data(slots))}}
    return {
        "snapshots": {"memory-manager": manager},
        "snapshot_data": {"state": json.dumps({"clock": None, "common_cpuid": CPUID})},
    }


def snapshot(folder: Path, image: Path, **memory: Any) -> Path:
    """A folder that `ch-remote snapshot` could have written."""
    folder.mkdir()
    (folder / "memory-ranges").write_bytes(image.read_bytes())
    (folder / "config.json").write_text(json.dumps(vm_config(**memory)))
    (folder / "state.json").write_text(json.dumps(state()))
    return folder


def offloaded(folder: Path, image: Path, **memory: Any) -> Path:
    """A folder as the example of an offload daemon writes it."""
    folder.mkdir()
    data = image.read_bytes()
    for number, (_, size, _) in enumerate(SLOTS):
        (folder / f"memory-{number}").write_bytes(data[:size])
        data = data[size:]
    config = {
        "vm_config": vm_config(**memory),
        "common_cpuid": CPUID,
        "memory_manager_data": memory_data(),
    }
    (folder / "migration_config.json").write_text(json.dumps(config))
    (folder / "state.json").write_text(json.dumps(state()))
    return folder
