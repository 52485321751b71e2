"""A line of the prompt, read: steps as random programs have them, or what is wrong and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

import msgspec

from userfault.check.differential.areas import AREAS, Area
from userfault.check.differential.program import Argument, Pages, Spot, Step, argument
from userfault.check.prompt.words import GUEST, WORDS, Part, Verb
from userfault.kernel.errors import UsageError

WHO = re.compile(r"(?:c(\d+)\.)?(\d+)")
_DESCRIPTOR = re.compile(r"[a-z]\d+|[mhdgk]")
_UFFD = re.compile(r"[ufv]\d+")
_EVERY_MESSAGE = 16


class Word(msgspec.Struct, frozen=True):
    """A word of a line; `column` counts from 1."""

    text: str
    column: int


class Mistake(UsageError):  # noqa: N818  # what happened
    """What cannot be read, in which column of the line."""

    def __init__(self, what: str, word: Word, *, cause: str = "", cure: str = "") -> None:
        super().__init__(what, cause=cause, cure=cure)
        self.column = word.column
        self.length = max(len(word.text), 1)


class Command(msgspec.Struct, frozen=True):
    """One step of a line: what the kernel is asked, in the order of `steps`.

    `named`: the task was; else any that is idle does it.  A step with the verb `guest` is what a
    virtual machine does, of which programs know nothing.
    """

    text: str
    column: int
    steps: tuple[Step, ...]
    named: bool


def read(line: str) -> list[Command]:
    """The steps of a line; what follows a # is not read.  Raises Mistake."""
    found = []
    for part in re.finditer(r"[^;]+", line.split("#", maxsplit=1)[0]):
        words = [
            Word(word[0], part.start() + word.start() + 1) for word in re.finditer(r"\S+", part[0])
        ]
        if words:
            found.append(_Reader(words).command())
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """As `did you mean 'register'?`; empty where nothing is near."""
    close = difflib.get_close_matches(word.lower(), list(known), 1, 0.6)
    return f"did you mean {close[0]!r}?" if close else ""


