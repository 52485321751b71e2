"""`userfault simulate` at the command line: sums, one run told, wrong calls, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess

from cli.commands import command, environment, userfault


def test_the_sums_say_what_was_seen() -> None:
    done = userfault("simulate", "--seeds", "12", "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout)
    assert (sums["schema"], sums["first"], sums["seeds"]) == ("userfault.simulate/1", 3, 12)
    assert sums["complete"]
    assert not sums["broken"]
    assert sums["steps"] > 100
    assert "12 seeds: nothing violated" in userfault("simulate", "--seeds", "12").stdout


def test_one_run_is_told_and_is_the_same_each_time() -> None:
    once, again = (userfault("simulate", "--seed", "7", "--trace") for _ in range(2))
    assert once.returncode == 0, once.stderr
    assert once.stdout == again.stdout
    assert "pager.epoll" in once.stdout
    assert "what clients did" in once.stdout


def test_a_trace_of_many_runs_is_a_wrong_call() -> None:
    assert userfault("simulate", "--trace").returncode == 2
    assert userfault("simulate", "--kernel", "2.4").returncode == 2


def test_ctrl_c_tells_what_was_seen() -> None:
    with subprocess.Popen(
        command("simulate", "--seeds", "1000000", "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            running.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    for line in said.splitlines():  # nothing, if it had not begun
        assert json.loads(line)["complete"] is False
