"""Results: what one kernel, or one profile of the model, did; kept as compact JSON.

`docs/results/` holds one file for each column of the documents that `matrix.py` and `changes.py`
make of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec

from userfault.check.outcome import CaseResult, Verdict
from userfault.kernel.errors import UsageError
from userfault.lab.capabilities import Cell

SCHEMA = "userfault.lab.results/1"
# Reasons that name addresses or numbers of one run would change the files without a cause.
_RUN = re.compile(r"0x[0-9a-f]{9,}")


class Cases(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a statement ended on these memories (none: it is about none)."""

    number: int
    verdict: Verdict
    memories: tuple[str, ...] = ()
    reason: str = ""


class Results(msgspec.Struct, frozen=True):
    """One kernel.

    `column`: what it is called in the documents.  `kernel`: its name in full.  `release`: as
    (7, 3, 4).  `package`: where it is from.  `profile`: the model's profile of it, or for a model
    its own.  `programs`: what the reproducers print; a model runs none.
    """

    column: str
    kernel: str
    release: tuple[int, ...]
    package: str
    profile: str
    model: bool
    statements: list[Cases]
    cells: list[Cell]
    programs: dict[str, str] = {}
    schema: str = SCHEMA

    def verdicts(self) -> dict[tuple[int, str], Cases]:
        """Each case by statement and memory."""
        return {
            (cases.number, memory): cases
            for cases in self.statements
            for memory in cases.memories or ("",)
        }


def fold(results: Iterable[CaseResult]) -> list[Cases]:
    """Cases of one statement that ended alike, as one."""
    found = []
    for number, group in groupby(results, key=lambda result: result.number):
        alike: dict[tuple[Verdict, str], list[str]] = {}
        for result in group:
            reason = _RUN.sub("0x...", result.reason)
            alike.setdefault((result.verdict, reason), []).append(result.memory)
        for (verdict, reason), memories in alike.items():
            found.append(Cases(number, verdict, tuple(filter(None, memories)), reason))
    return found


# --- Reports of `check --json` and `lab run --json` -------------------------------------------------


class _Case(msgspec.Struct):
    """A line of a report that is about one case."""

    number: int
    memory: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0


def read_report(lines: Iterable[bytes]) -> Iterator[CaseResult]:
    """The cases of a report in JSON lines; its other lines are passed over.

    Raises UsageError for what is not such a report.
    """
    anything = False
    for line in lines:
        try:
            values = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            if not {"number", "verdict"} <= values.keys():
                continue
            case = msgspec.json.decode(line, type=_Case)
        except msgspec.MsgspecError as error:
            raise UsageError("this is no report in JSON lines", cause=str(error)) from None
        anything = True
        yield CaseResult(case.number, case.memory, case.verdict, case.reason, case.seconds)
    if not anything:
        raise UsageError("the report has no cases", cure="make it with `userfault check --json`")


# --- Files ---------------------------------------------------------------------------------------


def encode(results: Results) -> bytes:
    """As JSON with one case, cell or program a line, so that a change of one is a line of a diff."""
    parts = []
    for name, value in msgspec.to_builtins(results).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join(msgspec.json.encode(item).decode() for item in value)
            parts.append(f'"{name}": [\n{lines}\n]')
        elif isinstance(value, dict) and value:
            pairs = (f"{_json(key)}: {_json(item)}" for key, item in value.items())
            parts.append(f'"{name}": {{\n' + ",\n".join(pairs) + "\n}")
        else:
            parts.append(f'"{name}": {_json(value)}')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def load(directory: Path) -> list[Results]:
    """All results of a directory: kernels by release, then the model's profiles.

    Raises UsageError for a file that is no such result.
    """
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Results))
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{path} holds no results",
                cause=str(error),
                cure="remove it, and make it again: `userfault lab matrix KERNEL`",
            ) from None
    if not found:
        raise UsageError(f"no results in {directory}", cure="`userfault lab matrix KERNEL...`")
    return sorted(found, key=lambda results: (results.model, results.release, results.column))
