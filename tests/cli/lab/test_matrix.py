"""`userfault lab matrix`: the documents of the results that are there."""

from __future__ import annotations

from pathlib import Path

from cli.commands import userfault
from lab.test_results import results, row
from userfault.check.words.outcome import Verdict
from userfault.lab.collect import file_name
from userfault.lab.results import Cases, encode, load


def test_the_command_makes_the_documents_of_the_results_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    one = results("7.3.4", (7, 3, 4), statements=[Cases(1, Verdict.FAILED)])
    (tmp_path / "results" / file_name(one)).write_bytes(encode(one))
    report = tmp_path / "report"
    report.write_bytes(
        b'{"schema": "userfault.check/1", "kernel": "Linux 7.3.4", "statements": 1}\n'
        b'{"number": 1, "memory": "", "verdict": "passed", "reason": "", "seconds": 0.1}\n'
    )

    done = userfault("lab", "matrix", "--docs", str(tmp_path), "--report", str(report))

    assert done.returncode == 0, done.stderr
    assert row((tmp_path / "support-matrix.md").read_text(), 1)[2:] == ["+"]
    assert load(tmp_path / "results")[0].statements == [Cases(1, Verdict.PASSED)]
    assert (tmp_path / "kernel-changes.md").exists()


def test_a_report_of_an_unknown_kernel_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    one = results("7.3.4", (7, 3, 4))
    (tmp_path / "results" / file_name(one)).write_bytes(encode(one))
    report = tmp_path / "report"
    report.write_bytes(b'{"kernel": "Linux 9"}\n')

    done = userfault("lab", "matrix", "--docs", str(tmp_path), "--report", str(report))

    assert done.returncode == 2
    assert "there are no results of Linux 9" in done.stderr
    assert not (tmp_path / "support-matrix.md").exists()
