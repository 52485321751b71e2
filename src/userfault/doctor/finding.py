"""What a look at this host found."""

from __future__ import annotations

import enum

import msgspec


class State(enum.Enum):
    """There, there with limits, or not there."""

    OK = "ok"
    DEGRADED = "degraded"
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True):
    """`name` of the look; what was `found`; `why` it matters; the `cure`, unless it is well."""

    name: str
    state: State
    found: str
    why: str
    cure: str = ""


def ok(name: str, found: str, why: str) -> Finding:
    return Finding(name, State.OK, found, why)


def degraded(name: str, found: str, why: str, cure: str) -> Finding:
    return Finding(name, State.DEGRADED, found, why, cure)


def missing(name: str, found: str, why: str, cure: str) -> Finding:
    return Finding(name, State.MISSING, found, why, cure)
