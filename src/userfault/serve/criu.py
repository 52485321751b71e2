"""A restore by CRIU as a client: each task that it hands over becomes a client of its own.

What CRIU says is looked at without being taken (MSG_PEEK), recorded, and only then taken out, a
message at a time: a worker that goes on for a killed one finds a task that is served, or the
message that tells of it.  Who sent it, the kernel says (SCM_CREDENTIALS): the task itself, since
each sends its own userfaultfd and no process id that is right here.
"""

from __future__ import annotations

import os
import select
import socket
import traceback
from typing import Protocol

import msgspec

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE, size_name
from userfault.linux import pidfd
from userfault.linux.pidfd import Received, close_all
from userfault.linux.refused import cause_of
from userfault.pager.drivers.clients.admission import check
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.wire.messages import Attach
from userfault.serve import asked, attaching
from userfault.serve.criu_ahead import Ahead
from userfault.serve.criu_memory import Memory
from userfault.serve.images import Images
from userfault.serve.peers import RefusedError
from userfault.serve.records import Door, Limits
from userfault.source.pages import finished
from userfault.source.spec import PagesSpec
from userfault.wire.criu import lazy

PROTOCOL, TASK = "criu", "criu task"
_FDS = 4  # descriptors of one message that are looked at; one belongs to it


class Host(Protocol):
    """The daemon."""

    images: Images
    limits: Limits
    has_poison: bool

    def door(self, client: Client) -> Door:
        """By which it came."""

    def refused(self, client: Client, error: UserfaultError) -> None:
        """Tell the log."""

    def admitted(self, client: Client) -> None:
        """It is served."""


