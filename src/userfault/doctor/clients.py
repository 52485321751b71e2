"""Which looks matter to whom: what a client cannot do without, and what it is better with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from userfault.doctor import faults, memories, programs, rights
from userfault.doctor.finding import Finding, State, missing
from userfault.kernel.errors import UserfaultError

LOOKS: dict[str, Callable[[], Finding]] = {
    "device": faults.device,
    "opening": faults.opening,
    "served": faults.served,
    "events": faults.events,
    "minor": faults.minor,
    "poison": faults.poison,
    "features": faults.features,
    "memfd": memories.memfd,
    "huge": memories.huge,
    "transparent": memories.transparent,
    "page-cache": memories.page_cache,
    "scanning": memories.scanning,
    "room": memories.room,
    "capabilities": rights.capabilities,
    "looking": rights.looking,
    "pidfd": rights.processes,
    "seccomp": rights.seccomp,
    "descriptors": rights.descriptors,
    "processes": rights.children,
    "kvm": programs.kvm,
    "guest_memfd": programs.private,
    "firecracker": programs.firecracker,
    "cloud-hypervisor": programs.cloud_hypervisor,
    "criu": programs.criu,
    "qemu": programs.qemu,
    "compiler": programs.compiler,
    "systemd": programs.systemd,
    "extras": programs.extras,
}


class Client(msgspec.Struct, frozen=True):
    """`needs`: it does not work without.  `whole`: of these, those that must not be degraded
    either.  `likes`: it does less without."""

    needs: tuple[str, ...]
    whole: tuple[str, ...] = ()
    likes: tuple[str, ...] = ()


_SERVED = ("opening", "served")

CLIENTS: dict[str, Client] = {
    "native": Client(
        (*_SERVED, "memfd", "processes"),
        (),
        (
            *("device", "minor", "huge", "poison", "features", "page-cache", "scanning"),
            *("seccomp", "room"),
        ),
    ),
    "serve": Client(
        ("memfd", "pidfd", "descriptors", "processes"),
        (),
        ("capabilities", "looking", "seccomp", "poison", "page-cache", "room", "systemd", "extras"),
    ),
    "firecracker": Client(
        (*_SERVED, "kvm", "pidfd"),
        _SERVED,
        ("device", "events", "huge", "transparent", "capabilities", "looking", "firecracker"),
    ),
    "cloud-hypervisor": Client(
        (*_SERVED, "kvm", "memfd", "minor"),
        _SERVED,
        ("device", "huge", "cloud-hypervisor"),
    ),
    "criu": Client(
        (*_SERVED, "events", "criu"),
        (*_SERVED, "events"),
        ("capabilities", "room", "seccomp"),
    ),
    "exec": Client(
        (*_SERVED, "memfd", "compiler"),
        _SERVED,
        ("minor", "huge", "qemu", "kvm", "room"),
    ),
    "vmm": Client(
        (*_SERVED, "kvm", "memfd"),
        _SERVED,
        ("minor", "huge", "guest_memfd", "transparent"),
    ),
}  # fmt: skip

OURS = ("native", "serve")  # what is asked for where nobody says whom it is for


class Health(msgspec.Struct, frozen=True):
    """What was found, and what each client that was asked for lacks (a name each) of its needs, and
    of what it likes."""

    findings: list[Finding]
    lacks: dict[str, list[str]]
    likes: dict[str, list[str]]

    @property
    def is_well(self) -> bool:
        return not any(self.lacks.values())


def examine(asked: Iterable[str], *, everything: bool) -> Health:
    """Look at what these clients need and like, or at all there is."""
    chosen = {name: CLIENTS[name] for name in asked}
    wanted = {each for client in chosen.values() for each in (*client.needs, *client.likes)}
    findings = [_looked(name) for name in LOOKS if everything or name in wanted]
    states = {each.name: each.state for each in findings}
    lacks = {
        name: [
            each
            for each in client.needs
            if states[each] is State.MISSING
            or (each in client.whole and states[each] is State.DEGRADED)
        ]
        for name, client in chosen.items()
    }
    likes = {
        name: [
            each
            for each in (*client.needs, *client.likes)
            if states[each] is not State.OK and each not in lacks[name]
        ]
        for name, client in chosen.items()
    }
    return Health(findings, lacks, likes)


def _looked(name: str) -> Finding:
    """A look that itself meets a limit nobody thought of has found that."""
    try:
        return LOOKS[name]()
    except (OSError, UserfaultError) as error:
        why = "this could not be looked at"
        return missing(name, f"{type(error).__name__}: {error}", why, "see what refuses it")
