"""What the pager on the simulated kernel and its driver have between them, and write down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pager_core.simkernel import Kernel
from pager_core.simlayout import SimLayout
from pager_core.simparts import ANON, SHIFT, Kind, Mm
from pager_core.simstore import States, Store
from userfault.pager.core import recovery
from userfault.pager.core.actions import Fetch, Overdue
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.poverty import MEMORY_RETRIES
from userfault.pager.core.recorded import Snapshot
from userfault.pager.core.states import CACHED, MISSING, Pages

PAGE = 1 << SHIFT


class Config(NamedTuple):
    """One mapping and its pager.  `origin`: file, function, zero, or known (see `SimLayout`).
    `bad`: unreadable pages."""

    kind: Kind = ANON
    pages: int = 8
    origin: str = "file"
    prepared: bool = False
    background: bool = True
    retries: int = 1
    window: int = 4
    chunk: int = 3
    fetches: int = 2
    has_poison: bool = True
    on_failure: str = "poison"
    bad: frozenset[int] = frozenset()
    fault_deadline: float | None = None
    on_overdue: str = "report"
    around: str = "cost"


@dataclass(eq=False)
class Context:
    """One address space and the core that serves it."""

    core: MappingCore
    mm: Mm
    number: int
    states: int
    closed: bool = False

    @property
    def finishes(self) -> int:
        return self.mm.finishes


class State:
    """Kernel, client and pager.

    What a driver must do, and a planted mistake does not: see the attributes of the class.
    """

    applies_events_first = True
    reads_on = True  # after Finish: events may be queued still, and memory that grew may fault
    resets_result = True  # in the record of a fill, before it is that of another one
    commits_each = True  # a snapshot after each event but REMOVE, not one after the batch
    finishes_once = True  # a snapshot before memory is unregistered, not after it

    def __init__(self, config: Config) -> None:
        self.config = config
        layout = SimLayout(config.pages) if config.origin == "known" else None
        zeros = layout.zeros if layout else frozenset[int]()
        if config.origin == "zero":
            zeros = frozenset(range(config.pages))
        self.kernel = Kernel(config.kind, config.pages, prepared=config.prepared, zeros=zeros)
        self.kernel.uffd.memory_retries = MEMORY_RETRIES
        policy = Policy(
            background=config.background,
            fill_around=config.around,
            window_bytes=config.window * PAGE,
            chunk_bytes=config.chunk * PAGE,
            retries=config.retries,
            deadline_s=1.0,
            fetches=config.fetches,
            on_failure=config.on_failure,
            fault_deadline_s=config.fault_deadline,
            on_overdue=config.on_overdue,
        )
        plan = Plan(
            start=self.kernel.start * PAGE,
            page_size=PAGE,
            policy=policy,
            source_zero=config.origin == "zero",
            source_fetches=config.origin == "function",
            exists_is_ambiguous=config.kind.ambiguous,
            has_poison=config.has_poison,
            shared=config.kind.shared,
            layout=layout,
        )
        self.plan = plan
        self.store = store = Store()
        states = bytes([CACHED if config.prepared else MISSING]) * config.pages
        store.states[0] = States(states, store.fuse)
        core = MappingCore(plan, Pages(store.states[0], config.pages))
        store.owners[0] = self.kernel.mms[0]
        self.contexts = [Context(core, store.owners[0], 0, 0)]
        self.applied = 0  # events of the batch
        self.flights: list[tuple[Context, Fetch]] = []
        self.now = 0.0
        self.overdue: list[Overdue] = []
        self.over = False  # the client was ended
        self.excused: set[Mm] = set()  # killed after the finish was written down, before it
        self.completed = config.background  # everything was asked for,
        self.gave_up = False  # or nothing more, and the client was told so
        self.commit()

    @property
    def main(self) -> Context | None:
        """The context of the process that the mapping was made in."""
        first = self.kernel.mms[0]
        return next((c for c in self.contexts if c.mm is first and not c.closed), None)

    def commit(self) -> None:
        """Replace the snapshot: all contexts, and how much of the batch is in it."""
        store = self.store
        store.fuse.point()
        store.snapshot = Snapshot(
            batch=store.batch,
            applied=self.applied,
            contexts=tuple(
                recovery.record(each.core, each.number, each.states)
                for each in self.contexts
                if not each.closed
            ),
        )
        store.fuse.point()

    def left(self, context: Context) -> None:
        """A process has ended: its context is closed."""
        context.core.leave()
        context.core.out.clear()
        context.core.deferred.clear()
        context.closed = True
        self.commit()
