"""Without KVM, or without a machine, the errors say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

import userfault
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import kvm as linux_kvm
from userfault.snapshot.errors import FormatError
from userfault.vmm.machine import Machine
from userfault.vmm.restoring import restore
from vmm.guests import filled


def test_without_kvm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_kvm, "DEVICE", "/nonexistent/kvm")
    memory = filled(4)

    with pytest.raises(MemoryUnavailable, match="load the kvm module"):
        Machine([memory])
    memory.close()


def test_memory_without_registers_is_no_machine(tmp_path: Path) -> None:
    place = tmp_path / "s" / "vm"
    memory = filled(4)
    with userfault.Snapshot(place, memory) as snapshot:
        snapshot.update()
    with pytest.raises(FormatError, match="no machine"):
        restore(place)
    memory.close()
