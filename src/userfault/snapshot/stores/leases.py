"""Who works in a store: leases, so that nobody removes what somebody else is about to refer to.

A lease is two small objects, `leases/<id>.share` and `leases/<id>.sweep`.  A holder that **shares**
has both: it may refer to anything that is in the store (pack, squash, remove).  A holder that
**sweeps** has `.sweep` alone: it may remove what nobody refers to.  A sharer becomes a sweeper by
deleting `.share`, which needs no room on a full disk.

The rule, for both: first announce yourself, then look who else is there.  So of two that start at
once at least one sees the other (puts, deletes and listings of a folder, of S3, GCS and Azure are
strongly consistent).  A sharer that sees a sweeper waits for it; a sweeper that sees anybody does
not sweep.

Who died left its lease.  On this machine, in this pid namespace, the kernel tells: the process is
gone, or another has its number (start time).  From elsewhere (another machine or container, or
this one before it was started anew) a lease is a living holder's only while its date is within
EXPIRY of now, both by the clock of the store: whoever lives renews it every minute.  A date ahead
of now is no better than one behind: the clock was set back, and a holder would have renewed its
lease since.  So no lease holds others up for longer than EXPIRY after a clock went right, whatever
its date.  A holder that could not renew in time (suspended, cut off) knows that itself by
CLOCK_BOOTTIME, and gives up: `check`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.snapshot.errors import (
    FormatError,
    NoSuchObject,
    SnapshotInUse,
    StoreError,
)
from userfault.snapshot.stores.keys import LEASES, lease_of
from userfault.snapshot.stores.objects import Objects

EXPIRY = 900.0
RENEW = 60.0
_MOST_BODY = 4096
_POLL = (0.02, 1.0)  # seconds: from, to
_SWEEPER_WAIT_S = 600.0


class Holder(msgspec.Struct, frozen=True):
    """What a lease says: who holds it, to do what with which snapshots."""

    doing: str
    name: str = ""
    base: str = ""
    boot: str = ""
    pids: str = ""
    pid: int = 0
    started: int = 0


class Seen(msgspec.Struct, frozen=True):
    """Somebody's lease.  `since`: when it was taken, by the clock of the store.

    `left`: seconds after which a holder that this machine cannot see counts as dead, unless it
    shows itself.
    """

    id: str
    holder: Holder
    shares: bool
    alive: bool
    since: float
    left: float = 0.0

    def __str__(self) -> str:
        where = f" (process {self.holder.pid})" if self.holder.pid else ""
        text = f"a {self.holder.doing} of {self.holder.name or 'the store'}{where}"
        if self.left:
            text += (
                f", started elsewhere or before this machine was: it counts as dead in "
                f"{self.left:.0f} s if it does not show itself, and"
            )
        return text


class Lease:
    """Ours.  Taken by the constructor; the end of a `with` block gives it back, come what may."""

    def __init__(
        self, objects: Objects, doing: str, *, name: str = "", base: str = "", shares: bool = True
    ) -> None:
        self._objects = objects
        # Ids sort by age, roughly: of two packs of one name the later one is told so at once.
        self.id = f"{time.time_ns():016x}{os.urandom(4).hex()}"
        self.shares = shares
        self._holder = msgspec.msgpack.encode(
            Holder(doing, name, base, _boot(), _pids(), os.getpid(), _started(os.getpid()))
        )
        self._late = False
        self._renewed = _now()
        try:
            if shares:
                objects.put(self._key("share"), self._holder)
            objects.put(self._key("sweep"), self._holder)
        except BaseException:
            with contextlib.suppress(UserfaultError):
                self.release()
            raise

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(UserfaultError):  # what was done under it is done
            self.release()

    def renew(self) -> None:
        """To be called often; puts the lease again when RENEW seconds have passed."""
        now = _now()
        if now - self._renewed < RENEW:
            return
        self._objects.put(self._key("share" if self.shares else "sweep"), self._holder)
        self._late = self._late or _now() - self._renewed > EXPIRY / 2
        self._renewed = now

    def check(self) -> None:
        """StoreError where others may have taken this lease for abandoned."""
        if self._late or _now() - self._renewed > EXPIRY / 2:
            raise StoreError(
                f"lost the right to write to {self._objects.url}",
                cause=f"this process stood still, or the store did not answer, for more than "
                f"{EXPIRY / 2:.0f} s: meanwhile `gc` may have removed what it relied on",
                cure="run it again: what was stored is used again",
            )

    def to_sweeper(self) -> None:
        """From now on others wait for us, and we may remove what nobody refers to."""
        self._objects.delete([self._key("share")])
        self.shares = False

    def others(self) -> list[Seen]:
        """All other leases, those of the dead too."""
        found = self._listed()
        now = self._store_time(found.pop(self.id, {}))
        seen = (self._seen(id_, parts, now) for id_, parts in sorted(found.items()))
        return [one for one in seen if one is not None]

    def store_time(self) -> float:
        """The clock of the store, in seconds since 1970."""
        return self._store_time(self._listed().get(self.id, {}))

    def _store_time(self, mine: dict[str, float]) -> float:
        """What the store said of our last renewal, and the time since."""
        return max(mine.values(), default=time.time()) + _now() - self._renewed

    def _listed(self) -> dict[str, dict[str, float]]:
        """When the parts of each lease were written."""
        found: dict[str, dict[str, float]] = {}
        for listed in self._objects.list(LEASES):
            if lease := lease_of(listed.key):
                found.setdefault(lease[0], {})[lease[1]] = listed.modified
        return found

    def alive(self) -> list[Seen]:
        """The other leases whose holders live."""
        return [one for one in self.others() if one.alive]

    def wait_for(self, hinders: Callable[[Seen], bool], wait_s: float) -> None:
        """Return when no live holder hinders; SnapshotInUse where one does after `wait_s`."""
        pause, most = _POLL
        end = time.monotonic() + wait_s
        while hindering := [one for one in self.alive() if hinders(one)]:
            if time.monotonic() >= end:
                raise SnapshotInUse(
                    f"the store {self._objects.url} is in use",
                    cause=f"{hindering[0]} is running",
                    cure="run this again when that has ended",
                )
            time.sleep(pause)
            pause = min(2 * pause, most)
            self.renew()

    def wait_for_sweepers(self) -> None:
        """Return when nobody sweeps: what is in the store now stays while we share it."""
        self.wait_for(lambda other: not other.shares, _SWEEPER_WAIT_S)

    def bury(self, dead: Seen) -> None:
        """Remove the lease of somebody who died, when nothing is left of its work."""
        self._objects.delete([f"{LEASES}{dead.id}.sweep", f"{LEASES}{dead.id}.share"])

    def release(self) -> None:
        """Give it back.  `.sweep` goes first: a lease with `.share` alone still shares."""
        self._objects.delete([self._key("sweep"), self._key("share")])

    def _key(self, part: str) -> str:
        return f"{LEASES}{self.id}.{part}"

    def _seen(self, id_: str, parts: dict[str, float], now: float) -> Seen | None:
        """A lease as it was listed; None where it was released since."""
        holder = None
        for part in parts:  # a sharer on its way to sweep has deleted one
            with contextlib.suppress(NoSuchObject):
                holder = self._holder_of(f"{LEASES}{id_}.{part}")
                break
        if holder is None:
            return None
        alive, left = _lives(holder), 0.0
        if alive is None:
            left = max(0.0, EXPIRY - min(abs(now - date) for date in parts.values()))
            alive = left > 0
        since = parts.get("sweep", min(parts.values()))
        return Seen(id_, holder, "share" in parts, alive, since, left)

    def _holder_of(self, key: str) -> Holder:
        try:
            return msgspec.msgpack.decode(self._objects.get(key, most=_MOST_BODY), type=Holder)
        except (msgspec.DecodeError, UnicodeDecodeError, FormatError):
            return Holder("job")  # a writer of another version: its age decides


def _lives(holder: Holder) -> bool | None:
    """Whether the holder's process lives; None where this machine cannot know."""
    if not holder.boot or (holder.boot, holder.pids) != (_boot(), _pids()):
        return None
    return _started(holder.pid) == holder.started != 0


def _now() -> float:
    """Seconds, those while the machine was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    """This boot of this machine (random(4)); empty where /proc does not tell."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def _pids() -> str:
    """The pid namespace (pid_namespaces(7)): numbers of processes mean nothing in another one."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> int:
    """When a process began, in clock ticks since boot (proc_pid_stat(5), field 22); 0 if gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in brackets, may hold anything: count from behind it.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
