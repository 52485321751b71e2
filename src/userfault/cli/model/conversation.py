"""One line after the other: steps for the model, or a word for the prompt itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from userfault.check.differential.areas import AREAS
from userfault.check.differential.program import to_text
from userfault.check.prompt.completing import candidates
from userfault.check.prompt.language import Mistake, Word, nearest, read
from userfault.check.prompt.session import Session, Turn
from userfault.check.prompt.state import Row, rows, state
from userfault.check.prompt.words import WORDS
from userfault.cli.shared import errors
from userfault.kernel.errors import UsageError

_OWN = {
    "help": "the steps; `help VERB`: one of them",
    "areas": "the memory that can be mapped",
    "show": "everything that there is",
    "program": "the steps so far, for `userfault check --program`",
    "quit": "leave; so does the end of the input",
}
Pairs = list[tuple[str, str]]


class Screen(Protocol):
    """Where what happens is shown."""

    def echo(self, number: int, line: str) -> None:
        """A line of a script is about to run."""

    def turns(self, turns: list[Turn], tables: dict[str, list[Row]]) -> None:
        """What steps came to, and what there is now."""

    def state(self, tables: dict[str, list[Row]]) -> None:
        """What there is."""

    def pairs(self, pairs: Pairs) -> None:
        """Names and what is to be said of each."""


class Conversation:
    """With one session.  `broken`: a rule of the model was."""

    def __init__(self, session: Session, screen: Screen) -> None:
        self._session = session
        self._screen = screen
        self._state = state(session)
        self.broken = False

    @property
    def name(self) -> str:
        """Of the profile."""
        return self._session.kernel.machine.profile.name

    def line(self, line: str) -> bool:
        """Do what it says; False to leave.  Raises Mistake."""
        words = line.split("#", maxsplit=1)[0].rstrip("; ").split()
        if words and (words[0] in _OWN or words == ["exit"]):
            return self._own(words, Word(words[-1], line.index(words[-1]) + 1))
        for command in read(line):
            try:
                turns = self._session.run(command)
            except Mistake:
                raise
            except UsageError as error:
                word = Word(command.text, command.column)
                raise Mistake(error.what, word, cause=error.cause, cure=error.cure) from None
            self.broken |= any(turn.broken for turn in turns)
            before, self._state = self._state, state(self._session)
            self._screen.turns(turns, rows(before, self._state))
        return True

    def script(self, lines: Iterable[str], name: str) -> int:
        """Every line, up to the first that cannot be read or that breaks a rule; the exit code."""
        for number, line in enumerate(lines, 1):
            told = line.rstrip("\n")
            self._screen.echo(number, told)
            try:
                if not self.line(told):
                    break
            except Mistake as error:
                where = f"{name}:{number}:{error.column}"
                raise UsageError(
                    f"{where}: {error.what}", cause=error.cause, cure=error.cure
                ) from None
            if self.broken:
                break
        return errors.FAILED if self.broken else 0

    def completions(self, before: str) -> list[str]:
        """Words that may follow."""
        descriptors = self._session.scopes[0].fds
        return candidates(before, _OWN, descriptors)

    # --- words of the prompt itself --------------------------------------------------------------

    def _own(self, words: list[str], last: Word) -> bool:
        if words[0] in ("quit", "exit"):
            return False
        if words[0] == "help":
            self._help(words[1:], last)
        elif words[1:]:
            raise Mistake(f"{words[0]} takes no arguments", last)
        elif words[0] == "areas":
            self._screen.pairs([(area.name, _area(area.name)) for area in AREAS.values()])
        elif words[0] == "show":
            self._screen.state(rows(self._state, self._state))
        else:
            self._screen.pairs(self._program())
        return True

    def _help(self, names: list[str], last: Word) -> None:
        if not names:
            told = [(verb.usage, verb.about) for verb in WORDS.values()]
            self._screen.pairs([*told, *_OWN.items()])
            return
        verb = WORDS.get(names[0])
        if verb is None:
            raise Mistake(f"no such verb: {names[0]!r}", last, cure=nearest(names[0], WORDS))
        self._screen.pairs(
            [(verb.usage, verb.about), *([("FLAGS", ", ".join(verb.names))] if verb.names else [])]
        )

    def _program(self) -> Pairs:
        text = to_text(tuple(self._session.program))
        if not self._session.beyond:
            return [(text, "")]
        return [(text, "(without what the guest did, which programs cannot say)")]


def _area(name: str) -> str:
    area = AREAS[name]
    size = "2 MiB" if area.page > 4096 else "4 KiB"
    pages = f"{area.pages} pages of {size}" if area.pages > 1 else f"a page of {size}"
    behind = f", file {area.file}" if area.file else ""
    return f"{area.memory}, {pages}{behind}"
