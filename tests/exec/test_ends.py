"""How it ends, and what it says where it cannot begin."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from cli.commands import environment
from exec.conftest import Exec, scene, words
from helpers.family import member
from helpers.programs import need_program, need_static_libc
from helpers.skips import need_root
from helpers.waiting import wait_for_text, wait_until
from userfault.exec import program
from userfault.exec.running import Runner
from userfault.exec.settings import Settings
from userfault.exec.words import BYTES, Message, What
from userfault.kernel.errors import UsageError
from userfault.linux.uffd import offer
from userfault.pager.core.policy import Policy


@pytest.mark.parametrize(("how", "code"), [(3, 3), (-9, 137)])
def test_the_exit_code_is_the_programs(run: Exec, data: Path, how: int, code: int) -> None:
    assert run(["--map", data], scene("ends", data, how)).returncode == code


def test_a_program_that_never_maps_it_is_told_of(run: Exec, data: Path) -> None:
    done = run(["--map", data], ["true"])
    assert "was never mapped" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 9), (signal.SIGINT, 130)])
def test_signals_are_passed_on_and_nothing_is_left(
    possible: None, data: Path, tmp_path: Path, number: int, code: int
) -> None:
    """Nor with a TMPDIR whose path is too long for a socket."""
    del possible
    said = tmp_path / "said"
    folder = tmp_path / ("tmp" if number == signal.SIGINT else "long" * 25)
    folder.mkdir()
    started = subprocess.Popen(
        words(["--map", data], scene("waits", data, said)),
        env=environment(TMPDIR=str(folder)),
        start_new_session=True,
    )
    pid = int(wait_for_text(said))
    os.kill(started.pid, number)
    assert started.wait(60) == code
    assert not list(folder.iterdir())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    wait_until(lambda: not _of_session(started.pid))


def _of_session(session: int) -> list[int]:
    """Processes of it."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(int(each))
    return found


