"""What happens when a source fails: those pages are given up, `check()` says why, the rest is good.

A touch of a page that was given up raises SIGBUS, which ends the process (or, with
`Policy(on_failure="kill")`, the pager ends it): never wrong bytes.  `complete()` and `check()` tell
of it without a touch.
"""

from __future__ import annotations

import flaky

import userfault


def main() -> None:
    """Fill a memory from a source with a damaged place."""
    source = userfault.function(flaky.read, 1 << 20)
    # One page a read: else a whole chunk is given up with the damaged page in it.
    policy = userfault.Policy(retries=1, chunk_bytes=4096, window_bytes=4096, deadline_s=5)
    with userfault.lazy(source, policy=policy) as memory:
        try:
            memory.complete()
        except userfault.SourceError as error:
            print("what: ", error.what)
            print("cause:", error.cause)
            print("first bad offset:", error.offset)
        found = memory.statistics()
        print("pages good:", found.states["present"], "- given up:", found.states["poisoned"])
        print("source reads that failed:", found.counters.source_failures)
        print("the rest is right:", memory[0:3], memory[-3:])


if __name__ == "__main__":
    main()
