"""The statements: what kernels promise about userfaultfd, one function each, by subject.

A subject is a file, or, where there is more to say than one reads at once, a folder.

How to write one::

    @statement(
        50,                                                   # for ever; the next free one
        "COPY onto a page that is there fails with EEXIST, and the field is -EEXIST.",
        since="4.3",                                          # older kernels: "cannot run here"
        source="ioctl_userfaultfd(2); measured on 6.1 to 7.3",
        memories=ALL,                                         # run once on each; leave out if none
    )
    def an_occupied_page_is_refused(t: Thread, memory: Memory) -> None:
        u = t.uffd()                                          # or t.uffd(Feature.WP_ASYNC)
        area = t.map(memory, pages=2)                         # in a place of its own
        u.register(area.address, area.length, MISSING)        # must succeed
        source = t.source(b"s", area.page)
        u.copy(area.at(0), source, area.page)                 # must succeed, field == length
        u.copy(area.at(0), source, area.page, fails=EEXIST)   # errno, field == -EEXIST
        expect(t.page(area.at(1)), "-----", "the page beside it")   # a witness: pagemap

* The function's name and the sentence say what the *kernel* promises.  The sentence is one
  sentence; what holds it up is in the body; nothing in the body goes beyond the sentence, except
  for witnesses.  Cite a man page, a kernel version, or "measured on".
* `t` is a `Thread` of a fresh process (`words/thread.py`; what it promises of a call:
  `words/caller.py`); `t.thread()` is another one of it, `t.fork()` a child's.  Any call of
  `kernel/calls.py` can be made: `t.ok(call)` must succeed, `t.fails(call, EFAULT)` must fail so,
  `t.raises(touch, SIGBUS)` must end with that signal, `t.do(call)` gives whatever comes.  None of
  them may sleep.  `t.read` and `t.write` are touches that must succeed.  The first three lines
  of the body above are also `u, area = t.registered(memory, MISSING, pages=2)`.
* What must sleep: `reader = t.thread().blocks(Read(area.address, 1))`; a thread that sleeps can
  make no other call, so give it one of its own.  Then `reader.still("a reason")`,
  `reader.ok()`, `reader.read(b"s")`.  Events: `blocks(call, WAITS_EVENT)`.
* `u` is a `Uffd` (`words/uffd.py`): each ioctl with its outcome; `field=` for the result field
  (`UNTOUCHED`, or bytes done).  `u.fault(address, flags)` is the one message that is queued,
  `u.message()` any one, `u.silent("what")` none.  `u.by(thread)` lets another make the calls.
* Witnesses besides bytes: `t.page(address)` (pagemap as letters, the table in words/thread.py),
  `t.vma(address)` (smaps; `.flags` has "um", "uw", "ui"), `t.resident`, `t.blocks_of`, a second
  mapping `t.alias(area)`, `u.counts()`, `PagemapScan`.
* Where releases differ: `expect(code, EBUSY if t.since("7.3") else 0, ...)`, and say it in
  `outcomes={"up to 7.2": "...", "since 7.3": "..."}`.
* What this system lacks is `CannotRun`: `t.uffd(features)` and `t.map` raise it themselves.
  Huge pages that `t.map` does not know of (copies after a fork) are `t.reserve(size, pages)`.
* Never sleep, never look at a clock, never touch an address that is not yours; numbers of
  processes, threads and descriptors differ from kernel to kernel.
* Try it: `userfault check --only 50`, `userfault check --explain 50` (shows every call).
"""

from __future__ import annotations

import importlib
import pkgutil

from userfault.check.words.statement import REGISTRY, Statement


def load() -> list[Statement]:
    """Every statement, in the order of their numbers."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return [REGISTRY[number] for number in sorted(REGISTRY)]