class CriuTalk:
    """What is said with one restore.  It may be silent for as long as CRIU takes."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self.client = client
        self._clients = clients
        self._host = host
        self._sender = -1  # the task whose message is looked at
        self._ahead = Ahead(clients.service.loop.pressing)
        client.channel.setblocking(False)
        client.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def request(self) -> None:
        """Something came, or its end."""
        try:
            while self.client.open and self._step():
                pass
            if self.client.open:
                self._ahead.look(self._host.door(self.client), self._host.images)
        except Exception as error:  # an error of ours too costs this restore and no other
            self._refuse(error)
        finally:
            self._forget_sender()

    def resumed(self) -> None:
        """Another worker took over: what the one before had not done with is still there."""
        self._ahead.late()
        self.request()

    @property
    def needed(self) -> bool:
        """A restore is under way, which fails where nobody hears that it has finished, even if all
        its tasks have all of their pages: until it has said so, or ends."""
        return self.client.open

    def close(self) -> None:
        """Nothing more will be heard of it."""
        self._ahead.close()
        self._forget_sender()

    def _step(self) -> bool:
        """One message; False if there is none yet.  Raises RefusedError and its like, OSError."""
        try:
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            seen = pidfd.receive(self.client.channel, lazy.MOST, _FDS, flags=flags)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            seen = Received(b"", [], False, None)
        try:
            if not seen.data:
                raise _failed()
            message = lazy.first(seen.data)
            if message is None and not self._goes_on(len(seen.data)):
                raise _failed()
            if isinstance(message, lazy.Finished):
                self._finished()
                return False
            if isinstance(message, lazy.Task):
                self._task(message.pid, seen)
        finally:
            close_all(seen.fds)
        if message is None:
            return False
        taken = pidfd.receive(self.client.channel, message.size, _FDS, flags=socket.MSG_DONTWAIT)
        close_all(taken.fds)
        return True

    def _goes_on(self, size: int) -> bool:
        """Whether there may be more than the `size` bytes of half a message that are there."""
        poll = select.poll()
        poll.register(self.client.channel, select.POLLRDHUP)
        if not poll.poll(0):
            return True
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        seen = pidfd.receive(self.client.channel, lazy.MOST, _FDS, flags=flags)
        close_all(seen.fds)
        return len(seen.data) > size

    # --- tasks -----------------------------------------------------------------------------------

    def _task(self, pid: int, seen: Received) -> None:
        """Serve it, unless it is already.  The userfaultfd is taken out of `seen`."""
        door = f"{self.client.number}.{pid}"
        found = _by_door(self._clients, door)
        if found is not None and found.mappings:
            return
        self._look_at_sender(pid, seen)
        memory = self._ahead.taken(pid, self._host.door(self.client), self._host.images)
        if memory is None:
            return  # with our descriptor its memory is let go of: it reads zero
        try:
            request = self._request(pid, memory)
            client = found or self._client(pid, door)
            uffd = seen.fds.pop()
            try:
                served = attaching.made(self._clients, client, request, uffd, memory.fd)
            except BaseException:
                seen.fds.append(uffd)
                raise
        except BaseException:
            os.close(memory.fd)
            raise
        try:
            self._clients.take(client, served)
        except BaseException:
            served.close()
            raise
        self._host.admitted(client)

    def _look_at_sender(self, pid: int, seen: Received) -> None:
        """Whose message it is.  Raises RefusedError where that cannot be known."""
        if seen.lost or len(seen.fds) != 1:
            raise RefusedError(
                f"task {pid} without its userfaultfd",
                cause="no descriptor is left here" if seen.lost else f"{len(seen.fds)} came",
                cure="raise LimitNOFILE=" if seen.lost else "look which program connects here",
            )
        asked.check_uffd(seen.fds[0])  # from here on its sender counts on us
        try:
            if seen.sender is None or seen.sender.pid <= 0:
                raise ProcessLookupError(0, "the kernel does not say which process it is here")
            self._sender = os.pidfd_open(seen.sender.pid)
        except OSError as error:
            raise RefusedError(
                f"task {pid}, which cannot be seen",
                cause=error.strerror or "",
                cure="it has ended; or it is in a pid namespace beside this one: let it be below",
            ) from None

    def _client(self, pid: int, door: str) -> Client:
        limit = self._host.limits.clients
        if len(self._clients.book.clients) >= limit:
            raise RefusedError(
                f"task {pid}, as one client more",
                cause=f"{limit} clients are served, which is the most",
                cure="raise --max-clients",
            )
        ours, theirs = socket.socketpair()  # nobody will say anything there
        theirs.close()
        process = os.dup(self._sender)
        name = f"criu task {pid} (process {pidfd.pid_of(process)}): "
        try:
            return self._clients.add(ours, process, name, protocol=TASK, door=door)
        except BaseException:
            ours.close()
            os.close(process)
            raise

    def _request(self, pid: int, memory: Memory) -> Attach:
        """Raises RefusedError, ValueError."""
        shown = sum(each.end - each.start for each in memory.segments)
        limits = self._host.limits
        if shown > limits.memory_bytes:
            raise RefusedError(
                f"task {pid}, which has too much memory",
                cause=f"{size_name(shown)}, and {size_name(limits.memory_bytes)} are allowed",
                cure="raise the limit on memory of a client",
            )
        policy = self._host.door(self.client).policy
        request = Attach(
            number=1,
            start=memory.segments[0].start,
            pages=-(-memory.spec.length // BASE_PAGE),
            page_size=BASE_PAGE,
            shared=False,
            zeropage=True,
            exists_is_ambiguous=False,
            has_poison=self._host.has_poison,
            prepared=False,
            has_source=True,
            has_memory=False,
            source=memory.spec,
            policy=msgspec.structs.replace(policy, background=False),
            regions=memory.segments,
            restored=True,
            early=True,
        )
        check(request)
        return request

    # --- the end ---------------------------------------------------------------------------------

    def _finished(self) -> None:
        """All tasks run: from now on what nobody waits for comes, too.  CRIU says nothing more."""
        service = self._clients.service
        background = self._host.door(self.client).policy.background
        for client in self._tasks():
            for served in list(client.mappings.values()):
                with service.costs(served):
                    _registered(served, background=background)
                    service.commit(served)
                    for context in list(served.contexts):
                        service.perform(context)
        self._tell_source()
        self._clients.hang_up(self.client, quit_now=True)

    def _tell_source(self) -> None:
        """Of memory that another host has: it may be let go of there once each task is done."""
        name = self._host.door(self.client).image
        if name and isinstance(self._host.images.spec(name), PagesSpec):
            _, fd = self._host.images.source(name)
            with socket.socket(fileno=fd) as channel:
                finished(channel)

    def _tasks(self) -> list[Client]:
        """Those of this restore that are served."""
        mine = f"{self.client.number}."
        clients = self._clients.book.clients.values()
        return [each for each in clients if each.protocol == TASK and each.door.startswith(mine)]

    def _refuse(self, error: Exception) -> None:
        """The restore fails by the end of its connection; a task that has sent its userfaultfd is
        ended, as it would find zeros where its memory was."""
        if not isinstance(error, UserfaultError):
            cause = cause_of(error) if isinstance(error, OSError) else traceback.format_exc()
            error = PagerError("a restore that cannot be served", cause=cause)
        self._host.refused(self.client, error)
        if self._sender >= 0:
            pidfd.kill(self._sender)
        self._clients.hang_up(self.client, quit_now=True)

    def _forget_sender(self) -> None:
        close_all([self._sender])
        self._sender = -1


def _failed() -> RefusedError:
    return RefusedError(
        "a restore that failed",
        cause="CRIU went before it had said that everything is registered",
        cure="see the log of criu restore",
    )


def _registered(served: Served, *, background: bool) -> None:
    """Everything of it is, and may be filled."""
    served.attach = msgspec.structs.replace(served.attach, early=False)
    for context in served.contexts:
        context.core.registered()
        if background and not context.closed:
            context.core.complete()


class TaskTalk:
    """What is said with a task: nothing."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients) -> None:
        del client, clients

    def request(self) -> None:
        """The other end is closed, which is all that is ever heard."""

    def resumed(self) -> None:
        """Another worker took over."""

    def close(self) -> None:
        """Nothing is left."""


def leave_when_done(clients: Clients) -> None:
    """A task that needs nobody any more is no client, though it lives."""
    tell = clients.service.dropped

    def dropped(served: Served) -> None:
        tell(served)
        if served.origin.pages is not None:
            served.origin.pages.done()
        client = clients.book.clients.get(served.owner.number)
        if client is not None and client.protocol == TASK:
            client.open = False
            for fd in (client.channel.fileno(), client.owner.process):
                clients.service.loop.forget(fd)

    clients.service.dropped = dropped


def _by_door(clients: Clients, door: str) -> Client | None:
    for client in clients.book.clients.values():
        if client.door == door and client.protocol == TASK:
            return client
    return None
