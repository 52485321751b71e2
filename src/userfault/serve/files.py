"""Files of conversations that outlive a worker (`exchange.py`), by the number of the client."""

from __future__ import annotations

import os

from userfault.kernel.errors import UserfaultError
from userfault.pager.drivers.clients.book import Book
from userfault.serve import records
from userfault.serve.exchange import new_file
from userfault.serve.keeping import keep, let_go


class Files:
    """They are kept by the family; `told` has their places."""

    def __init__(self, told: records.Daemon, book: Book) -> None:
        self._told = told
        self._book = book

    def of(self, number: int) -> int:
        """The client's: one is made, if it has none.  Raises OSError, PagerError."""
        kept = self._book.kept
        place = self._told.files.get(number)
        if place is None:
            place = self._told.files[number] = keep(kept, new_file())
            try:
                self._write()
            except UserfaultError:
                del self._told.files[number]
                os.close(let_go(kept, place))
                raise
        return kept[place]

    def forget(self, number: int) -> None:
        """It has gone."""
        place = self._told.files.pop(number, None)
        if place is None:
            return
        fd = let_go(self._book.kept, place)
        try:
            self._write()
        except UserfaultError:  # the record names it still
            return
        os.close(fd)

    def _write(self) -> None:
        self._book.about = records.encode(self._told)
        self._book.write()
