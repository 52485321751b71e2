"""What a daemon is told to do, and what of it outlives a worker: part of the family's record.

Descriptors are named by their place among those that the family keeps (`FamilyRecord.kept`), since
their numbers change when one family hands over to another.
"""

from __future__ import annotations

import msgspec

from userfault.kernel.errors import PagerError
from userfault.pager.core.policy import Policy
from userfault.source.spec import Spec

LAZY = Policy(background=False)  # what nobody touches takes no memory


class Limits(msgspec.Struct, frozen=True):
    """What one daemon takes on, and one client.

    `clients`: served at once.  `waiting`: that have connected and not said what they want;
    `waiting_each`: of one process.  `regions`: of one client.  `message_bytes`: of what a client
    says at once.  `memory_bytes`: of one client.  `handshake_s`: how long it may take to say it.
    `cpu_percent`: of a CPU, at most, for the messages of one client (0: as much as there is).
    """

    clients: int = 4096
    waiting: int = 256
    waiting_each: int = 4
    regions: int = 512
    message_bytes: int = 64 << 10
    memory_bytes: int = 1 << 40
    handshake_s: float = 10.0
    cpu_percent: float = 0.0


class Who(msgspec.Struct, frozen=True):
    """Who may connect: `users` and `groups` by number; where neither is given, whoever the socket's
    permissions let in.  Root, and the daemon's own user, always may."""

    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


class Image(msgspec.Struct, frozen=True):
    """Memory to be shown, by the name that it has here.  `kept`: place of its descriptor.

    `tree`: that of where in it the memory of each process lies, for CRIU (-1: it is one's).
    """

    name: str
    spec: Spec
    kept: int
    tree: int = -1


class Door(msgspec.Struct, frozen=True):
    """A socket on which clients come: its `name`, the `protocol` spoken there, what it shows.

    `image`: by name ("": the control socket must have said which).  `kept`: place of the socket.
    `place`: device and inode of its path, zeros where it is not ours to take away.
    `dump`: the folder of images that CRIU restores from, where no image is shown.
    """

    name: str
    protocol: str
    path: str
    kept: int
    image: str = ""
    policy: Policy = LAZY
    who: Who = Who()
    place: tuple[int, int] = (0, 0)
    dump: str = ""


class Secret(msgspec.Struct, frozen=True):
    """A VM of Firecracker with a guest_memfd: the `generation` of its protocol, its memory.

    `regions`: address in the VMM, bytes, offset.  `starts`: guest-physical address, bytes, offset.
    `uffd`, `bitmap`: places of the descriptors.
    """

    generation: int
    regions: tuple[tuple[int, int, int], ...]
    starts: tuple[tuple[int, int, int], ...]
    uffd: int
    bitmap: int


class Restore(msgspec.Struct, frozen=True):
    """A VM that asks for its pages (Cloud Hypervisor): `token` is its name.

    `source`: place of the descriptor of `spec`.  `parts`: [guest-physical address, bytes], in the
    order of the image.  `slots`: [address, bytes, offset in its memfd, place of that]; none where
    pages go with the answers.  `states`: place of the memory that says which were delivered.
    `exchanges`: places of the files of its connections.
    """

    token: str
    spec: Spec
    source: int
    page_size: int
    parts: tuple[tuple[int, int], ...]
    slots: tuple[tuple[int, int, int, int], ...] = ()
    states: int = -1
    exchanges: tuple[int, ...] = ()
    secret: Secret | None = None

    @property
    def places(self) -> list[int]:
        """Of everything that is kept for it."""
        memories = [memory for *_, memory in self.slots]
        more = [self.states] if self.slots else []
        if self.secret is not None:
            more += [self.secret.uffd, self.secret.bitmap]
        return [self.source, *memories, *self.exchanges, *more]


class Daemon(msgspec.Struct):
    """Everything that one of its workers has to know.

    `place`: which of `workers` it is.  `board`: place of what they all map, -1 where there is one;
    `neighbours`: those of the sockets to the others.
    """

    doors: list[Door] = []
    images: list[Image] = []
    limits: Limits = Limits()
    stores: tuple[str, ...] = ()  # that clients may name
    chosen: dict[int, str] = {}  # which image a process that is still to come is shown
    draining: bool = False
    place: int = 0
    workers: int = 1
    board: int = -1
    neighbours: dict[int, int] = {}
    on_refusal: str = "kill"  # what becomes of those who are turned away with their memory
    restores: list[Restore] = []  # of VMs that ask for their pages
    files: dict[int, int] = {}  # of conversations: by the client's number, their places


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Daemon)


def encode(daemon: Daemon) -> bytes:
    """For the family's record."""
    return _encoder.encode(daemon)


def decode(data: bytes) -> Daemon:
    """Raises PagerError for what is no such record."""
    try:
        return _decoder.decode(data) if data else Daemon()
    except (msgspec.MsgspecError, ValueError) as error:
        raise PagerError(
            "the daemon's record cannot be read",
            cause=str(error),
            cure="start the daemon anew; and please report it: only the daemon writes there",
        ) from None
