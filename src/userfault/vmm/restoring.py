"""Bringing a saved machine up again: registers at once, pages when the guest touches them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from userfault.api.lazy import lazy
from userfault.api.memory import LazyMemory
from userfault.api.pager import Pager
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import MIB, MemoryType, memory
from userfault.pager.core.policy import Policy
from userfault.snapshot.errors import FormatError
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.serving.image import Image, open_image
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.urls import last_part
from userfault.vmm.guest_memfd import GuestMemfd, GuestMemory, why_not_lazy
from userfault.vmm.machine import Machine
from userfault.vmm.saving import KIND, STATE
from userfault.vmm.state import MachineState, decode

_PIECE = 64 * MIB
_NOTHING = (Kind.HOLE, Kind.ZERO)


class Restored:
    """A machine that was brought up, and its pager; `told`: what the user ought to know.  Use it as
    a context manager, or call `close()`."""

    def __init__(self, machine: Machine, pager: Pager, *, own: bool) -> None:
        self.machine = machine
        self.pager = pager
        self.told: list[str] = []
        self._own = own

    @property
    def lazies(self) -> list[LazyMemory]:
        """Its memories that fill themselves."""
        return [each for each in self.machine.memories if isinstance(each, LazyMemory)]

    def close(self) -> None:
        """Close the machine, its memories, and the pager if that was made for it."""
        self.machine.close()
        for each in self.lazies:
            each.close()
        if self._own:
            self.pager.close()

    def __enter__(self) -> Restored:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def saved(place: str | os.PathLike[str]) -> tuple[MachineState, Image]:
    """State and image of a saved machine.  Raises FormatError where the snapshot is of no machine,
    NoSuchSnapshot, StoreError."""
    store, name = last_part(os.fsdecode(place))
    image = open_image(open_objects(store), name)
    told = image.about.get(STATE)
    if image.manifest.kind != KIND or told is None:
        raise FormatError(
            f"{name!r} is no machine",
            cause=f"it is memory of kind {image.manifest.kind!r}, without registers",
            cure="restore what `userfault vm save` has stored",
        )
    try:
        state = decode(base64.b64decode(told, validate=True))
    except binascii.Error as error:
        raise FormatError(f"the state of {name!r} is damaged", cause=str(error)) from None
    if state.length != image.length:
        raise FormatError(
            f"the state of {name!r} is of another memory",
            cause=f"it has {state.length} bytes, and the image {image.length}",
        )
    return state, image


def restore(
    place: str | os.PathLike[str],
    *,
    memories: str | Sequence[str] = "anon",
    policy: Policy | None = None,
    pager: Pager | None = None,
    track: bool = False,
    grow_pool: bool = False,
) -> Restored:
    """The machine `"STORE/NAME"`, paused where it was saved; `machine.resume()` lets it go on.

    `memories`: the type of its memories, as `lazy()` takes it, or one for each; `guest_memfd` is
    filled before this returns, since no kernel serves a guest's touch of it (`told` says so).
    `policy`, `pager`, `track`, `grow_pool`: as for `lazy()`.

    Raises what `saved`, `lazy()` and `Machine` do.
    """
    state, image = saved(place)
    kinds = [memories] * len(state.lengths) if isinstance(memories, str) else list(memories)
    if len(kinds) != len(state.lengths):
        raise UsageError(
            f"{len(kinds)} types of memory", cause=f"the machine has {len(state.lengths)} memories"
        )
    serving = pager or Pager()
    with contextlib.ExitStack() as undo:
        if pager is None:
            undo.callback(serving.close)
        given: list[Any] = []
        for kind, (offset, length) in zip(kinds, _placed(state), strict=True):
            if memory(kind).type is MemoryType.GUEST_MEMFD:
                given.append(GuestMemfd(length))
                continue
            whole = len(kinds) == 1
            made = lazy(
                os.fsdecode(place),
                memory=kind,
                writable=True,
                offset=0 if whole else offset,
                length=None if whole else length,
                policy=policy,
                pager=serving,
                track=track,
                grow_pool=grow_pool,
            )
            undo.callback(made.close)
            given.append(made)
        machine = Machine(given, cpus=len(state.cpus), code=state.code)
        undo.callback(machine.close)
        restored = Restored(machine, serving, own=pager is None)
        for mapped, (offset, length) in zip(machine.memories, _placed(state), strict=True):
            if isinstance(mapped, GuestMemory):
                _fill(mapped, os.fsdecode(place), image, offset, length, serving)
                why = why_not_lazy(mapped)
                restored.told.append(f"guest_memfd was filled before the guest runs: {why}")
        machine.set_state_of(state)
        undo.pop_all()
    return restored


def _placed(state: MachineState) -> Iterator[tuple[int, int]]:
    """Offset in the image and length of each memory."""
    at = 0
    for length in state.lengths:
        yield at, length
        at += length


def _fill(
    mapped: GuestMemory, place: str, image: Image, offset: int, length: int, pager: Pager
) -> None:
    """Put a part of an image into a guest_memfd through its mapping; nothing where it is zero."""
    for start in range(offset, offset + length, _PIECE):
        size = min(_PIECE, offset + length - start)
        extents = [
            extent
            for extent in image.extents(start // PAGE, size // PAGE)
            if extent.kind not in _NOTHING
        ]
        if not extents:
            continue
        policy = Policy(share="off", record="never", replay=False)
        with lazy(place, offset=start, length=size, policy=policy, pager=pager) as piece:
            piece.complete()
            for extent in extents:
                at = extent.page * PAGE - start
                with memoryview(piece) as view, memoryview(mapped) as target:
                    to = start - offset + at
                    target[to : to + extent.count * PAGE] = view[at : at + extent.count * PAGE]
