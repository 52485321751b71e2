"""`userfault check --model`, alone or against another: random programs and statements."""

from __future__ import annotations

import json

import pytest

from cli.commands import userfault


def test_random_programs_run_on_the_model_alone() -> None:
    done = userfault("check", "--fuzz", "--model", "7.2", "--programs", "10", "--seed", "4")
    assert done.returncode == 0, done.stdout
    assert "10 programs on model 7.2, its rules walked and on model 7.2" in " ".join(
        done.stdout.split()
    )
    assert ", 0 of them diverged" in done.stdout


def test_random_programs_run_on_another_design() -> None:
    arguments = ("--model", "7.3", "--design", "merged", "--programs", "5", "--seed", "4")
    done = userfault("check", "--fuzz", *arguments)
    assert done.returncode == 0, done.stdout
    assert ", 0 of them diverged" in done.stdout


def test_a_program_shows_where_two_releases_differ() -> None:
    text = "0 map thp; 0 load thp+0"
    done = userfault("check", "--program", text, "--model", "7.2", "--against", "7.3", columns=140)
    assert done.returncode == 1
    assert "model 7.2" in done.stdout
    assert "model 7.3" in done.stdout
    assert "they differ" in done.stdout
    same = userfault("check", "--program", text, "--model", "6.18", "--against", "7.2")
    assert same.returncode == 0
    assert "they agree" in same.stdout


def test_statements_show_where_two_releases_answer_differently() -> None:
    done = userfault(
        "check", "--model", "7.2", "--against", "7.3", "--only", "29,214", "--json", columns=140
    )
    assert done.returncode == 0, done.stderr
    header, *cases, sums = map(json.loads, done.stdout.splitlines())
    assert header == {"schema": "userfault.check.against/1", "model": "7.2", "against": "7.3"}
    assert {case["number"] for case in cases} == {29, 214}
    assert sums["differ"] == len(cases)
    refused = next(case for case in cases if case["number"] == 29)
    assert refused["verdicts"] == ["passed", "passed"]
    assert "EBUSY" in refused["calls"][1]
    assert "EBUSY" not in refused["calls"][0]


def test_a_statement_of_a_later_release_is_a_difference() -> None:
    done = userfault(
        "check", "--model", "6.1", "--against", "6.18", "--only", "poison", columns=140
    )
    assert done.returncode == 0, done.stderr
    assert "cannot run here" in done.stdout
    assert "cases differ" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--against", "7.3"),
        ("--fuzz", "--against", "7.3"),
        ("--model", "7.2", "--profile", "7.3"),
        ("--model", "6.19"),
        ("--model", "7.2", "--against", "6.19"),
        ("--fuzz", "--model", "6.19"),
        ("--model", "7.2", "--against", "7.3", "--junit", "file"),
        ("--model", "7.2", "--against", "7.3", "--explain", "5"),
    ],
)
def test_a_wrong_call_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = userfault("check", *arguments)
    assert done.returncode == 2, done.stdout


def test_the_model_without_a_release_is_the_next_one() -> None:
    done = userfault("check", "--model", "--only", "5")
    assert done.returncode == 0
    assert "model next" in done.stdout
    assert "model 6.18" in userfault("check", "--model", "--profile", "6.18", "--only", "5").stdout
