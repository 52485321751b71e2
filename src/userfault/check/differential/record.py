"""What a program did, entry by entry, so that a model can do it again under another schedule.

An entry begins on the live kernel, is done by the model while that one is at it, and then ends on
the live kernel: `theirs` is what the live kernel answered, `ours` the model.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from userfault.check.differential.side import AT_REST, SPINS_FOR_EVER, Answer, Side
from userfault.check.words.trace import show_call, show_result
from userfault.kernel.calls import PAGE, Call, Pagemap, Read, Result, Survey
from userfault.uapi.pagemap import PM_PRESENT

_SPINS_S = 2.0


class Line(msgspec.Struct, frozen=True):
    """One line of the two traces: what was done or looked at, and what each kernel said."""

    what: str
    live: str
    model: str

    @property
    def same(self) -> bool:
        return self.live == self.model


class Sleeper(msgspec.Struct, frozen=True):
    """A call that has not ended yet.

    `fds`: what was open when it was called, which is what a child inherits.
    """

    number: int
    process: int
    task: int
    call: Call
    fds: dict[str, int]


class Entry(Protocol):
    """One thing that both kernels do."""

    theirs: tuple[Answer, ...]
    ours: tuple[Answer, ...]

    def begin(self, side: Side) -> None:
        """Have a kernel begin it."""

    def end(self, side: Side) -> tuple[Answer, ...]:
        """What it answered."""

    def lines(self) -> list[Line]:
        """For the traces; the last one is the first that differs, if any does."""


class Hired:
    """A process has one more task."""

    def __init__(self, process: int) -> None:
        self._process = process
        self.theirs: tuple[Answer, ...] = ()
        self.ours: tuple[Answer, ...] = ()

    def begin(self, side: Side) -> None:
        side.hire(self._process)

    def end(self, side: Side) -> tuple[Answer, ...]:
        del side
        return ()

    def lines(self) -> list[Line]:
        return []


class Given:
    """The last of `sleepers` was called, and what every one of them has come to since."""

    def __init__(self, what: str, sleepers: tuple[Sleeper, ...], *, shuffled: bool) -> None:
        self._what = what
        self._sleepers = sleepers
        self._shuffled = shuffled
        self.theirs: tuple[Answer, ...] = ()
        self.ours: tuple[Answer, ...] = ()

    def begin(self, side: Side) -> None:
        new = self._sleepers[-1]
        side.give(new.number, new.process, new.task, new.call)

    def end(self, side: Side) -> tuple[Answer, ...]:
        # What spins for ever on the model need not be waited for.
        rest = side.settle(_SPINS_S if SPINS_FOR_EVER in self.ours else None)
        if rest != AT_REST:
            return (rest,)
        return (rest, *side.answers(shuffled=self._shuffled))

    def lines(self) -> list[Line]:
        found = [Line(f"-- {self._what}", "", "")]
        if self.theirs[0] != self.ours[0] or self.theirs[0] != AT_REST:
            ours = SPINS_FOR_EVER if SPINS_FOR_EVER in self.ours else _tell(self.ours[0])
            return [*found, Line("coming to rest", _tell(self.theirs[0]), ours)]
        for one, live, model in zip(self._sleepers, self.theirs[1:], self.ours[1:], strict=True):
            name = f"{one.process}.{one.task} {show_call(one.call)}"
            found.append(Line(name, _tell(live), _tell(model)))
            if live != model:
                break
        return found


class Looked:
    """A process was looked at."""

    def __init__(self, process: int, wanted: tuple[Call, ...]) -> None:
        self._process = process
        self._wanted = wanted
        self.theirs: tuple[Answer, ...] = ()
        self.ours: tuple[Answer, ...] = ()

    def begin(self, side: Side) -> None:
        side.look(self._process, self._wanted)

    def end(self, side: Side) -> tuple[Answer, ...]:
        return side.seen()

    def lines(self) -> list[Line]:
        """Only what differs: the rest is what the calls of the program have said already."""
        for call, live, model in zip(self._wanted, self.theirs, self.ours, strict=False):
            if live != model:
                looked, *told = _narrowed(call, live, model)
                return [Line(f"{self._process} {show_call(looked)}", *map(_tell, told))]
        return []


class Ended:
    """Every process of a model has ended: nothing may be left over."""

    def __init__(self) -> None:
        self.theirs: tuple[Answer, ...] = ()
        self.ours: tuple[Answer, ...] = ()

    def begin(self, side: Side) -> None:
        del side

    def end(self, side: Side) -> tuple[Answer, ...]:
        return (side.close(),)

    def lines(self) -> list[Line]:
        if self.theirs == self.ours == (AT_REST,):
            return []
        return [Line("the end of every process", _tell(self.theirs[0]), _tell(self.ours[0]))]


def _narrowed(call: Call, live: Answer, model: Answer) -> tuple[Call, Answer, Answer]:
    """Of a survey the first page that differs: what pagemap says of it, else its bytes."""
    if not isinstance(call, Survey) or isinstance(live, str) or isinstance(model, str):
        return call, live, model
    place = 8 * call.count
    for number in range(call.count):
        page = call.address + number * call.stride
        words = [one.data[8 * number : 8 * number + 8] for one in (live, model)]
        if words[0] != words[1]:
            return Pagemap(page, PAGE), Result(data=words[0]), Result(data=words[1])
        if int.from_bytes(words[0], "little") & call.mask == PM_PRESENT:
            held = [one.data[place : place + call.length] for one in (live, model)]
            if held[0] != held[1]:
                read = Read(page + call.offset, call.length)
                shown = [Result(len(data), data=data) for data in held]
                return read, shown[0], shown[1]
            place += call.length
    return call, live, model


def _tell(answer: Answer) -> str:
    return answer if isinstance(answer, str) else show_result(answer)
