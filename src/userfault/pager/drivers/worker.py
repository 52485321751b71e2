"""The worker's program: one loop, whom it serves, and the worker's part in its family."""

from __future__ import annotations

from collections.abc import Callable

from userfault.linux.descriptors import keep_reserve
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.clients.takeover import take_over
from userfault.pager.drivers.family.coming_up import came_up
from userfault.pager.drivers.family.succession import Succession
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.serving.loop import Loop
from userfault.pager.drivers.serving.service import Service


class Worker:
    """Serves what `journal` names: the first of its family, or the next one after a kill.

    `prepare`: called when it is put together, before anybody is served again.
    """

    def __init__(self, journal: Journal, prepare: Callable[[Worker], None] | None = None) -> None:
        journal.take_up()
        family, people = records.read(journal)
        journal.words[Word.ASKING] = 0
        self.journal = journal
        self.loop = Loop(family.hello.placing)
        self.book = Book(journal, family)
        self.service = Service(self.loop, journal, self.book, family.hello.in_flight)
        self.succession = Succession(self.loop, journal, family.hello.program)
        self.succession.rest = self.service.evictor.rest
        self.clients = Clients(self.book, self.service, self.succession.replace)
        if prepare is not None:
            prepare(self)
        take_over(self.clients, family, people)
        came_up(journal)
        keep_reserve()
        self.clients.greet()

    def run(self, whom: object = None) -> None:
        """Serve until nobody is left in `whom`: a collection, by default the clients."""
        self.loop.run(self.book.clients if whom is None else whom, self.service.background)
        self.close()

    def close(self) -> None:
        """Let go of everything that is served, and of what this worker opened."""
        self.clients.close()
        self.service.close()
        self.succession.close()
        self.loop.close()


def serve(journal: Journal) -> None:
    """Be the worker until there is nobody left to serve."""
    Worker(journal).run()
