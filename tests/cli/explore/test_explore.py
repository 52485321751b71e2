"""`userfault explore` at the command line: results, failures, what is left and continued."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from cli.commands import command, environment, userfault

MINE = str(Path(__file__).with_name("mine.py"))


def _lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_scenarios_are_listed_with_their_sentences() -> None:
    done = userfault("explore", "--list", "--json")
    assert done.returncode == 0
    listed = json.loads(done.stdout)
    assert listed["schema"] == "userfault.explore/1"
    names = {one["name"]: one["sentence"] for one in listed["scenarios"]}
    assert names["two-readers-one-copy"].startswith("Two threads read a missing page")
    assert "two-readers-one-copy" in userfault("explore", "--list").stdout


def test_a_clean_scenario_says_what_was_seen() -> None:
    done = userfault("explore", "two-readers-one-copy", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = _lines(done.stdout)
    assert result["exhausted"]
    assert result["failure"] is None
    assert result["left"] == 0
    assert result["outcomes"]
    assert result["plain"]["schedules"] > 10 * result["schedules"]
    assert "clean " in userfault("explore", "two-readers-one-copy", columns=200).stdout


def test_a_failure_is_told_and_its_line_shows_it_again(tmp_path: Path) -> None:
    page = tmp_path / "failure.html"
    done = userfault("explore", MINE, "--schedules", "50", "--html", str(page), columns=160)
    assert done.returncode == 1, done.stderr
    assert "broken a-page-stays" in done.stdout
    assert "check: a-page-stays" in done.stdout
    assert "the page is gone" in page.read_text()
    line = next(word for word in done.stdout.split() if word.startswith("explore2:"))
    again = userfault("explore", MINE, "--replay", line, "--json")
    assert again.returncode == 1
    told = json.loads(again.stdout)
    assert told["violation"]["text"] == "the page is gone"
    assert told["line"] == line
    without = userfault("explore", "--replay", line)
    assert without.returncode == 2
    assert "no scenario is called 'a-page-stays'" in without.stderr


def test_the_audit_tells_what_it_checked() -> None:
    done = userfault("explore", "two-readers-one-copy", "--audit")
    assert done.returncode == 0, done.stderr
    assert "pairs of steps, 0 do not commute" in done.stdout


def test_the_audit_leaves_out_what_has_no_meaning_on_the_kernel() -> None:
    done = userfault(
        "explore", "guest-and-punch", "two-readers-one-copy", "--audit", "--kernel", "6.1"
    )
    assert done.returncode == 0, done.stderr
    assert "left out on 6.1: it is for next: guest-and-punch" in done.stdout
    assert "two-readers-one-copy: " in done.stdout
    assert "guest-and-punch: " not in done.stdout


def test_a_design_is_explored_and_its_line_shows_the_failure_again() -> None:
    done = userfault("explore", "touch-beyond-the-end", "--design", "posted", columns=160)
    assert done.returncode == 1, done.stderr
    assert "broken touch-beyond-the-end on next under posted" in done.stdout
    line = next(word for word in done.stdout.split() if word.startswith("explore2:"))
    told = json.loads(userfault("explore", "--replay", line, "--json").stdout)
    assert told["design"] == "posted"
    assert told["violation"]["name"] == "end-of-file"
    for design in ("ours", "merged"):
        done = userfault("explore", "touch-beyond-the-end", "--design", design, "--json")
        assert done.returncode == 0, done.stderr
        assert _lines(done.stdout)[0]["design"] == design


def test_what_a_design_cannot_serve_is_left_out_with_the_reason() -> None:
    both = ("guest-punch-and-copy", "two-readers-one-copy", "--design", "hardcoded")
    done = userfault("explore", *both, "--plain", "0", columns=160)
    assert done.returncode == 0, done.stderr
    assert "left out under hardcoded: its memory cannot be set up: EINVAL" in done.stdout
    assert "clean  two-readers-one-copy on next under hardcoded" in done.stdout
    alone = userfault("explore", "guest-punch-and-copy", "--design", "hardcoded")
    assert alone.returncode == 2
    assert "guest-punch-and-copy has no meaning under hardcoded" in alone.stderr


def test_what_is_called_wrongly_is_told() -> None:
    for arguments, told in (
        (["no-such-scenario"], "no scenario is called"),
        (["--kernel", "5.4"], "no kernel is called '5.4'"),
        (["--switch", "no-such-bug"], "no old bug is called"),
        (["--design", "mergd"], "no design is called 'mergd'"),
        (["--replay", "nonsense"], "no replay line"),
        (["no-such-file.py"], "there is no Python file"),
        (["--strategy", "pct", "--preemptions", "1"], "does not go with"),
    ):
        done = userfault("explore", *arguments)
        assert done.returncode == 2, arguments
        assert told in done.stderr


def test_a_bound_leaves_something_that_continue_goes_on_with(tmp_path: Path) -> None:
    home = environment(XDG_CACHE_HOME=str(tmp_path))

    def run(*arguments: str) -> dict[str, Any]:
        line = command("explore", "two-readers-one-copy", "--json", "--plain", "0", *arguments)
        done = subprocess.run(line, env=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return _lines(done.stdout)[0]

    whole = run()
    first = run("--schedules", "4")
    assert not first["exhausted"]
    assert first["left"] > 0
    assert list(tmp_path.glob("userfault/explore/two-readers-one-copy@*.json"))
    rest = run("--continue")
    assert rest["exhausted"]
    assert rest["schedules"] == whole["schedules"]
    assert rest["outcomes"] == whole["outcomes"]
    assert not list(tmp_path.glob("userfault/explore/*.json"))


def test_ctrl_c_keeps_what_was_seen(tmp_path: Path) -> None:
    home = environment(XDG_CACHE_HOME=str(tmp_path))
    line = command("explore", MINE, "--json", "--jobs", "2")
    # The file names both scenarios: the first breaks at once, the crowd goes on for long.
    running = subprocess.Popen(
        line, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["scenario"] == "a-page-stays"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    (left,) = _lines(out)
    assert left["scenario"] == "a-crowd"
    assert not left["exhausted"]
    assert left["left"] > 0
    assert list(tmp_path.glob("userfault/explore/a-crowd@*.json"))
