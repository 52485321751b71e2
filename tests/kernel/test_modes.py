"""Flags print by name, and have the kernel's numbers."""

from __future__ import annotations

import pytest

from userfault.kernel.events import PageFault
from userfault.kernel.modes import FaultFlag, Feature, Ioctls, Mode, names
from userfault.uapi import userfaultfd as abi


@pytest.mark.parametrize(
    ("flags", "kind", "text"),
    [
        (Mode.MISSING | Mode.MINOR, None, "MISSING|MINOR"),
        (Mode(0), None, "0"),
        (0x105, Mode, "MISSING|MINOR|0x100"),
        (5, None, "0x5"),
        (Ioctls.COPY, None, "COPY"),
        (0, Feature, "0"),
    ],
)
def test_flags_are_told_by_name(flags: int, kind: type[Mode] | None, text: str) -> None:
    assert names(flags, kind) == text


def test_every_feature_of_the_abi_has_a_name() -> None:
    known = Feature(0)
    for feature in Feature:
        known |= feature
    assert int(known) == abi.UFFD_API_FEATURES


def test_the_ioctl_bits_are_the_command_numbers() -> None:
    # The flags of registrations on 6.12 to 7.2, measured there.
    basic = Ioctls.WAKE | Ioctls.COPY | Ioctls.POISON
    assert int(basic | Ioctls.ZEROPAGE | Ioctls.MOVE) == 0x13C
    assert int(basic | Ioctls.WRITEPROTECT | Ioctls.CONTINUE) == 0x1CC


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (0, {"missing"}),
        (FaultFlag.WRITE, {"missing", "write"}),
        (FaultFlag.WRITE | FaultFlag.WP, {"wp", "write"}),
        (FaultFlag.MINOR, {"minor"}),
        (FaultFlag.MINOR | FaultFlag.WRITE, {"minor", "write"}),
        (FaultFlag.RWP, {"rwp"}),
    ],
)
def test_a_fault_is_of_one_kind_and_may_be_a_write(flags: int, kinds: set[str]) -> None:
    fault = PageFault(0x1000, flags)

    said = {kind for kind in ("missing", "minor", "wp", "rwp", "write") if getattr(fault, kind)}
    assert said == kinds
