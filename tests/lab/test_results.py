"""Results of kernels, and the documents that are made of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from cli.commands import ROOT, userfault
from userfault.check.statements import load as load_statements
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import REGISTRY
from userfault.cli.lab.matrix import documents
from userfault.kernel.errors import UsageError
from userfault.lab.capabilities import MEMORIES, MODES, Cell, capabilities
from userfault.lab.changes import kernel_changes, steps, unexplained
from userfault.lab.collect import file_name
from userfault.lab.matrix import compared_cases, compared_cells, pairs, support_matrix
from userfault.lab.reproduce import reproducers
from userfault.lab.results import (
    Cases,
    Results,
    encode,
    fold,
    load,
    read_reports,
    with_report,
)
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import PROFILES

DOCS = ROOT / "docs"
STATEMENTS = load_statements()
COMMITTED = load(DOCS / "results")


def results(column: str, release: tuple[int, ...], **more: object) -> Results:
    values: dict[str, object] = {
        "kernel": f"Linux {column}",
        "package": "a test",
        "profile": ".".join(map(str, release[:2])),
        "model": False,
        "statements": [],
        "cells": [],
        **more,
    }
    return Results(column=column, release=release, **values)  # type: ignore[arg-type]


# --- What is committed ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["support-matrix.md", "kernel-changes.md"])
def test_the_document_is_what_the_results_make(name: str) -> None:
    assert (DOCS / name).read_text() == documents(STATEMENTS, COMMITTED)[name], (
        "make it anew: `userfault lab matrix`"
    )


@pytest.mark.parametrize("one", COMMITTED, ids=lambda one: one.column)
def test_a_file_is_what_its_results_are_written_as(one: Results) -> None:
    assert (DOCS / "results" / file_name(one)).read_bytes() == encode(one)


def test_every_suite_and_every_profile_is_there() -> None:
    kernels = {one.release[:2] for one in COMMITTED if not one.model}

    assert {(6, 1), (6, 12), (6, 18), (7, 2), (7, 3)} <= kernels
    assert {one.profile for one in COMMITTED if one.model} == set(PROFILES)


@pytest.mark.parametrize("kernel", [k for k, _ in pairs(COMMITTED)], ids=lambda k: k.column)
def test_no_kernel_differs_from_the_model_under_its_profile(kernel: Results) -> None:
    model = next(m for k, m in pairs(COMMITTED) if k is kernel)
    cases, odd_cases = compared_cases(kernel, model)
    cells, odd_cells = compared_cells(kernel, model)

    assert (odd_cases, odd_cells) == ([], [])
    assert cases > 350
    assert cells > 40


def test_every_change_that_a_statement_shows_has_a_reproducer() -> None:
    assert unexplained(STATEMENTS, reproducers().values(), COMMITTED) == []


@pytest.mark.parametrize("profile", ["6.1", "7.3"])
def test_the_cells_of_the_model_are_those_committed(profile: str) -> None:
    committed = next(one for one in COMMITTED if one.model and one.profile == profile)

    found = list(capabilities(lambda: ModelCalls(PROFILES[profile])))

    assert found == committed.cells
    assert len(found) == len(MEMORIES) * len(MODES)


# --- Folding and files ---------------------------------------------------------------------------


def test_cases_that_ended_alike_are_one_line() -> None:
    ended = [
        CaseResult(7, "anon", Verdict.PASSED, "", 0.1),
        CaseResult(7, "shmem", Verdict.FAILED, "at 0x100200000000", 0.1),
        CaseResult(7, "hugetlb", Verdict.PASSED, "", 0.1),
        CaseResult(8, "", Verdict.PASSED, "", 0.1),
    ]

    assert fold(ended) == [
        Cases(7, Verdict.PASSED, ("anon", "hugetlb")),
        Cases(7, Verdict.FAILED, ("shmem",), "at 0x..."),
        Cases(8, Verdict.PASSED),
    ]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    one = results(
        "7.3.4",
        (7, 3, 4),
        statements=[Cases(1, Verdict.LOST, ("anon",), "hang")],
        cells=[Cell("anon", "WP", ioctls=4, tried={"COPY": ""})],
        programs={"move": "MOVE: success"},
    )
    (tmp_path / file_name(one)).write_bytes(encode(one))

    assert load(tmp_path) == [one]
    assert file_name(one) == "linux-7.3.json"


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "linux-7.3.json").write_text('{"column": "7.3"')

    with pytest.raises(UsageError, match=r"linux-7\.3\.json holds no results"):
        load(tmp_path)


def test_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results in") as error:
        load(tmp_path)
    assert "lab matrix" in error.value.cure


# --- Reports -------------------------------------------------------------------------------------


def test_a_report_of_two_kernels_is_two_lists() -> None:
    done = userfault("check", "--model", "--profile", "7.3", "--only", "1,5", "--json")
    lines = done.stdout.encode().splitlines()

    found = read_reports([*lines, *lines])

    assert [(name, [case.number for case in cases]) for name, cases in found] == [
        ("model 7.3", [1, 5]),
        ("model 7.3", [1, 5]),
    ]


def test_a_report_takes_the_place_of_its_statements_alone() -> None:
    before = results("7.3.4", (7, 3, 4), statements=[Cases(n, Verdict.FAILED) for n in (1, 2, 3)])

    after = with_report(before, [CaseResult(2, "", Verdict.PASSED, "", 0.1)])

    verdicts = {cases.number: cases.verdict for cases in after.statements}
    assert verdicts == {1: Verdict.FAILED, 2: Verdict.PASSED, 3: Verdict.FAILED}


@pytest.mark.parametrize("data", [b"", b'{"cases": {}, "seconds": 1}', b"no json", b"[1]"])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        read_reports(data.splitlines())


# --- The documents -------------------------------------------------------------------------------


def row(document: str, number: int) -> list[str]:
    (line,) = re.findall(rf"^\| {number} \|.*$", document, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_marks_of_the_matrix() -> None:
    since = "it is kept since Linux 7.3; this is Linux 6.1"
    older = [
        Cases(1, Verdict.CANNOT_RUN, reason=since),
        Cases(29, Verdict.PASSED, ("anon",)),
        Cases(29, Verdict.FAILED, ("shmem",), "promised | saw"),
        Cases(85, Verdict.CANNOT_RUN, ("shmem",), "no KVM"),
    ]
    newer = [
        Cases(1, Verdict.PASSED),
        Cases(29, Verdict.LOST, ("anon",), "hang"),
        Cases(85, Verdict.PASSED, ("shmem",)),
    ]
    columns = [
        results("6.1.9", (6, 1, 9), statements=older),
        results("7.3.4", (7, 3, 4), statements=newer),
    ]

    document = support_matrix([REGISTRY[number] for number in (1, 29, 85)], columns)

    assert row(document, 1)[2:] == ["-", "+"]
    assert row(document, 29)[2:] == ["+a x", "!"]
    assert row(document, 85)[2:] == ["?", "+b"]
    assert "promised \\| saw" in document


def test_cells_of_the_matrix_say_what_is_announced_and_what_works() -> None:
    tried = dict.fromkeys(("COPY", "ZEROPAGE", "POISON", "WRITEPROTECT", "RWPROTECT"), "EINVAL")
    cells = [
        # COPY works, MOVE (bit 5) is announced alone, CONTINUE works alone
        Cell("anon", "MISSING", ioctls=0x28, tried={**tried, "COPY": "", "MOVE": "EINVAL",
                                                    "CONTINUE": ""}),
        Cell("anon", "RWP", refused="no such feature"),
        Cell("anon", "WP", refused="EINVAL"),
        Cell("anon", "MINOR", refused="no KVM", lacking=True),
    ]  # fmt: skip

    document = support_matrix([], [results("7.3.4", (7, 3, 4), cells=cells)])

    assert "| anon | MISSING | C (K) m |" in document
    assert "| anon | RWP | no |" in document
    assert "| anon | WP | EINVAL |" in document
    assert "| anon | MINOR | ? |" in document
    assert "* anon on 7.3.4: no KVM" in document


def test_a_kernel_that_differs_from_its_model_is_told() -> None:
    kernel = results("7.3.4", (7, 3, 4), statements=[Cases(1, Verdict.FAILED)])
    model = msgspec.structs.replace(
        kernel, column="model 7.3", model=True, statements=[Cases(1, Verdict.PASSED)]
    )

    document = support_matrix([REGISTRY[1]], [kernel, model])

    assert "| 7.3.4 | 7.3 | 1 | 0 | statement 1 (undefined flags are refused) |" in document


def test_a_change_is_told_between_the_kernels_that_it_is_between() -> None:
    kernels = [
        results("6.1.9", (6, 1, 9), programs={"move": "EINVAL"}),
        results("6.12.9", (6, 12, 9), programs={"move": "success", "poison": "success"}),
        results("7.3.4", (7, 3, 4), programs={"move": "success", "poison": "success"}),
    ]
    programs = [reproducers()["move"], reproducers()["poison"]]

    document = kernel_changes(STATEMENTS, programs, kernels)

    assert steps("move", kernels) == [(kernels[0], kernels[1])]
    first, second, details = re.split(r"^## From |^# The changes", document, flags=re.M)[1:4]
    assert "`EINVAL` &rarr; `success`" in first
    assert "None that a reproducer shows" in second
    assert "userfault lab reproduce move 6.1 6.12" in details
    assert "* poison: `success`" in details


def test_a_statement_that_newer_kernels_alone_keep_wants_a_reproducer() -> None:
    since = "it is kept since Linux 7.3; this is Linux 7.2"
    kernels = [
        results("7.2.9", (7, 2), statements=[Cases(11, Verdict.CANNOT_RUN, reason=since)]),
        results("7.3.4", (7, 3), statements=[Cases(11, Verdict.PASSED)]),
    ]

    assert unexplained([REGISTRY[11]], [], kernels) == [11]
