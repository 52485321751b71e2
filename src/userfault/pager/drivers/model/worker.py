"""A pager in a modelled world: a worker, and another one when it was killed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import msgspec

from userfault.model.process import Process, Thread
from userfault.model.tasks.recorder import RECORD
from userfault.pager.core.plan import Counters
from userfault.pager.core.recorded import ContextRecord
from userfault.pager.core.segment import Segment
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.clients.conversation import Conversation
from userfault.pager.drivers.clients.takeover import take_over
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.model.calls import ModelCalls
from userfault.pager.drivers.model.kernel import Kernel, Mailbox, WorkerKilled
from userfault.pager.drivers.model.memory import ModelJournal, States
from userfault.pager.drivers.model.served import Estate, ModelClient, ModelOwner, ModelServed
from userfault.pager.drivers.model.waiting import WAITS_EPOLL, ModelLoop, wake_waiting
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.record.records import ClientRecord, Descriptors, Kept, ServedRecord
from userfault.pager.drivers.serving.service import Service
from userfault.pager.drivers.wire.messages import Attach, Hello, Reply, Request

Start = Callable[[Callable[[Thread], None]], None]
IN_FLIGHT = 4


class ModelService(Service):
    """An error of ours is what is looked for: it costs the whole run."""

    def lose(self, served: Served, error: Exception) -> None:
        raise AssertionError(f"the service of mapping {served.number} failed") from error


class _Mail(Conversation):
    """Requests out of a mailbox; each stays there until it was answered."""

    def __init__(self, client: Client, host: Clients, mailbox: Mailbox) -> None:
        self._client = client
        self._service = host.service
        self._words = host.service.journal.words
        self._mailbox = mailbox

    def close(self) -> None:
        """Nothing of it is open."""

    def resumed(self) -> None:
        """What was not answered is in the mailbox still."""

    def _answer_next(self) -> None:
        self._carry_out(self._mailbox.asked[0], [])

    def _reply(self, reply: Reply) -> None:
        del reply
        if RECORD.on:
            RECORD.writes.add(("bell", self._mailbox.number))
        self._mailbox.asked.pop(0)


class ModelClients(Clients):
    """The clients of a worker."""

    def __init__(self, book: Book, service: Service, calls: ModelCalls, estate: Estate) -> None:
        self.book = book
        self.service = service
        self._loop = service.loop
        self._calls = calls
        self._estate = estate

    def again(self, record: ClientRecord) -> Client:
        owner = ModelOwner(record.number, record.process, self._estate, self._calls)
        mailbox = self._calls.kernel.mailboxes[record.channel]
        client = ModelClient(owner, mailbox)  # type: ignore[arg-type]  # it has a number, too
        self.book.clients[client.number] = client
        client.conversation = mail = _Mail(client, self, mailbox)
        self._loop.watch(record.channel, mail.request)
        self._loop.watch(record.process, functools.partial(self._ended, client))
        return client

    def mapped(self, record: ServedRecord, client: Client) -> Served:
        return ModelServed.again(record, self.service.reads.threads, client.owner)

    def _look_for_threads(self) -> None:
        """Where they run means nothing."""


class ModelWorker:
    """Serves what the journal names, in `task`; see `drivers.worker.Worker`."""

    def __init__(self, kernel: Kernel, task: Thread, journal: Journal, estate: Estate) -> None:
        self.calls = calls = ModelCalls(kernel, task, estate.source)
        self.journal = ModelJournal(journal.fd, calls.point)
        self.task = task
        self._estate = estate
        self.serves = False

    def run(self) -> None:
        """Take over, and serve until nobody is left."""
        self.journal.take_up()
        family, people = records.read(self.journal)
        self.loop = ModelLoop(self.calls)
        self.book = Book(self.journal, family)
        in_flight = family.hello.in_flight
        self.service = ModelService(self.loop, self.journal, self.book, in_flight, self.calls)
        clients = ModelClients(self.book, self.service, self.calls, self._estate)
        take_over(clients, family, people)
        self.serves = True
        self.loop.run(self.book.clients, self.service.background)

    @property
    def at_rest(self) -> bool:
        """Nothing will happen unless somebody else does something."""
        if not self.serves or self.task.waits is None or self.task.waits.kind != WAITS_EPOLL:
            return False
        if self.loop.watched.ready() or self.service.background:
            return False
        for client in self.book.clients.values():
            for served in client.mappings.values():
                for context in served.contexts:
                    core = context.core
                    if context.closed:
                        continue
                    if core.out or core.deferred or core.next_time() is not None:
                        return False
                    if self.calls.gone(context.fd):
                        return False
        return True


class Pager:
    """A pager's family in a modelled world.

    `start`: makes a task of the pager's process that runs what it is given.  `kernel.mortal` says
    whether its workers may be killed.
    """

    def __init__(self, kernel: Kernel, estate: Estate, start: Start) -> None:
        self.kernel = kernel
        self.estate = estate
        self.journal = Journal.create()
        self._journals: list[Journal] = [self.journal]
        self._start = start
        self.worker: ModelWorker | None = None
        self.deaths = 0
        self.over = False  # nobody is left to serve

    def attach(
        self, client: Process, fd: int, attach: Attach, copy: tuple[int, States] | None = None
    ) -> Mailbox:
        """Serve a client's mapping, as soon as a worker runs; `fd` is the pager's descriptor.

        `copy`: the filler and the marks of the shared copy that it is mapped over.
        """
        kernel = self.kernel
        process = kernel.number()
        kernel.clients[process] = client
        mailbox = Mailbox(kernel.number())
        kernel.mailboxes[mailbox.number] = mailbox
        states = kernel.number()
        state = CACHED if attach.prepared else MISSING
        self.estate.memories[states] = States(bytes([state]) * attach.pages)
        whole = Segment(attach.start, attach.start + attach.pages * attach.page_size, 0)
        core = ContextRecord(1, states, (whole,), background=attach.policy.background)
        fds = Descriptors(fd, states, -1, -1, -1)
        if copy is not None:
            fds.filler, fds.marks = copy[0], kernel.number()
            self.estate.memories[fds.marks] = copy[1]
        mapping = ServedRecord(attach, fds, [Kept(fd, core, Counters())], [], 0)
        person = ClientRecord(1, process, mailbox.number, served=[_raw(mapping)])
        hello = Hello(in_flight=IN_FLIGHT)
        family = records.FamilyRecord(hello, numbers=1, people=1, clients=[_raw(person)])
        self.journal.commit(records.encode(family))
        return mailbox

    def begin(self) -> None:
        """Start a worker."""
        self._start(self._serve)

    def ask(self, mailbox: Mailbox, request: Request) -> None:
        """A client asks for something."""
        if RECORD.on:
            RECORD.writes.add(("bell", mailbox.number))
        mailbox.asked.append(request)
        self.nudge()

    def nudge(self) -> None:
        """A worker that sleeps looks again at what it watches."""
        worker = self.worker
        if worker is not None:
            wake_waiting(worker.task)

    def kill(self) -> bool:
        """SIGKILL for the worker, if there is one."""
        if RECORD.on:
            RECORD.reads.add(("worker",))
        worker = self.worker
        if worker is None:
            return False
        worker.task.kill()
        return True

    def close(self) -> None:
        """Let go of the journal."""
        for journal in self._journals:
            try:
                journal.close()
            except BufferError:  # a killed worker's view of it is not collected yet
                os.close(journal.fd)
        self._journals.clear()

    def _serve(self, task: Thread) -> None:
        if RECORD.on:
            RECORD.writes.add(("worker",))
        self.worker = worker = ModelWorker(self.kernel, task, self.journal, self.estate)
        self._journals.insert(0, worker.journal)
        try:
            worker.run()
            self.over = True
        except WorkerKilled:
            self.deaths += 1
            if RECORD.on:
                RECORD.writes.add(("worker",))
            self.worker = None
            self.begin()


def _raw(record: ServedRecord | ClientRecord) -> msgspec.Raw:
    return msgspec.Raw(records.encode(record))
