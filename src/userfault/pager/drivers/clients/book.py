"""Who is served, and the record of that in the journal: a successor starts from it."""

from __future__ import annotations

from collections.abc import Callable

from userfault.kernel.errors import PagerError
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.record.records import Change, FamilyRecord, encode


class Book:
    """`clients`, by number.  `family`: the record found in `journal`.

    `kept`: further descriptors that outlive a worker, such as sockets on which clients come;
    `about`: what the program of the worker records of them.
    """

    def __init__(self, journal: Journal, family: FamilyRecord) -> None:
        self._journal = journal
        self._hello = family.hello
        self._contexts = family.numbers
        self._people = family.people
        self.kept = family.kept
        self.about = family.about
        self.clients: dict[int, Client] = {}
        self.counted: Callable[[int], None] = _nobody  # told how many there are

    def number(self) -> int:
        """A number for a new context, never given before."""
        self._contexts += 1
        return self._contexts

    def person(self) -> int:
        """A number for a new client, never given before."""
        self._people += 1
        return self._people

    def commit(self, changed: Served) -> bool:
        """Record what is served, `changed` anew.

        False: that failed, and the client has ended for it.  Descriptors that were taken out of the
        record have to be left open.
        """
        changed.changed()
        client = self.clients.get(changed.owner.number)
        if client is not None:
            client.changed()
        return self._written_for(changed.owner, client)

    def forget(self, served: Served) -> bool:
        """Record what is served without `served`, which may have been its client's last.

        False as with `commit`.
        """
        client = self.clients[served.owner.number]
        client.mappings.pop(served.number, None)
        client.changed()
        if client.over:
            return self._leave(client)
        return self._written_for(served.owner, client)

    def take(self, client: Client, served: Served) -> None:
        """Record a new mapping.  Raises PagerError where there is no room for it."""
        client.mappings[served.number] = served
        client.changed()
        try:
            self.changed(client)
        except PagerError:
            del client.mappings[served.number]
            client.changed()
            raise

    def add(self, client: Client) -> None:
        """Record a new client.  Raises PagerError where there is no room for it."""
        self.clients[client.number] = client
        try:
            self.changed(client)
        except PagerError:
            del self.clients[client.number]
            raise
        self.counted(len(self.clients))

    def leave_if_over(self, client: Client) -> None:
        """Let go of a client that needs nobody any more."""
        if client.over and client.number in self.clients:
            self._leave(client)

    def write(self) -> None:
        """Everything.  Raises PagerError where there is no room for it."""
        record = FamilyRecord(
            hello=self._hello,
            batch=self._journal.head,
            applied=self._journal.applied,
            numbers=self._contexts,
            people=self._people,
            kept=self.kept,
            clients=[client.record() for client in self.clients.values()],
            about=self.about,
        )
        self._journal.commit(encode(record))

    def changed(self, client: Client) -> None:
        """A client, and what there is of it: that it has gone, if it is none of ours any more.

        Raises PagerError where there is no room for it.
        """
        mine = client.number in self.clients
        change = Change(
            batch=self._journal.head,
            applied=self._journal.applied,
            numbers=self._contexts,
            people=self._people,
            clients=[client.record()] if mine else [],
            gone=[] if mine else [client.number],
        )
        if not self._journal.append(encode(change)):
            self.write()

    def _leave(self, client: Client) -> bool:
        del self.clients[client.number]
        self.counted(len(self.clients))
        written = self._written_for(client.owner, client)
        if written:
            client.close()
        return written

    def _written_for(self, owner: Owner, client: Client | None) -> bool:
        try:
            if client is not None:
                self.changed(client)
            else:
                self.write()
        except PagerError as error:
            owner.end(str(error))
            return False
        return True


def _nobody(_: int) -> None:
    """Nobody wants to know."""
