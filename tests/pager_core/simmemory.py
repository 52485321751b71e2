"""The memory of the simulated kernel: address spaces, the file behind them, what each page is."""

from __future__ import annotations

from pager_core.simparts import CACHE, NONE, ZEROS, File, Kind, Mm, Slot, Thread, Truth, source


class Memory:
    """The range [`start`, `start` + `pages`) of page numbers, in one process and its forks."""

    def __init__(self, kind: Kind, pages: int, *, prepared: bool, zeros: frozenset[int]) -> None:
        self.kind = kind
        self.pages = pages
        self.start = start = 0x100
        self._zeros = zeros  # pages of the source that are zeros
        self._numbers = 0
        self._fresh = start + 0x1000
        self._extras: dict[int, Truth] = {}  # of pages of the file beyond those given to the pager
        held = {page: source(page) for page in range(pages)} if prepared else {}
        self.file = File(pages + 4, held)
        truths = [Truth(page, {self.unfilled(page)}, known=prepared) for page in range(pages)]
        main = Mm("main", truths)
        vma = self.number()
        main.slots = {start + page: Slot(truths[page], page, vma) for page in range(pages)}
        main.threads = [Thread(main, f"thread {number}") for number in range(3)]
        self.mms = [main]

    def unfilled(self, page: int) -> str:
        """What a page shows that nobody has touched."""
        return ZEROS if page in self._zeros else source(page)

    def number(self) -> int:
        """Of a mapping or a write: none is given twice."""
        self._numbers += 1
        return self._numbers

    def truth_of(self, index: int) -> Truth | None:
        """What the page of the file may show; None if no mapping has it."""
        return self.mms[0].truths[index] if index < self.pages else self._extras.get(index)

    def uncache(self, index: int) -> None:
        """The page of the file goes, from every mapping too."""
        self.file.cache.pop(index, None)
        for mm in self.mms:
            for slot in mm.slots.values():
                if slot.index == index and slot.entry == CACHE:
                    slot.entry = NONE

    def extra(self, index: int, like: Slot) -> Slot:
        """A page that the pager was not given: it shows the file, or zeros."""
        truth = Truth(-1, {self.file.cache.get(index, ZEROS)})
        if self.kind.shared:
            truth = self._extras.setdefault(index, truth)
        return Slot(truth, index, like.vma, like.registered)

    def room(self, size: int) -> int:
        """Where nothing is."""
        at, self._fresh = self._fresh, self._fresh + size + 8
        return at

    def split(self, mm: Mm, vpn: int) -> None:
        """mprotect: what lies behind `vpn` in its mapping becomes a mapping of its own."""
        if vpn in mm.slots:
            old, new = mm.slots[vpn].vma, self.number()
            for at, slot in mm.slots.items():
                if at >= vpn and slot.vma == old:
                    slot.vma = new

    def stretch(self, mm: Mm, start: int, count: int) -> list[tuple[int, Slot]]:
        """The slots from `start` on that lie in one mapping, at most `count`."""
        found: list[tuple[int, Slot]] = []
        for vpn in range(start, start + count):
            slot = mm.slots.get(vpn)
            if slot is None or (found and slot.vma != found[0][1].vma):
                break
            found.append((vpn, slot))
        return found
