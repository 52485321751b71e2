"""What the tasks of clients do, and the judgement of each thing that they see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.serving import Serving
from userfault.check.simulate.case import Case, Deed
from userfault.check.simulate.shadow import WIDTH, ZEROS, Page, Space, content
from userfault.check.simulate.weather import Storm
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model import invariants
from userfault.uapi import mman

_FARAWAY = 0x6000_0000_0000  # where mremap moves pages to: nothing else lies there


class Violation(AssertionError):  # noqa: N818  # it says what happened
    """A client saw what it must not, or something is left undone."""


class Play:
    """One run: its clients, and what they have done so far (`log`)."""

    def __init__(self, case: Case, serving: Serving, storm: Storm, file: Descriptor | None) -> None:
        self.case = case
        self.serving = serving
        self.storm = storm
        self.log: list[str] = []
        self.gave_up = False
        self.completed = case.terms.policy.background
        self.spaces: list[tuple[Caller | None, Space]] = []
        self.shared = serving.shared
        self._file = file
        self._tokens = 0
        self._places = 0

    # --- tasks -----------------------------------------------------------------------------------

    def act(self, me: Caller, space: Space, deeds: Sequence[Deed]) -> None:
        """Do these, one after the other."""
        for deed in deeds:
            if me.task.killed or space.ended:
                return
            if deed.after:
                clock = self.serving.clock
                clock.sleep(me.task, clock.now + deed.after, lambda: "its next call")
            _DEEDS[deed.name](self, me, space, deed.a, deed.b)
            invariants.check(self.serving.world.machine.spaces)

    def audit(self, me: Caller, space: Space) -> None:
        """Read every page."""
        for address in sorted(space.pages):
            if me.task.killed or space.ended:
                return
            self._read_at(me, space, address)

    # --- touches ---------------------------------------------------------------------------------

    def _read(self, me: Caller, space: Space, a: int, _b: int) -> None:
        if space.pages:
            self._read_at(me, space, sorted(space.pages)[a % len(space.pages)])

    def _read_at(self, me: Caller, space: Space, address: int) -> None:
        page = space.pages[address]
        window = page.open()
        found = me.read(address, WIDTH)
        if me.task.killed:
            page.close(window)
            return
        self.log.append(f"{me.name} reads page {page.number} at {address:#x}: {found!r}")
        if isinstance(found, str):
            page.close(window)
            self._signalled(me, space, address, found)
        elif not page.saw(window, found):
            allowed = ", ".join(map(repr, sorted(window)))
            raise Violation(f"{me.name} read {found!r} of page {page.number}, not {allowed}")

    def _write(self, me: Caller, space: Space, a: int, _b: int) -> None:
        if not space.pages:
            return
        address = sorted(space.pages)[a % len(space.pages)]
        page = space.pages[address]
        value = self._token()
        effect = page.begin(value)
        found = me.write(address, value)
        self.log.append(f"{me.name} writes {value!r} to page {page.number}: {found}")
        if found == 0 and not me.task.killed:
            page.end(effect)
            page.known = True
        else:
            page.perhaps(effect)
            if not me.task.killed:
                self._signalled(me, space, address, found)

    def _signalled(self, me: Caller, space: Space, address: int, name: str) -> None:
        """SIGSEGV where the page went meanwhile, SIGBUS where it was given up."""
        if name == "SIGSEGV" and address in space.leaving:
            return
        number = space.pages[address].number if address in space.pages else -1
        retries = self.case.terms.policy.retries
        if name == "SIGBUS" and (self.gave_up or self.storm.failures[number] > retries):
            return
        raise Violation(f"{me.name} met {name} at page {number}")

    # --- drops -----------------------------------------------------------------------------------

    def _drop(self, me: Caller, space: Space, a: int, b: int) -> None:
        """MADV_DONTNEED: what the page cache has it keeps.  (With a budget nobody knows what that
        is: a page that is out at that moment is zeros from now on.)"""
        pages = self._run(space, a, b)
        self._madvise(me, pages, mman.MADV_DONTNEED, keeps=self.shared)

    def _remove(self, me: Caller, space: Space, a: int, b: int) -> None:
        self._madvise(me, self._run(space, a, b), mman.MADV_REMOVE, keeps=False)

    def _madvise(
        self, me: Caller, pages: list[tuple[int, Page]], advice: int, *, keeps: bool
    ) -> None:
        if not pages:
            return
        sure = keeps and not self.case.terms.evicts
        kept = [page.known and sure for _, page in pages]
        changed = [page for (_, page), keep in zip(pages, kept, strict=True) if not keep]
        effects = [page.begin(ZEROS) for page in changed]
        found = me.madvise(pages[0][0], len(pages) * PAGE, advice)
        numbers = [page.number for _, page in pages]
        self.log.append(f"{me.name} drops pages {numbers} ({advice}): {found}")
        for page, effect in zip(changed, effects, strict=True):
            if found == 0 and not keeps and not me.task.killed:
                page.end(effect)
            else:
                page.perhaps(effect)
            page.known = not me.task.killed or page.known

    def _punch(self, me: Caller, space: Space, a: int, _b: int) -> None:
        """A hole in a page that was never filled shows the source."""
        page = self._page_of_file(a)
        if page is None or self._file is None:
            return
        del space
        effect = page.begin(ZEROS, instead=None if page.known else self._source(page))
        known = page.known
        found = me.punch(Descriptor(me.task.process, self._file.fd), page.number * PAGE)
        self.log.append(f"{me.name} punches page {page.number}: {found}")
        if me.task.killed or found != 0 or not known:
            page.perhaps(effect)
        else:
            page.end(effect)

    def _pwrite(self, me: Caller, space: Space, a: int, _b: int) -> None:
        """A page that was not filled is zeros first, and then what was written."""
        del space
        page = self._page_of_file(a)
        if page is None or self._file is None:
            return
        value = self._token()
        effect = page.begin(value, passing=ZEROS)
        file = Descriptor(me.task.process, self._file.fd)
        found = me.pwrite(file, page.number * PAGE, value)
        self.log.append(f"{me.name} writes {value!r} to the file's page {page.number}: {found}")
        page.perhaps(effect) if me.task.killed or found != WIDTH else page.end(effect)

    # --- address space ---------------------------------------------------------------------------

    def _munmap(self, me: Caller, space: Space, a: int, b: int) -> None:
        pages = self._run(space, a, b)
        if not pages:
            return
        space.leaving.update(address for address, _ in pages)
        found = me.munmap(pages[0][0], len(pages) * PAGE)
        self.log.append(f"{me.name} unmaps pages {[page.number for _, page in pages]}: {found}")
        for address, _ in pages:
            space.pages.pop(address)

    def _mremap(self, me: Caller, space: Space, a: int, b: int) -> None:
        pages = self._run(space, a, b)
        if not pages:
            return
        space.leaving.update(address for address, _ in pages)
        self._places += 1
        new = _FARAWAY + self._places * 64 * PAGE
        length = len(pages) * PAGE
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        found = me.mremap(pages[0][0], length, length, flags, new)
        numbers = [page.number for _, page in pages]
        self.log.append(f"{me.name} moves pages {numbers} to {new:#x}: {found}")
        if found != new:
            if me.task.killed:
                return
            raise Violation(f"mremap said {found}")
        for at, (address, page) in enumerate(pages):
            del space.pages[address]
            space.pages[new + at * PAGE] = page

    def _fork(self, me: Caller, space: Space, _a: int, _b: int) -> None:
        if len(self.spaces) > 2:
            return
        windows = {address: page.open() for address, page in space.pages.items()}
        born: list[Space] = []
        found = me.fork(lambda child: self.act(child, born[0], self.case.child))
        for address, page in space.pages.items():
            page.close(windows[address])
        self.log.append(f"{me.name} forks: {found}")
        if isinstance(found, int):
            born.append(space.forked(windows, shared=self.shared))
            child = list(self.serving.world.callers.values())[-1]
            self.spaces.append((child, born[0]))

    def _exit(self, me: Caller, space: Space, _a: int, b: int) -> None:
        if len(self.spaces) < 2 or b % 2:
            return
        self.log.append(f"{me.name} ends its process")
        space.ended = True
        self.serving.exit(me)

    # --- requests --------------------------------------------------------------------------------

    def _complete(self, me: Caller, space: Space, _a: int, _b: int) -> None:
        del space
        if not self.serving.area.process.alive:
            return
        self.log.append(f"{me.name} asks for everything")
        self.completed = True
        self.serving.complete()

    def _give_up(self, me: Caller, space: Space, _a: int, b: int) -> None:
        del space
        if b % 3 == 0 and self.serving.area.process.alive:
            self.log.append(f"{me.name} gives up")
            self.gave_up = True
            self.serving.give_up()

    # --- what is there ---------------------------------------------------------------------------

    def _run(self, space: Space, a: int, b: int) -> list[tuple[int, Page]]:
        """Some pages at one stretch of addresses."""
        if not space.pages:
            return []
        first = sorted(space.pages)[a % len(space.pages)]
        found = []
        for address in range(first, first + (1 + b % 3) * PAGE, PAGE):
            if address not in space.pages:
                break
            found.append((address, space.pages[address]))
        return found

    def _page_of_file(self, a: int) -> Page | None:
        """Any page that some process maps."""
        held = {page.number: page for _, space in self.spaces for page in space.pages.values()}
        return held[sorted(held)[a % len(held)]] if held else None

    def _source(self, page: Page) -> bytes:
        return source_of(self.case, page.number)

    def _token(self) -> bytes:
        self._tokens += 1
        return content(f"written {self._tokens}")


def source_of(case: Case, number: int) -> bytes:
    """What a page shows that nobody has changed."""
    return ZEROS if case.terms.origin == "zero" else content(f"source {number}")


_DEEDS: dict[str, Callable[[Play, Caller, Space, int, int], None]] = {
    "read": Play._read,
    "write": Play._write,
    "drop": Play._drop,
    "remove": Play._remove,
    "punch": Play._punch,
    "pwrite": Play._pwrite,
    "munmap": Play._munmap,
    "mremap": Play._mremap,
    "fork": Play._fork,
    "exit": Play._exit,
    "complete": Play._complete,
    "give_up": Play._give_up,
}
