"""Skipping with a reason, and forbidding it.

A test that needs something this system may lack (root, KVM, a feature) says so here.  With
USERFAULT_FORBID_SKIPS=1 in the environment the lack is a failure: a machine that is meant to have
everything cannot quietly test half.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.modes import Feature, names
from userfault.linux.kvm import Vm
from userfault.linux.uffd import offer

FORBID = "USERFAULT_FORBID_SKIPS"


def absent(reason: str) -> NoReturn:
    """This system lacks what the test needs: skip, or fail where skips are forbidden."""
    if os.environ.get(FORBID) == "1":
        pytest.fail(f"{reason} ({FORBID}=1 forbids the skip)")
    pytest.skip(reason)


def need_root() -> None:
    """Root with its capabilities: to change users, to grow pools."""
    if os.geteuid() != 0:
        absent("needs root")


def need_kvm() -> None:
    """KVM: to run a guest."""
    try:
        Vm().close()
    except MemoryUnavailable as error:
        absent(str(error))


def need_features(features: Feature) -> None:
    """Features of the running kernel."""
    lacking = features & ~offer()[0]
    if lacking:
        absent(f"this kernel has no {names(lacking, Feature)}")
