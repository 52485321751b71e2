"""One schedule of each kind: source sets and sleep sets (Abdulla, Aronis, Jonsson and Sagonas,
"Optimal dynamic partial order reduction", POPL 2014, algorithm 1).

Two schedules that differ by the order of steps that do not conflict lead to the same end.  Where
two steps of a run raced, another run is made in which they come the other way round; *sleep sets*
keep a run from being made that differs from an earlier one by such an order alone.

The one departure: here a step may touch other places when it comes earlier, since it goes on from
what it reads.  So the task of the later step of a race counts as a way to begin the reversed run
only where what it touches *there* is known, or nothing comes between.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from userfault.check.explore.steps import NOBODY, Run, Step
from userfault.check.explore.strategies.order import Order, numbers
from userfault.check.explore.strategies.strategy import CUT, Here
from userfault.model.tasks.recorder import Place


class Node:
    """A place in the current schedule where a choice was made."""

    __slots__ = ("backtrack", "chosen", "done", "enabled", "sleep", "step")

    def __init__(self, enabled: tuple[int, ...], sleep: dict[int, Step]) -> None:
        self.enabled = enabled
        self.sleep = sleep  # whose step was tried from an equal place before, and what it touched
        self.backtrack: set[int] = set()
        self.done: dict[int, Step] = {}  # what was tried from here
        self.chosen = NOBODY
        self.step: Step | None = None

    def known(self, task: int) -> Step | None:
        """What the task's step from here touches, if that was seen."""
        return self.done.get(task) or self.sleep.get(task)

    def next(self) -> int:
        """Who is still to be tried."""
        left = self.backtrack - self.done.keys() - self.sleep.keys()
        return min(left) if left else NOBODY


class SavedStep(msgspec.Struct, frozen=True):
    """What a task's next step touches, to be kept in a file."""

    task: int
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    adds: tuple[Place, ...]

    @classmethod
    def of(cls, step: Step) -> SavedStep:
        return cls(step.task, tuple(step.reads), tuple(step.writes), tuple(step.adds))

    def step(self) -> Step:
        made = Step(self.task, "", (), NOBODY)
        made.reads = set(self.reads)
        made.writes = set(self.writes)
        made.adds = set(self.adds)
        return made


class SavedNode(msgspec.Struct, frozen=True):
    """A choice of a search that was left, to be kept in a file."""

    enabled: tuple[int, ...]
    chosen: int
    backtrack: tuple[int, ...]
    sleep: tuple[SavedStep, ...]
    done: tuple[SavedStep, ...]
    step: SavedStep | None

    @classmethod
    def of(cls, node: Node) -> SavedNode:
        return cls(
            node.enabled,
            node.chosen,
            tuple(sorted(node.backtrack)),
            tuple(map(SavedStep.of, node.sleep.values())),
            tuple(map(SavedStep.of, node.done.values())),
            SavedStep.of(node.step) if node.step is not None else None,
        )

    def node(self) -> Node:
        made = Node(self.enabled, {one.task: one.step() for one in self.sleep})
        made.chosen = self.chosen
        made.backtrack = set(self.backtrack)
        made.done = {one.task: one.step() for one in self.done}
        made.step = self.step.step() if self.step is not None else None
        return made


class Root(msgspec.Struct, frozen=True):
    """Where a part of a divided search begins.

    The first choices, and who need not be tried after them: another part has done so from an
    equal place.
    """

    schedule: tuple[int, ...] = ()
    sleep: tuple[SavedStep, ...] = ()


class Reduced:
    """Source sets and sleep sets.

    `root`: the choices of the beginning, instead of which nothing else is tried.  `saved`: the
    place where an earlier search was left.
    """

    exhausts = True
    records = True

    def __init__(self, root: Root | None = None, saved: Sequence[SavedNode] = ()) -> None:
        root = root or Root()
        self.nodes: list[Node] = []
        self._order = Order()
        self._root = len(root.schedule)
        self._root_sleep = {one.task: one.step() for one in root.sleep}
        self._given = list(root.schedule)  # choices that are made without being asked for
        self._branch = 0  # the depth at which the next choice is another one than last time
        self._began = False
        self.departed = False  # `saved` is of another state of the model or of the scenario
        self.cuts = 0  # runs given up, since only what sleeps was left
        if saved:
            self.nodes = [node.node() for node in saved]
            self._began = True

    def begin(self) -> int | None:
        if not self._began:
            self._began = True
            return 0
        nodes = self.nodes
        while nodes:
            node = nodes[-1]
            if node.step is not None:
                node.done[node.chosen] = node.step
                node.step = None
            if len(nodes) > self._root and node.next() != NOBODY:
                self._branch = len(nodes) - 1
                self._order.cut(self._branch)
                return min(self._branch, len(self._order.steps))
            nodes.pop()
        return None

    def saved(self) -> list[SavedNode]:
        """The place where the search stands, between two runs."""
        return [SavedNode.of(node) for node in self.nodes]

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth < len(self.nodes):
            node = self.nodes[depth]
            if node.enabled != here.enabled:
                self.departed = True
                return CUT
            if depth == self._branch:
                node.chosen = node.next()
            return node.chosen
        node = Node(here.enabled, self._asleep(here))
        awake = [task for task in here.enabled if task not in node.sleep]
        if depth < self._root:
            node.chosen = self._given[depth]
        elif not awake:
            self.cuts += 1
            return CUT
        else:
            node.chosen = here.current if here.current in awake else awake[0]
        node.backtrack.add(node.chosen)
        self.nodes.append(node)
        return node.chosen

    def _asleep(self, here: Here) -> dict[int, Step]:
        """Who need not be tried after the last step: what was tried before it, and commutes."""
        if len(self.nodes) <= self._root:
            return self._root_sleep if len(self.nodes) == self._root else {}
        above, last = self.nodes[-1], here.steps[-1]
        tried = above.sleep | above.done if above.done else above.sleep
        return {
            task: step
            for task, step in tried.items()
            if task != last.task and not step.conflicts(last)
        }

    def end(self, run: Run) -> None:
        for number in range(len(self._order.steps), len(run.steps)):
            step = run.steps[number]
            self.nodes[number].step = step
            for other in numbers(self._order.add(step)):
                self._reverse(other, number)

    def _reverse(self, first: int, last: int) -> None:
        """Have a run made in which `last` comes before `first`."""
        if first < self._root:
            return
        node = self.nodes[first]
        order = self._order
        between = order.not_after(first, last)
        task = order.steps[last].task
        starts = order.initials(between) if between else {task: last}
        if task not in starts and self._commutes(node.known(task), between):
            starts[task] = last
        if node.backtrack.isdisjoint(starts) and node.sleep.keys().isdisjoint(starts):
            node.backtrack.add(task if task in starts else min(starts))

    def _commutes(self, step: Step | None, between: int) -> bool:
        if step is None:
            return False
        steps = self._order.steps
        return not any(step.conflicts(steps[number]) for number in numbers(between))
