"""What there is after a step: mappings, entries, page cache, queues, and who waits where."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from userfault.check.explore.telling.describe import Words
from userfault.check.prompt.session import Session
from userfault.check.prompt.telling import call_text, places

# Tables, and which things of `describe.py` are in each, by their first word.
TABLES = {
    "mappings": ("mapping", "lock"),
    "entries": ("entry",),
    "page cache": ("file", "cache", "folio"),
    "queues": (),  # whatever else: those of each userfaultfd
    "waiting": (),
}
_OF = {word: table for table, words in TABLES.items() for word in words}
_FOLIO = re.compile(r"folio (\d+(?:\.\d+)?)")


class Row(msgspec.Struct, frozen=True):
    """One thing: its name, what it is, and whether the step has changed it.

    `change`: "" where it is as it was, else new, changed or gone.
    """

    thing: str
    told: str
    change: str = ""


State = dict[str, dict[str, str]]  # of each table, what each thing is


def state(session: Session) -> State:
    """Everything that there is now."""
    found: State = {table: {} for table in TABLES}
    for thing, told in Words(session.names()).state(session.kernel.machine).items():
        if told.split(", ")[1:2] == ["special private"]:  # vdso and vvar
            continue
        first, _, rest = thing.partition(" ")
        shown = rest if first in ("mapping", "entry", "cache") else thing
        table = found[_OF.get(first, "queues")]
        table[_named(session, shown)] = _named(session, told)
    for who, call, told in session.sleeping:
        found["waiting"][f"task {who}"] = f"{call_text(call)} waits for {places(told)}"
    return found


def _named(session: Session, text: str) -> str:
    """With addresses as programs write them; folios are numbered as they come to be seen."""
    known = session.folios

    def number(found: re.Match[str]) -> str:
        return f"folio {known.setdefault(found[1], len(known) + 1)}"

    return places(_FOLIO.sub(number, text))


def rows(before: State, after: State) -> dict[str, list[Row]]:
    """The tables, each row with what the step did to it."""
    return {table: list(_changes(before.get(table, {}), after[table])) for table in TABLES}


def _changes(before: dict[str, str], after: dict[str, str]) -> Iterable[Row]:
    for thing in dict.fromkeys((*after, *before)):
        old, new = before.get(thing), after.get(thing)
        if new is None:
            yield Row(thing, old or "", "gone")
        elif old is None:
            yield Row(thing, new, "new")
        else:
            yield Row(thing, new, "" if old == new else "changed")