class _Reader:
    """Reads the words of one step."""

    def __init__(self, words: list[Word]) -> None:
        last = words[-1]
        self._words = words
        self._at = 0
        self._end = Word("", last.column + len(last.text))
        self._bare = False  # the last address was an area without +N
        self._spot: Spot | None = None  # the first address: what the step is about

    def command(self) -> Command:
        text = " ".join(word.text for word in self._words)
        who = WHO.fullmatch(self._words[0].text)
        process, task = (int(who[1] or 0), int(who[2])) if who else (0, 0)
        self._at += bool(who)
        verb = self._verb()
        if verb.verb == "guest":
            return self._guest(text, verb, process, task, named=bool(who))
        args = list(self._arguments(verb))
        if self._at < len(self._words):
            word = self._words[self._at]
            cure = nearest(word.text, verb.names) or f"write it as: {verb.usage}"
            raise Mistake(f"{word.text!r} is too much for {verb.name}", word, cure=cure)
        steps = [Step(process, task, name, tuple(one)) for name, one in _spelled(verb, args)]
        return Command(text, self._words[0].column, tuple(steps), bool(who))

    def _guest(self, text: str, verb: Verb, process: int, task: int, *, named: bool) -> Command:
        word = self._next(verb, "read, write, kvm, private or shared")
        if word.text not in GUEST:
            raise Mistake(
                f"a guest cannot {word.text!r}",
                word,
                cure=nearest(word.text, GUEST) or f"use one of {', '.join(GUEST)}",
            )
        step = Step(process, task, "guest", (word.text, self._address(verb)))
        return Command(text, self._words[0].column, (step,), named)

    def _verb(self) -> Verb:
        word = self._peek()
        if word is None:
            raise Mistake("a task, and nothing for it to do", self._end, cure="add a verb")
        self._at += 1
        name = word.text
        following = self._peek()
        if name == "read" and following is not None and _UFFD.fullmatch(following.text):
            name = "messages"
        if name not in WORDS:
            cure = nearest(name, WORDS) or "`help` lists the verbs"
            raise Mistake(f"no such verb: {name!r}", word, cure=cure)
        return WORDS[name]

    # --- arguments -------------------------------------------------------------------------------

    def _arguments(self, verb: Verb) -> Iterator[Argument]:
        for part in verb.parts:
            yield from self._part(verb, part)

    def _part(self, verb: Verb, part: Part) -> Iterator[Argument]:
        word = self._peek()
        if part is Part.UFFD:
            yield self._matching(_UFFD) or "u0"
        elif part is Part.FILE:
            yield self._next(verb, "the name of a descriptor, as u0").text
        elif part is Part.AREA:
            yield self._area(self._next(verb, "an area")).name
        elif part is Part.SPOT:
            yield self._address(verb)
        elif part is Part.SOURCE:
            yield self._source(verb)
        elif part is Part.LENGTH:
            yield self._length(verb)
        elif part is Part.FILE_SPOT or part is Part.FILE_SIZE:
            yield from self._file(verb, size=part is Part.FILE_SIZE)
        elif part is Part.FLAGS:
            if word is not None or verb.verb != "map":  # as programs have it
                yield self._flags(verb)
        else:
            while word is not None:
                self._at += 1
                yield self._as_programs(word)
                word = self._peek()

    def _as_programs(self, word: Word) -> Argument:
        try:
            return argument(word.text)
        except UsageError as error:
            raise Mistake(error.what, word, cause=error.cause, cure=error.cure) from None

    def _peek(self) -> Word | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _next(self, verb: Verb, wanted: str) -> Word:
        word = self._peek()
        if word is None:
            cure = f"write it as: {verb.usage}"
            raise Mistake(f"{verb.name} lacks {wanted}", self._end, cure=cure)
        self._at += 1
        return word

    def _matching(self, pattern: re.Pattern[str]) -> str | None:
        word = self._peek()
        if word is None or not pattern.fullmatch(word.text):
            return None
        self._at += 1
        return word.text

    def _area(self, word: Word) -> Area:
        name = word.text.split("+")[0]
        if name not in AREAS:
            cure = nearest(name, AREAS) or f"areas are {', '.join(AREAS)}"
            raise Mistake(f"no such area: {name!r}", word, cure=cure)
        return AREAS[name]

    def _address(self, verb: Verb) -> Spot:
        word = self._next(verb, "an address, as anon+2")
        area = self._area(word)
        self._bare = "+" not in word.text
        found = Spot(area.name) if self._bare else self._as_programs(word)
        if not isinstance(found, Spot):
            raise Mistake(
                f"not an address: {word.text!r}", word, cure="write it as anon+2 or anon+2+512"
            )
        self._spot = self._spot or found
        return found

    def _source(self, verb: Verb) -> Spot:
        """Where COPY and MOVE take from; the length is still that of the destination."""
        word, bare = self._peek(), self._bare
        if word is not None and word.text.split("+")[0] in AREAS:
            found = self._address(verb)
            self._bare = bare
            return found
        assert self._spot is not None
        source = AREAS["src"]
        if self._spot.of.page != source.page:
            cure = f"add a source of huge pages: {verb.usage}"
            raise Mistake(f"{verb.name} of a huge page lacks a source", self._end, cure=cure)
        return Spot("src", min(self._spot.page, source.pages - 1))

    def _length(self, verb: Verb) -> Argument:
        word = self._peek()
        if word is not None:
            found = self._length_of(word, verb)
            if found is not None:
                self._at += 1
                return found
        if not self._bare or self._spot is None:
            return Pages(1)
        return Pages(self._spot.of.pages)

    def _length_of(self, word: Word, verb: Verb) -> Argument | None:
        """A number alone is a length where flags can still come, or where there are none."""
        if not word.text[0].isdigit():
            return None
        found = self._as_programs(word)
        last = self._at + 1 == len(self._words) and verb.parts[-1] is Part.FLAGS
        return found if isinstance(found, Pages) or not last else None

    def _file(self, verb: Verb, *, size: bool) -> Iterator[Argument]:
        name = self._matching(_DESCRIPTOR)
        if name is not None:
            yield name
            if not size:
                yield self._as_programs(self._next(verb, "where the range begins, as 2p"))
        else:
            word = self._peek() or self._end
            spot = self._address(verb)
            if not spot.of.file:
                cure = "use an area of a file, as shm, huge or gmem"
                raise Mistake(f"no file is behind {spot.area}", word, cure=cure)
            yield spot.of.file
            if not size:
                yield Pages(spot.page, spot.extra)
        if size and self._peek() is None:
            raise Mistake(f"{verb.name} lacks a length, as 2p", self._end)

    def _flags(self, verb: Verb) -> int:
        found: int | None = None
        while (word := self._peek()) is not None:
            self._at += 1
            column = word.column
            for name in word.text.split("|"):
                found = (found or 0) | _flag(verb, Word(name, column))
                column += len(name) + 1
        if found is None and verb.default is None:
            choice = ", ".join(verb.names)
            raise Mistake(f"{verb.name} lacks what it is to do", self._end, cure=f"add {choice}")
        return (verb.default or 0 if found is None else found) | verb.always


def _flag(verb: Verb, word: Word) -> int:
    name = word.text.lower()
    if name in verb.names:
        return verb.names[name]
    if re.fullmatch(r"-?(?:0x[0-9a-f]+|\d+)", name):
        return int(name, 0)
    cure = nearest(name, verb.names) or f"names are {', '.join(verb.names)}"
    raise Mistake(f"{verb.name} knows no {word.text!r}", word, cure=cure)


def _spelled(verb: Verb, args: list[Argument]) -> list[tuple[str, list[Argument]]]:
    """The steps of programs that a verb is short for."""
    if verb.verb == "open":
        return [("uffd", args[:1]), ("api", args)]
    if verb.name == "messages":
        return [("events", [*args, _EVERY_MESSAGE])]
    if verb.name == "remap":
        spot, length, to, flags = args
        return [("mremap", [spot, length, length, flags, to])]
    return [(verb.verb, args)]
