"""The table of policies by traces in docs/planner.md: `python -m bench.rehearsals` writes it.

What each policy would have made of each trace of `bench/traces`, by the model of costs in
`pager/core/rehearsal.py`.  It takes no memory and no time that is measured, so it says the same on
every machine, and a test holds the document to it.
"""

from __future__ import annotations

from pathlib import Path

import zstandard

from userfault.kernel.memtypes import MIB
from userfault.pager.core import trace
from userfault.pager.core.policy import Policy
from userfault.pager.core.rehearsal import Outcome, rehearse, touches_of

TRACES = Path(__file__).parent / "traces"
DOCUMENT = Path(__file__).parents[1] / "docs" / "planner.md"
BEGIN, END = "<!-- rehearsals: begin -->", "<!-- rehearsals: end -->"
POLICIES = {
    "page": Policy(background=False, fill_around="page"),
    "order": Policy(background=False, fill_around="order"),
    "block": Policy(background=False, fill_around="block"),
    "cost": Policy(background=False),
    "cost+background": Policy(),
}
_HEAD = (
    *("trace", "pages touched", "policy", "faults"),
    *("for nothing, MiB", "waited, ms", "longest, ms"),
)


def table() -> str:
    """As Markdown."""
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for path in sorted(TRACES.glob("*.trace.zst")):
        unpack = zstandard.ZstdDecompressor().decompressobj()
        recorded = trace.decode(unpack.decompress(path.read_bytes()))
        touches = touches_of(recorded)
        header = recorded.header
        touched = f"{len(touches)} of {header.pages}"
        for name, policy in POLICIES.items():
            found = rehearse(touches, header.pages, header.page_size, policy)
            first = (path.name.partition(".")[0], touched) if name == "page" else ("", "")
            lines.append((*first, f"`{name}`", *_figures(found, header.page_size)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figures(found: Outcome, page_size: int) -> tuple[str, ...]:
    return (
        str(found.faults),
        f"{found.for_nothing * page_size / MIB:.1f}",
        f"{found.waited_s * 1e3:.1f}",
        f"{found.longest_s * 1e3:.2f}",
    )


def put(text: str) -> str:
    """The document with the table of today in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(put(DOCUMENT.read_text()))
