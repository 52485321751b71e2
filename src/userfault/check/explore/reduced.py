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

from userfault.check.explore.order import Order, numbers
from userfault.check.explore.steps import NOBODY, Run, Step
from userfault.check.explore.strategy import CUT, Here


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


class Reduced:
    """Source sets and sleep sets.

    `root` steps at the beginning are fixed: nothing is tried instead of them (a part of a search
    that was divided).
    """

    exhausts = True
    records = True

    def __init__(self, root: int = 0) -> None:
        self.nodes: list[Node] = []
        self._order = Order()
        self._root = root
        self._began = False
        self.cuts = 0  # runs given up, since only what sleeps was left

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
                self._order.cut(len(nodes) - 1)
                return len(nodes) - 1
            nodes.pop()
        return None

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth < len(self.nodes):
            node = self.nodes[depth]
            node.chosen = node.next()
            return node.chosen
        node = Node(here.enabled, self._asleep(here))
        awake = [task for task in here.enabled if task not in node.sleep]
        if not awake:
            self.cuts += 1
            return CUT
        node.chosen = here.current if here.current in awake else awake[0]
        node.backtrack.add(node.chosen)
        self.nodes.append(node)
        return node.chosen

    def _asleep(self, here: Here) -> dict[int, Step]:
        """Who need not be tried after the last step: what was tried before it, and commutes."""
        if not self.nodes:
            return {}
        above, last = self.nodes[-1], here.steps[-1]
        tried = above.sleep | above.done if above.done else above.sleep
        return {
            task: step
            for task, step in tried.items()
            if task != last.task and not step.conflicts(last)
        }

    def end(self, run: Run) -> None:
        for number in range(run.repeated, len(run.steps)):
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
