"""Post-copy: a guest of 256 MiB moves to another host; how long is it stopped, and after a cut?

Two network namespaces, certificates on both sides.  The guest writes to its pages at random without
a pause, comes from a store, and runs on at the receiver: what it adds up there must be what it adds
up without moving.

* Stopped: over a veth(4) pair, with rounds before the switch: from when its CPUs were told to stop
  here to when the sender has heard that they run there.
* Goes on: over a wire of 16 MiB/s that loses everything for five seconds, after a switch without
  any round before: from when it carries again to the next page that is in at the receiver.  Pages
  that the guest waits for are asked for, and sent, before any other.

Needs root, KVM and openssl(1), and the wire of the tests; so it is run by its name alone.  Not
asked here: what the guest loses while pages are asked for, and other delays of the network.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import Row, Target
from bench.run import Run
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import MIB, size_name
from userfault.pager.core.states import PRESENT
from userfault.serve.page_server.tls import Tls
from userfault.vmm.machine import Machine
from userfault.vmm.moving import machine_receiver
from userfault.vmm.trial import Saved, save_one, told

if TYPE_CHECKING:
    from helpers.hosts import Host

_TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(_TESTS))

_STOPPED, _GOES_ON = Target("<=", 100), Target("<=", 1000)
_PORT = "7071"
_LOOK_S = 0.002
_GUEST_S = 300.0
_CUT_S = 5.0  # a side that hears nothing notices after two, on a busy machine later
_ROUNDS_CUT = 3  # each takes half a minute


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    from helpers.hosts import slow_hosts, two_hosts  # noqa: PLC0415  # beside the tests
    from serve.page_server.authority import Authority  # noqa: PLC0415

    size = run.size(256 * MIB, 8 * MIB)
    if not run.fits("postcopy", 4 * size):
        return
    place = str(run.directory / "postcopy-store" / "vm")
    saved = save_one(place, pages=size // PAGE, seconds=run.size(6, 1))
    authority = Authority(run.directory / "postcopy-authority")
    sums: dict[str, int] = {}
    with two_hosts() as (here, there):
        stopped = [
            _Move(here, there, saved, authority, rounds=3).stopped_ms(sums)
            for _ in range(run.rounds)
        ]
    rate = run.size(16 * MIB, MIB)  # slow enough that pages are left when the cut begins
    goes_on = []
    with slow_hosts(rate=rate) as (here, there, wire):
        for _ in range(min(run.rounds, _ROUNDS_CUT)):
            move = _Move(here, there, saved, authority, rounds=0)
            goes_on.append(move.goes_on_ms(wire, _CUT_S, sums))
    run.checks.same("postcopy", {**sums, "ours": int(saved.sums[0], 16)})
    what = f"a guest of {size_name(size)}"
    _row(run, f"{what}, stopped", stopped, _STOPPED)
    _row(run, f"{what}, goes on after a cut of {_CUT_S:g} s", goes_on, _GOES_ON)


def _row(run: Run, case: str, figures: list[float], target: Target) -> None:
    run.rows.append(
        Row(
            "postcopy",
            case,
            "ms",
            statistics.median(figures),
            target=target,
            rounds=len(figures),
            note=f"longest {max(figures):.1f}",
        )
    )


class _Move:
    """One move; `there` is this module as a program, which tells when pages came in."""

    def __init__(
        self, here: Host, there: Host, saved: Saved, authority: Any, *, rounds: int
    ) -> None:
        self._here, self._saved, self._rounds = here, saved, str(rounds)
        self._address = f"{there.address}:{_PORT}"
        tls = authority.certificate("there", there.address)
        self._tls = authority.certificate("here", here.address)
        self._there = self._started(
            there, "bench.postcopy", self._address, tls.cert, tls.key, tls.cacert
        )
        self._heard("listening")

    def stopped_ms(self, sums: dict[str, int]) -> float:
        """Move it."""
        sender = self._begin()
        self._heard("runs")
        return float(self._end(sender, sums)[0]["stopped_s"]) * 1e3

    def goes_on_ms(self, wire: Any, cut_s: float, sums: dict[str, int]) -> float:
        """Move it over a wire that carries nothing for so long, once it runs there."""
        sender = self._begin()
        self._heard("runs")
        wire.whole = False
        mended = threading.Timer(cut_s, setattr, (wire, "whole", True))
        mended.start()
        mended.join()
        at = time.monotonic()
        moved, found = self._end(sender, sums)
        assert moved["breaks"], "the cut was not noticed"
        arrivals: list[float] = found["arrivals"]
        later = [each for each in arrivals if each > at]
        assert later, "all pages were in before the cut"
        return (min(later) - at) * 1e3

    def _begin(self) -> subprocess.Popen[str]:
        tls = ["--tls-cert", self._tls.cert, "--tls-key", self._tls.key]
        return self._started(
            self._here,
            *("userfault", "send", self._address, "--from", self._saved.place),
            *("--rounds", self._rounds, "--tls-cacert", self._tls.cacert, "--json", *tls),
        )

    def _end(
        self, sender: subprocess.Popen[str], sums: dict[str, int]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What both sides have told."""
        moved = json.loads(sender.communicate()[0])["moved"]
        found = json.loads(self._there.communicate()[0])
        sums[f"moved, {self._rounds} rounds"] = int(found["sums"][0], 16)
        return moved, found

    def _heard(self, word: str) -> None:
        assert self._there.stdout is not None
        assert self._there.stdout.readline().strip() == word, "the receiver has failed"

    @staticmethod
    def _started(host: Host, *module: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*host.inside, sys.executable, "-m", *module],
            cwd=_TESTS.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            text=True,
        )


def _there(address: str, cert: str, key: str, cacert: str) -> None:
    """Receive a guest, and tell its sums and when pages came in (CLOCK_MONOTONIC)."""
    receiver = machine_receiver(address, tls=Tls(cert, key, cacert))
    print("listening", flush=True)
    with receiver.receive() as received:
        print("runs", flush=True)
        machine, (memory,) = received.guest, received.memories
        assert isinstance(machine, Machine)
        arrivals, before = [], 0
        while not received.wait(_LOOK_S):
            if (now := memory.page_states[:].count(PRESENT)) > before:
                arrivals.append(time.monotonic())
                before = now
        sums = told(machine.wait(_GUEST_S))
    print(json.dumps({"sums": sums, "arrivals": arrivals}))


if __name__ == "__main__":
    _there(*sys.argv[1:])