def test_a_worker_that_is_killed_is_followed_by_another(
    possible: None, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del possible
    said = tmp_path / "said"
    settings = Settings(Policy(background=False), offer()[0])
    with Runner([str(data)], scene("waits", data, said), settings, print) as runner:

        def kill() -> None:
            wait_for_text(said)
            killed = member(runner.pager, "worker")
            os.kill(killed, signal.SIGKILL)
            member(runner.pager, "worker", but=killed)
            said.unlink()

        killer = threading.Thread(target=kill)
        killer.start()
        assert runner.run() == 0
        killer.join()
    held = data.read_bytes()
    half = len(held) // 2
    both = [hashlib.sha256(part).hexdigest() for part in (held[:half], held[half:])]
    assert both == capfd.readouterr().out.split()


def test_what_is_mapped_is_served_on_when_the_command_is_killed(
    possible: None, data: Path, tmp_path: Path
) -> None:
    del possible
    said, seen = tmp_path / "said", tmp_path / "seen"
    with seen.open("w") as file:
        started = subprocess.Popen(
            words(["--map", data], scene("waits", data, said)), env=environment(), stdout=file
        )
    pid = int(wait_for_text(said))
    started.kill()
    started.wait()
    said.unlink()
    wait_until(lambda: _state(pid) == "Z")
    held = data.read_bytes()
    half = len(held) // 2
    both = [hashlib.sha256(part).hexdigest() for part in (held[:half], held[half:])]
    assert seen.read_text().split() == both


def _state(pid: int) -> str:
    """Z, too, for one that is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_child_does_not_inherit_it_without_the_event_of_fork(run: Exec, data: Path) -> None:
    """It would read zeros in place of what is not filled."""
    need_root()
    need_program("setpriv", "util-linux")
    without = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    done = run(["--map", data], [*without, *scene("forks", data)])
    held = hashlib.sha256(data.read_bytes()).hexdigest()
    assert done.stdout.split() == [str(int(signal.SIGSEGV)), held, held], done.stderr


def test_a_mapping_that_cannot_be_lazy_is_the_files_or_an_error(
    run: Exec, data: Path, tmp_path: Path
) -> None:
    """Never other bytes: those of the file where it is its own source, EIO where it is not."""
    done = run(["--map", data], scene("fails", data))
    assert done.stdout.split() == [hashlib.sha256(data.read_bytes()[: 1 << 20]).hexdigest()]
    path = tmp_path / "other"
    done = run(["--map", f"{path}={data}"], scene("fails", path))
    assert done.stdout.split() == ["errno", str(errno.EIO)]


@pytest.mark.parametrize(("offset", "resident"), [(0, None), (1 << 20, 1 << 20)])
def test_the_pager_lets_go_of_what_is_unmapped(
    possible: None, data: Path, tmp_path: Path, offset: int, resident: int | None
) -> None:
    del possible
    said = tmp_path / "said"
    settings = Settings(Policy(background=False, resident_bytes=resident), offer()[0])
    with Runner([str(data)], scene("unmaps", data, said, offset), settings, print) as runner:

        def look() -> None:
            wait_for_text(said)
            wait_until(lambda: not runner.desk.processes())
            said.unlink()

        looking = threading.Thread(target=look)
        looking.start()
        assert runner.run() == 0
        looking.join()


def test_who_says_what_makes_no_sense_costs_nobody_else_anything(
    possible: None, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del possible
    said = tmp_path / "said"
    settings = Settings(Policy(background=False), offer()[0])
    dice = random.Random(7)
    whats = [*What, 0, 99]
    told: list[str] = []
    with Runner([str(data)], scene("waits", data, said), settings, told.append) as runner:

        def bother() -> None:
            pid = int(wait_for_text(said))
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (address,) = [word for word in words if word.startswith(b"USERFAULT_EXEC=")]
            for number in range(60):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
                    channel.connect(address.split()[-1])
                    message = Message(dice.choice(whats), file=dice.choice([0, 0, 1, 1 << 31]))
                    message.address, message.length = (
                        dice.randrange(1 << 47),
                        dice.randrange(1 << 40),
                    )
                    message.offset = dice.randrange(1 << 63)
                    message.flags, message.access = dice.randrange(1 << 31), dice.randrange(4)
                    sent = (
                        message.encode() if number % 3 else dice.randbytes(dice.randrange(1, 200))
                    )
                    with open(os.devnull) as null:
                        socket.send_fds(channel, [sent], [null.fileno()] * dice.randrange(4))
                    if dice.random() < 0.8:
                        assert channel.recv(BYTES)
            said.unlink()

        bothering = threading.Thread(target=bother)
        bothering.start()
        assert runner.run() == 0
        bothering.join()
    held = data.read_bytes()
    half = len(held) // 2
    both = [hashlib.sha256(part).hexdigest() for part in (held[:half], held[half:])]
    assert both == capfd.readouterr().out.split()
    assert told


def test_a_static_program_is_refused(tmp_path: Path) -> None:
    need_static_libc(tmp_path)
    with pytest.raises(UsageError, match="statically linked"):
        program.check(str(tmp_path / "empty"))
    program.check(shutil.which("cat") or "")


def test_a_program_that_gains_rights_is_refused(tmp_path: Path) -> None:
    need_root()
    path = tmp_path / "cat"
    shutil.copy(shutil.which("cat") or "", path)
    os.chown(path, 1, 1)
    path.chmod(0o755 | stat.S_ISUID)
    with pytest.raises(UsageError, match="set-user-ID"):
        program.check(str(path))


def test_without_a_compiler_the_cure_is_told(run: Exec, data: Path, tmp_path: Path) -> None:
    more = {"XDG_CACHE_HOME": str(tmp_path), "CC": "/nonexistent/cc"}
    done = run(["--map", data], scene("reads", data), **more)
    assert done.returncode == 3
    assert "set CC to a C compiler" in done.stderr


def test_files_and_budgets_that_cannot_be_are_told(run: Exec, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    for options, what in (
        (["--map", f"{other}={data}"], "and its source"),
        (["--map", data, "--resident", "1"], "serves no program"),
        (["--map", data, "--working-set", "a", "--map", other], "a set is of one"),
    ):
        done = run(options, ["true"])
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr


def test_programs_of_musl_are_served_by_the_same_library(
    run: Exec, data: Path, tmp_path: Path
) -> None:
    need_program("musl-gcc", "musl-tools")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <sys/mman.h>\n"
        "int main(int n, char **words) { unsigned char *at; unsigned long sum = 0;\n"
        "at = mmap(0, 1 << 20, PROT_READ, MAP_SHARED, open(words[1], O_RDONLY), 0);\n"
        'for (n = 0; n < 1 << 20; n++) sum += at[n]; printf("%lu\\n", sum); }\n'
    )
    built = tmp_path / "program"
    subprocess.run(["musl-gcc", "-o", str(built), str(source)], check=True)
    done = run(["-v", "--map", data], [str(built), str(data)])
    assert done.stdout.split() == [str(sum(data.read_bytes()[: 1 << 20]))]
    assert "mapped 1 times" in done.stderr
