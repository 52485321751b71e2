"""A daemon whose first worker is killed in the moment in which it has accepted a client."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from userfault.pager.drivers.family.supervisor import found
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.record.records import FamilyRecord, encode
from userfault.pager.drivers.wire.messages import Hello
from userfault.serve import daemon, doors, records, sockets
from userfault.source.spec import resolve


def serve_with_a_kill(path: str, image: str) -> NoReturn:
    """Found a family; it ends when it is drained."""
    resolved = resolve(image)
    bound = sockets.listening(path)
    control = sockets.listening(f"{path}.control")
    door = records.Door("door", "firecracker", path, 0, image="one", place=bound.place)
    orders = records.Door("control", "control", f"{path}.control", 2, place=control.place)
    told = records.Daemon(doors=[door, orders], images=[records.Image("one", resolved.spec, 1)])
    kept = [bound.fd, resolved.fd, control.fd]
    journal = Journal.create()
    journal.commit(encode(FamilyRecord(Hello(), kept=kept, about=records.encode(told))))
    found(journal, _serve, lambda: None, _refused)


def _serve(journal: Journal) -> None:
    if not journal.words[Word.TAKEOVERS]:
        doors.peer = _killed  # type: ignore[assignment, attr-defined]
    daemon.serve(journal)


def _killed(_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _refused(error: BaseException) -> None:
    print(error, file=sys.stderr)
