"""The reports of `userfault check` for programs: JSON lines, and a JUnit file.

Both hold what was run so far at any moment, so that a run that is killed keeps its results.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.cli.shared import json_output
from userfault.snapshot.stores.newfile import write_new

SCHEMA = "userfault.check/1"
_REWRITE_S = 1.0


class Header(msgspec.Struct, frozen=True):
    """What is checked."""

    kernel: str
    statements: int
    unknown_features: int = 0


class JsonLines:
    """A line for the header, for each case, and for the sums."""

    def __init__(self, header: Header) -> None:
        self._line({"schema": SCHEMA, **msgspec.to_builtins(header)})

    def add(self, statement: Statement, result: CaseResult) -> None:
        """One case; with its trace unless it passed."""
        found = msgspec.to_builtins(result)
        if result.verdict is Verdict.PASSED:
            del found["trace"]
        self._line({"subject": statement.subject, "name": statement.name, **found})

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """The sums; `complete` is false if the run was interrupted."""
        counts = {verdict.value: seen[verdict] for verdict in Verdict}
        self._line({"cases": counts, "seconds": seconds, "complete": complete})

    @staticmethod
    def _line(values: object) -> None:
        json_output.line(values)


class JunitFile:
    """One test suite, a test case for each statement on each memory.

    `before`: the file so far, whose suites (of other kernels) stay in it.
    """

    def __init__(self, path: Path, header: Header, before: JunitFile | None = None) -> None:
        self._path = path
        self._suite = ElementTree.Element("testsuite", name=f"userfault check: {header.kernel}")
        self._suites: list[ElementTree.Element] = [*(before._suites if before else ()), self._suite]
        self._counts: Counter[str] = Counter()
        self._written = 0.0
        self._write()

    def add(self, statement: Statement, result: CaseResult) -> None:
        """One case; the file is written anew about once a second."""
        memory = f" [{result.memory}]" if result.memory else ""
        case = ElementTree.SubElement(
            self._suite,
            "testcase",
            classname=f"userfault.check.{statement.subject}",
            name=f"{statement.number} {statement.name}{memory}",
            time=f"{result.seconds:.3f}",
        )
        self._counts["tests"] += 1
        kinds = {
            Verdict.FAILED: ("failure", "failures"),
            Verdict.LOST: ("error", "errors"),
            Verdict.CANNOT_RUN: ("skipped", "skipped"),
        }
        if result.verdict in kinds:
            tag, counter = kinds[result.verdict]
            self._counts[counter] += 1
            told = ElementTree.SubElement(case, tag, message=result.reason)
            told.text = "\n".join((statement.promise, *result.trace))
        if time.monotonic() - self._written > _REWRITE_S:
            self._write()

    def end(self, seen: Counter[Verdict], seconds: float, *, complete: bool) -> None:
        """The whole of it."""
        del seen, complete
        self._suite.set("time", f"{seconds:.3f}")
        self._write()

    def _write(self) -> None:
        for name in ("tests", "failures", "errors", "skipped"):
            self._suite.set(name, str(self._counts[name]))
        root = self._suite
        if len(self._suites) > 1:
            root = ElementTree.Element("testsuites")
            root.extend(self._suites)
        # Whoever looks, or kills us, finds a whole file.
        write_new(self._path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
        self._written = time.monotonic()
