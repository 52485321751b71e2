"""What Cloud Hypervisor's own files say of a VM: where its memory lies, and what restores it.

A snapshot that it writes itself is a folder with `config.json` (the VM), `state.json` (a tree of
components, each with its state as a text of JSON) and `memory-ranges` (docs/snapshot_restore.md
there).  One that goes over its migration protocol has the configuration in one message, which
carries the VM, its CPUID and the layout of its memory (`VmMigrationConfig` in vmm/src/lib.rs), and
the same tree in another: the second can be made of the first.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.snapshot.errors import FormatError

MOST_BYTES = 256 << 20  # of a configuration or state: those seen have some hundred KiB
_MOST_SLOTS = 4096
_HIGHEST = 1 << 52  # guest-physical addresses
_Number = Annotated[int, msgspec.Meta(ge=0, lt=_HIGHEST)]


class Range(msgspec.Struct, frozen=True):
    """`length` bytes of guest memory from guest-physical address `gpa` on."""

    gpa: _Number
    length: _Number


class Slot(msgspec.Struct, frozen=True):
    """Memory slot `slot`: `size` bytes from `gpa` on, at `file_offset` of what backs it."""

    slot: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    gpa: _Number
    size: _Number
    file_offset: _Number = 0
    zone_id: str | None = None


class _Ranges(msgspec.Struct, frozen=True):
    data: tuple[Range, ...] = ()


class _Memory(msgspec.Struct, frozen=True):
    """`MemoryManagerSnapshotData` (vmm/src/memory_manager.rs), as far as it is needed."""

    guest_ram_mappings: tuple[Slot, ...]
    memory_ranges: _Ranges = _Ranges()


class _Zone(msgspec.Struct, frozen=True):
    id: str = ""
    shared: bool = False
    hugepages: bool = False
    hugepage_size: int | None = None


class _VmMemory(_Zone, frozen=True):
    zones: tuple[_Zone, ...] | None = None


class _Vm(msgspec.Struct, frozen=True):
    memory: _VmMemory


class _Config(msgspec.Struct, frozen=True):
    vm_config: _Vm
    memory_manager_data: _Memory


class _Data(msgspec.Struct, frozen=True):
    state: str


class _Tree(msgspec.Struct, frozen=True):
    snapshots: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    snapshot_data: _Data | None = None


class Machine(msgspec.Struct, frozen=True):
    """A VM that can be restored.

    `config`, `state`: payloads of the two messages.  `slots`: its memory.  `ranges`: what of it the
    image has, in the order of the image.  `shared`: it is memory that several processes may map.
    """

    config: bytes
    state: bytes
    slots: tuple[Slot, ...]
    ranges: tuple[Range, ...]
    page_size: int
    shared: bool

    @property
    def length(self) -> int:
        """Bytes of memory in the image."""
        return sum(each.length for each in self.ranges)


def of_messages(config: bytes, state: bytes, *, slots: bool) -> Machine:
    """From what the migration protocol carries.

    `slots`: the image has all slots, one after the other; else the ranges that are listed.  Raises
    FormatError.
    """
    told = _decoded(config, _Config, "the configuration")
    memory = told.memory_manager_data
    listed = memory.memory_ranges.data
    whole = tuple(Range(each.gpa, each.size) for each in memory.guest_ram_mappings)
    page_size, shared = _pages(told.vm_config.memory)
    machine = Machine(
        config=config,
        state=state,
        slots=memory.guest_ram_mappings,
        ranges=whole if slots or not listed else listed,
        page_size=page_size,
        shared=shared,
    )
    _check(machine)
    return machine


def of_files(config: bytes, state: bytes) -> Machine:
    """From `config.json` and `state.json` of a snapshot folder.  Raises FormatError."""
    tree = _decoded(state, _Tree, "state.json")
    vm = _inner(tree, "the VM")
    memory = _inner(_child(tree, "memory-manager"), "memory-manager")
    made: dict[str, Any] = {
        "vm_config": _raw(config, "config.json"),
        "memory_manager_data": _raw(memory, "memory-manager"),
    }
    cpuid = _decoded(vm, dict[str, msgspec.Raw], "the VM").get("common_cpuid")
    if cpuid is not None:  # of x86-64 alone
        made["common_cpuid"] = cpuid
    return of_messages(msgspec.json.encode(made), state, slots=False)


def _inner(tree: _Tree, what: str) -> bytes:
    if tree.snapshot_data is None:
        raise _damaged(f"there is no state of {what}")
    return tree.snapshot_data.state.encode()


def _child(tree: _Tree, name: str) -> _Tree:
    if name not in tree.snapshots:
        raise _damaged(f"state.json has no {name}")
    found: _Tree = _decoded(tree.snapshots[name], _Tree, name)
    return found


def _decoded(data: bytes | msgspec.Raw, kind: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(f"{what}: {error}") from None


def _raw(data: bytes, what: str) -> msgspec.Raw:
    _decoded(data, dict[str, msgspec.Raw], what)
    return msgspec.Raw(data)


def _pages(memory: _VmMemory) -> tuple[int, bool]:
    """Page size, and whether it may be shared.  Raises FormatError where zones differ."""
    zones: tuple[_Zone, ...] = memory.zones or (memory,)
    sizes = {(each.hugepage_size or 2 * MIB) if each.hugepages else BASE_PAGE for each in zones}
    if len(sizes) > 1:
        raise _damaged("its memory zones have pages of different sizes, which is not served")
    # Huge pages come from a memfd as well; but only what is mapped shared can be handed over.
    return sizes.pop(), all(each.shared for each in zones)


def _check(machine: Machine) -> None:
    _hold(0 < len(machine.slots) <= _MOST_SLOTS, f"{len(machine.slots)} memory slots")
    size = machine.page_size
    _hold(size >= BASE_PAGE and size & (size - 1) == 0, f"pages of {size} bytes")
    numbers = [each.slot for each in machine.slots]
    _hold(len(set(numbers)) == len(numbers), "two memory slots of one number")
    behind = 0
    for slot in sorted(machine.slots, key=lambda each: each.gpa):
        where = f"memory slot {slot.slot}"
        whole = all(value % size == 0 for value in (slot.gpa, slot.size, slot.file_offset))
        _hold(whole and slot.size > 0, f"{where} is no whole pages of {size} bytes")
        _hold(slot.gpa >= behind, f"{where} overlaps another one")
        behind = slot.gpa + slot.size
        _hold(max(behind, slot.file_offset + slot.size) <= _HIGHEST, f"{where} is too large")
    behind = 0
    for each in sorted(machine.ranges, key=lambda each: each.gpa):
        whole = each.gpa % size == each.length % size == 0
        _hold(whole and each.gpa >= behind, f"the range of memory at {each.gpa:#x}")
        behind = each.gpa + each.length
    _hold(machine.length > 0, "no memory")


def _hold(right: bool, what: str) -> None:
    if not right:
        raise _damaged(what)


def _damaged(cause: str) -> FormatError:
    return FormatError(
        "this is no snapshot of Cloud Hypervisor that can be restored",
        cause=cause,
        cure="make it anew, with the release that is to restore it",
    )
