"""Memory that a function computes: `squares.read` runs in a process of the pager, page by page."""

from __future__ import annotations

import squares

import userfault

NUMBERS = 1 << 27  # a table of 1 GiB, of which only what is looked at is computed


def main() -> None:
    """Look into a table that nobody has computed."""
    source = userfault.function(squares.read, NUMBERS * squares.WORD, factor=10)
    policy = userfault.Policy(background=False)
    with (
        userfault.lazy(source, policy=policy) as memory,
        memoryview(memory) as view,
        view.cast("Q") as table,
    ):
        for number in (3, 1_000_000, NUMBERS - 1):
            print(f"10 * {number}^2 =", table[number])
        found = memory.statistics()
        print("pages computed:", found.states["present"], "of", found.pages)


if __name__ == "__main__":
    main()
