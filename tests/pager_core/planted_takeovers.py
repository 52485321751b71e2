"""Bugs to plant in what a successor does after its predecessor was killed; see `planted`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pager_core.planted import Bug, Plant
from pager_core.simparts import Event
from pager_core.simstate import State
from userfault.pager.core import recovery
from userfault.pager.core.actions import COPY, Wake, WakeAll
from userfault.pager.core.core import MappingCore
from userfault.pager.core.recorded import ContextRecord, FillRecord, Snapshot


def _fill_under_way_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "settle", lambda _core, _fill: None)


def _fill_under_way_taken_as_whole(patch: pytest.MonkeyPatch) -> None:
    """Something was filled, so all was."""
    settle = recovery.settle

    def planted(core: MappingCore, fill: FillRecord) -> None:
        whole = fill.count << core.plan.shift
        settle(core, msgspec.structs.replace(fill, done=whole if fill.done > 0 else 0))

    patch.setattr(recovery, "settle", planted)


def _fill_under_way_settles_all(patch: pytest.MonkeyPatch) -> None:
    """A page that was poisoned a moment ago is taken for one that was filled."""
    settle = recovery.settle

    def planted(core: MappingCore, fill: FillRecord) -> None:
        settle(core, msgspec.structs.replace(fill, kind=COPY))

    patch.setattr(recovery, "settle", planted)


def _result_of_the_last_fill_stays(patch: pytest.MonkeyPatch) -> None:
    """The record of a fill is written while it still has the result of the one before."""
    patch.setattr(State, "resets_result", False)


def _events_lost(patch: pytest.MonkeyPatch) -> None:
    """A batch that was read counts as applied."""
    patch.setattr(recovery, "unapplied", lambda _snapshot, _batch, _events: [])


def _events_counted_for_any_batch(patch: pytest.MonkeyPatch) -> None:
    """How much was applied is believed of a batch that the snapshot does not know."""

    def planted(snapshot: Snapshot, _: int, events: list[Event]) -> list[tuple[int, Event]]:
        return list(enumerate(events))[snapshot.applied :]

    patch.setattr(recovery, "unapplied", planted)


def _events_applied_again(patch: pytest.MonkeyPatch) -> None:
    """The whole batch is replayed, whatever the snapshot has of it: REMAP and FORK twice."""
    patch.setattr(recovery, "unapplied", lambda _snapshot, _batch, events: list(enumerate(events)))


def _events_replayed_backwards(patch: pytest.MonkeyPatch) -> None:
    unapplied = recovery.unapplied

    def planted(snapshot: Snapshot, batch: int, events: list[Event]) -> list[tuple[int, Event]]:
        return unapplied(snapshot, batch, events)[::-1]

    patch.setattr(recovery, "unapplied", planted)


def _one_snapshot_a_batch(patch: pytest.MonkeyPatch) -> None:
    """A FORK is applied again, to states that have a later REMOVE of its batch in them."""
    patch.setattr(State, "commits_each", False)


def _snapshot_after_unregistering(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "finishes_once", False)


def _filling_kept(patch: pytest.MonkeyPatch) -> None:
    """What the dead worker was filling is waited for."""

    def planted(cores: list[MappingCore]) -> None:
        for core in cores:
            core.out.append(WakeAll())
            core.ledger.finish_if_settled()

    patch.setattr(recovery, "resume", planted)


def _first_alone_woken(patch: pytest.MonkeyPatch) -> None:
    """Children are forgotten."""
    resume = recovery.resume

    def planted(cores: list[MappingCore]) -> None:
        resume(cores)
        for core in cores[1:]:
            core.out.remove(WakeAll())

    patch.setattr(recovery, "resume", planted)


def _segments_alone_woken(patch: pytest.MonkeyPatch) -> None:
    """Who waits in memory that grew is not in any segment."""
    resume = recovery.resume

    def planted(cores: list[MappingCore]) -> None:
        resume(cores)
        for core in cores:
            core.out.remove(WakeAll())
            core.out.extendleft(Wake(held.start, held.end - held.start) for held in core.segments)

    patch.setattr(recovery, "resume", planted)


def _sharing_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The successor does not know which contexts share their pages."""
    rebuild = recovery.rebuild

    def planted(*arguments: Any) -> dict[int, MappingCore]:
        cores = rebuild(*arguments)
        for core in cores.values():
            core.work.peers = [core.work]
            core._overseer.peers = core._filling.peers = core.work.peers
            core.ledger.peers = [core.ledger]
        return cores

    patch.setattr(recovery, "rebuild", planted)


def _one_segment_assumed(patch: pytest.MonkeyPatch) -> None:
    rebuild = recovery.rebuild

    def planted(*arguments: Any) -> dict[int, MappingCore]:
        cores = rebuild(*arguments)
        for core in cores.values():
            core.ledger.straight = core.pages.count
        return cores

    patch.setattr(recovery, "rebuild", planted)


def _forgotten(**field: Any) -> Plant:
    """A field of the record that the successor does not look at."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        rebuilt = recovery._rebuilt

        def planted(each: ContextRecord, *others: Any) -> MappingCore:
            return rebuilt(msgspec.structs.replace(each, **field), *others)

        patch.setattr(recovery, "_rebuilt", planted)

    return plant


TAKEOVERS = (
    Bug("killed: the last fill is ignored", _fill_under_way_ignored, "killed in fills", 600),
    Bug("killed: the last fill is whole", _fill_under_way_taken_as_whole, "killed in fills", 2500),
    Bug("killed: the last fill was no poison", _fill_under_way_settles_all, "killed in fills", 800),
    Bug("killed: a result of another fill", _result_of_the_last_fill_stays, "kills", 200),
    Bug("killed: events read are lost", _events_lost, "kills", 100),
    Bug("killed: events counted for any batch", _events_counted_for_any_batch, "kills", 100),
    Bug("killed: events applied again", _events_applied_again, "kills", 100),
    Bug("killed: events replayed backwards", _events_replayed_backwards, "kills", 400),
    Bug("killed: one snapshot a batch", _one_snapshot_a_batch, "kills", 200),
    Bug("killed: snapshot after the finish", _snapshot_after_unregistering, "kills", 200),
    Bug("killed: filling pages stay filling", _filling_kept, "kills", 100),
    Bug("killed: children are not woken", _first_alone_woken, "killed families", 200),
    Bug("killed: only segments are woken", _segments_alone_woken, "kills", 200),
    Bug("killed: sharing is forgotten", _sharing_forgotten, "killed families", 100),
    Bug("killed: one segment is assumed", _one_segment_assumed, "kills", 100),
    Bug("killed: finished is forgotten", _forgotten(finished=False), "kills", 100),
    Bug("killed: complete() is forgotten", _forgotten(background=False), "kills", 100),
    Bug("killed: give_up() is forgotten", _forgotten(given_up=""), "kills", 1000),
)
