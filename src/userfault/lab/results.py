"""Results: what one kernel, or one profile of the model, did; kept as compact JSON.

`docs/results/` holds one file for each column of the documents that `matrix.py` and `changes.py`
make of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.kernel.errors import UsageError
from userfault.lab.capabilities import Cell

SCHEMA = "userfault.lab.results/1"
HERE = "here"  # what the running kernel is called where a kernel is named
OWN_BUILD = "the machine's own build"
# Reasons that name addresses of one run, or a machine, would change the files without a cause.
_RUN = re.compile(r"0x[0-9a-f]{9,}")
_HERE = re.compile(r"; this is (Linux|model) .*")


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
            reason = _HERE.sub("", _RUN.sub("0x...", result.reason))
            alike.setdefault((result.verdict, reason), []).append(result.memory)
        for (verdict, reason), memories in alike.items():
            found.append(Cases(number, verdict, tuple(filter(None, memories)), reason))
    return found


# --- Reports -------------------------------------------------------------------------------------


class _Line(msgspec.Struct):
    """A line of `check --json` or `lab run --json`: a header, a case, or the sums."""

    kernel: str = ""
    number: int = 0
    memory: str = ""
    verdict: Verdict | None = None
    reason: str = ""


def read_reports(lines: Iterable[bytes]) -> list[tuple[str, list[CaseResult]]]:
    """Of each report in JSON lines: the kernel's name, and its cases.

    Raises UsageError for what is no such report.
    """
    found: list[tuple[str, list[CaseResult]]] = []
    for data in lines:
        try:
            line = msgspec.json.decode(data, type=_Line)
        except msgspec.MsgspecError as error:
            raise UsageError("this is no report in JSON lines", cause=str(error)) from None
        if line.kernel:
            found.append((line.kernel, []))
        elif line.verdict is not None and found:
            case = CaseResult(line.number, line.memory, line.verdict, line.reason, 0.0)
            found[-1][1].append(case)
    if not found:
        raise UsageError("the report is empty", cure="make it with `userfault check --json`")
    return found


def with_report(results: Results, cases: Iterable[CaseResult]) -> Results:
    """The same, with the statements of a report in the place of what there was of them."""
    folded = fold(cases)
    anew = {one.number for one in folded}
    kept = [one for one in results.statements if one.number not in anew]
    statements = sorted([*kept, *folded], key=lambda one: one.number)
    return msgspec.structs.replace(results, statements=statements)


# --- Files ---------------------------------------------------------------------------------------


def encode(results: Results) -> bytes:
    """As JSON with a case, cell or program a line, so that one change is one line of a diff."""
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
