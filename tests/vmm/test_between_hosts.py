"""`userfault send` and `receive` between two network namespaces: TLS, delay, loss, a cut, ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import environment, userfault
from helpers.cgroup import limited, possible
from helpers.hosts import Host, cut, mend, slow_hosts, two_hosts
from helpers.skips import absent
from helpers.waiting import wait_until
from serve.page_server.authority import Authority
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.serve.page_server.tls import Tls
from userfault.vmm.trial import Saved, save_one

pytestmark = [pytest.mark.usefixtures("kvm"), pytest.mark.timeout(120)]

PORT = "7071"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A guest of 16 MiB that was stopped in the middle; its sums are known."""
    place = tmp_path_factory.mktemp("store") / "vm"
    return save_one(str(place), pages=16 * MIB // BASE_PAGE, cpus=2, seconds=0.2)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "authority")


def options(tls: Tls) -> list[str]:
    return ["--tls-cert", tls.cert, "--tls-key", tls.key, "--tls-cacert", tls.cacert]


class Running:
    """A command on a host; `say` waits for a line of its standard error that begins so."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*host.inside, sys.executable, "-m", "userfault", *arguments, "--json"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told = ""

    def say(self, begins: str) -> None:
        assert self.process.stderr is not None
        while True:
            line = self.process.stderr.readline()
            self.told += line
            assert line, self.told
            if line.startswith(begins):
                return

    def end(self) -> tuple[int, dict[str, object], str]:
        """Exit code, what it printed, what it said."""
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, json.loads(out) if out else {}, self.told + err


@contextlib.contextmanager
def moving(
    here: Host,
    there: Host,
    saved: Saved | None,
    *more: str,
    tls: tuple[Tls, Tls],
    patience: str = "60",
    group: Path | None = None,
) -> Iterator[tuple[Running, Running]]:
    """Sender and receiver, of which the first has begun when the other listens.

    `saved`: the guest; None: a new one.  `group`: where the receiver's memory is limited.
    """
    receiver = Running(
        there, "receive", f"{there.address}:{PORT}", *options(tls[1]), "--patience", patience
    )
    started = [receiver]
    try:
        receiver.say("listening")
        if group is not None:
            group.write_text(str(receiver.process.pid))
        place = ("--from", saved.place) if saved is not None else ()
        address = f"{there.address}:{PORT}"
        sender = Running(
            here, "send", address, *place, *options(tls[0]), "--patience", patience, *more
        )
        started.append(sender)
        yield sender, receiver
    finally:
        for each in started:
            each.process.kill()
            each.process.wait()
            for stream in (each.process.stdout, each.process.stderr):
                if stream is not None:
                    stream.close()


def pair(authority: Authority, here: Host, there: Host) -> tuple[Tls, Tls]:
    return (
        authority.certificate("sender", here.address),
        authority.certificate("receiver", there.address),
    )


SLOW = 4 << 20  # bytes a second: it takes four seconds to move all
CUT_S = {"sender": 0.1, "receiver": 0.1, "between": 3.0}  # behind the two of silence


@pytest.mark.parametrize("rounds", ["0", "3"])
def test_over_a_slow_network_that_loses_packets(
    authority: Authority, saved: Saved, rounds: str
) -> None:
    with slow_hosts(delay_s=0.005, loss=0.005) as (here, there, _):
        tls = pair(authority, here, there)
        with moving(here, there, saved, "--rounds", rounds, tls=tls) as (sender, receiver):
            code, told, said = sender.end()
            assert (code, said) == (0, "")
            assert told["moved"]
            code, told, said = receiver.end()
            assert (code, told["sums"]) == (0, saved.sums), said


@pytest.mark.parametrize("where", ["sender", "receiver", "between"])
def test_a_cut_in_the_middle_is_waited_for(authority: Authority, saved: Saved, where: str) -> None:
    """A host knows that its own link is down; of one farther away it hears nothing at all."""
    with slow_hosts(rate=SLOW) as (here, there, wire):
        tls = pair(authority, here, there)
        with moving(here, there, saved, "--rounds", "0", tls=tls) as (sender, receiver):
            receiver.say("a guest from")  # it runs there, with almost no page
            end = here if where == "sender" else there
            if where == "between":
                wire.whole = False
            else:
                cut(end)
            receiver.say("userfault: the connection to")  # the silence was noticed
            with pytest.raises(subprocess.TimeoutExpired):  # it does not give up so soon
                sender.process.wait(CUT_S[where])
            wire.whole = True
            mend(end)
            code, told, said = sender.end()
            assert code == 0, said
            assert told["moved"]["breaks"] >= 1  # type: ignore[index]
            code, told, said = receiver.end()
            assert (code, told["sums"]) == (0, saved.sums), said


@pytest.mark.parametrize(
    ("killed", "code", "cause"),
    [("sender", 1, "the sender is lost"), ("receiver", 9, "the program that receives has ended")],
    ids=["sender", "receiver"],
)
def test_a_side_that_is_killed_after_the_switch_ends_it_with_a_cause(
    authority: Authority, saved: Saved, killed: str, code: int, cause: str
) -> None:
    with slow_hosts(rate=SLOW) as (here, there, _):
        tls = pair(authority, here, there)
        patience = "1" if killed == "sender" else "1000000"  # of a receiver it is heard
        with moving(here, there, saved, "--rounds", "0", tls=tls, patience=patience) as sides:
            sender, receiver = sides
            receiver.say("a guest from")
            victim, other = (sender, receiver) if killed == "sender" else (receiver, sender)
            victim.process.kill()
            found, told, said = other.end()
            assert (found, told) == (code, {})
            assert cause in said


def test_a_guest_that_was_given_to_a_receiver_which_is_lost_can_be_kept(
    authority: Authority, saved: Saved, tmp_path: Path
) -> None:
    """As it was at the switch: it comes to the same sums."""
    place = str(tmp_path / "store" / "kept")
    with slow_hosts(rate=SLOW) as (here, there, _):
        tls = pair(authority, here, there)
        with moving(here, there, saved, "--rounds", "0", "--keep", place, tls=tls) as sides:
            sender, receiver = sides
            receiver.say("a guest from")
            receiver.process.kill()
            code, told, said = sender.end()
            assert (code, told) == (9, {})
            assert f"userfault vm restore {place}" in said
    again = userfault("vm", "restore", place, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["sums"] == saved.sums
    taken = userfault("send", "127.0.0.1:1", "--no-tls", "--keep", place)
    assert (taken.returncode, "already" in taken.stderr) == (1, True)


@pytest.mark.parametrize("killed", ["sender", "receiver"])
def test_a_side_that_is_killed_before_the_switch_leaves_the_guest_here(
    authority: Authority, saved: Saved, killed: str
) -> None:
    """What was sent by then is nobody's: nothing ever runs at the receiver."""
    with slow_hosts(rate=SLOW) as (here, there, wire):
        tls = pair(authority, here, there)
        with moving(here, there, saved, tls=tls, patience="1") as (sender, receiver):
            wait_until(lambda: wire.carried > MIB)  # the first round
            victim, other = (sender, receiver) if killed == "sender" else (receiver, sender)
            victim.process.kill()
            code, told, said = other.end()
            assert code == 1
            assert "a guest from" not in said
            if killed == "sender":
                assert "the sender is lost" in said
            else:
                assert "it runs on here" in said
                assert told["sums"] == saved.sums


def test_a_guest_that_would_stand_still_for_too_long_runs_on_here(
    authority: Authority, saved: Saved
) -> None:
    with slow_hosts(delay_s=0.02) as (here, there, _):
        tls = pair(authority, here, there)
        with moving(here, there, saved, "--still", "0.001", tls=tls) as (sender, _receiver):
            code, told, said = sender.end()
            assert (code, told["sums"]) == (1, saved.sums)
            assert "the receiver was not ready within 0.001 s" in said


def test_too_little_memory_there_is_told_here_and_the_guest_goes_on(authority: Authority) -> None:
    if not possible("memory"):
        absent("no memory cgroup can be made")
    with two_hosts() as (here, there), limited("memory", 200 << 20) as group:
        tls = pair(authority, here, there)
        # More than the group leaves; the sender has it without a page of it.
        big = ("--size", "256", "--seconds", "0.2")
        with moving(here, there, None, *big, tls=tls, group=group) as (sender, receiver):
            code, told, said = sender.end()
            assert (code, bool(told["sums"])) == (1, True)
            assert "leaves" in said
            code, told, said = receiver.end()
            assert (code, told) == (3, {})
            assert "memory for what is to be received" in said


@pytest.mark.parametrize("stranger", [0, 1], ids=["sender", "receiver"])
def test_a_certificate_of_another_authority_moves_nothing(
    authority: Authority, saved: Saved, tmp_path: Path, stranger: int
) -> None:
    """Each side looks at the other's: whoever is wrong, the guest goes on here to its end."""
    with two_hosts() as (here, there):
        tls = list(pair(authority, here, there))
        wrong = Authority(tmp_path / "other").certificate("stranger", there.address)
        tls[stranger] = Tls(wrong.cert, wrong.key, tls[stranger].cacert)
        with moving(here, there, saved, tls=(tls[0], tls[1])) as (sender, receiver):
            code, told, said = sender.end()
            assert (code, told["sums"]) == (1, saved.sums)
            assert "certificate" in said.lower()
            assert receiver.process.poll() is None  # it waits for the right one
