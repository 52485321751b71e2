"""A trace as one HTML page that needs nothing else: no network, no script; light and dark."""

from __future__ import annotations

from html import escape

from userfault.cli.shared.sizes import size
from userfault.cli.trace import drawing
from userfault.cli.trace.drawing import span, swatch
from userfault.cli.trace.figures import CLASSES, Figures
from userfault.kernel.names import shown

# The colours are told apart by people who see fewer of them, too (Okabe and Ito, 2008), and each is
# named in the table beside the picture.
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --background: #9aa5b1; --asked-for: #56b4e9;
  --stream: #0072b2; --working-set: #009e73; --a-fault: #d55e00; --around-a-fault: #e69f00;
  --bar: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --background: #5b6570; --asked-for: #b3e0ff; --stream: #4c9be8; --bar: #4c9be8;
    --working-set: #2fbf95; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
p { margin: .3rem 0; }
.warning { border-left: .3rem solid #c62828; padding: .2rem .8rem; }
svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: currentColor; }
.frame { fill: none; stroke: var(--line); }
.fault { fill: currentColor; }
.bar { fill: var(--bar); }
table { border-collapse: collapse; margin: .4rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  background: currentColor; }
"""


def page(name: str, figures: Figures) -> str:
    """The whole page about the trace of that name."""
    title = f"What {shown(name)} tells"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{_colours()}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{_head(figures)}
<h2>Where and when</h2>
<p>Each cell has the colour of what most of its pages were filled for; dots are faults.</p>
{drawing.where_and_when(figures)}
{_classes(figures)}
<h2>How long faults waited</h2>
{_waits(figures)}
<h2>What came in advance</h2>
{_planners(figures)}
<h2>How pages were filled</h2>
{_kinds(figures)}
</body>
</html>
"""


def _colours() -> str:
    rules = []
    for name in CLASSES:
        colour = f"var(--{name.replace(' ', '-')})"
        rules.append(f".{swatch(name)} {{ fill: {colour}; color: {colour}; }}")
    return "\n".join(rules)


def _head(figures: Figures) -> str:
    header = figures.header
    whole = size(header.pages * header.page_size)
    memory, source = escape(header.memory or "unknown"), escape(header.source or "unknown")
    background = "with" if header.background else "without"
    window = size(header.window_pages * header.page_size)
    said = [
        f"<p>{whole} of {memory} memory in pages of {size(header.page_size)}, filled from a source"
        f" of kind {source}, {background} background fill, windows of up to {window}."
        f" The trace lasts {span(figures.seconds * 1e6)}.</p>"
    ]
    if figures.resumed:
        said.append(f"<p>{figures.resumed} times another worker took over.</p>")
    if figures.lost:
        said.append(f'<p class="warning">{figures.lost} records are missing.</p>')
    if figures.full:
        said.append('<p class="warning">The trace is full: it ends before the mapping did.</p>')
    return "\n".join(said)


def _classes(figures: Figures) -> str:
    header = figures.header
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch {swatch(name)}"></span>{escape(name)}</th>'
        f'<td class="n">{figures.pages[name]}</td>'
        f'<td class="n">{size(figures.pages[name] * header.page_size)}</td></tr>'
        for name in CLASSES
    )
    rest = header.pages - sum(figures.pages.values())
    rows += (
        f'<tr><th scope="row">never filled</th><td class="n">{rest}</td>'
        f'<td class="n">{size(rest * header.page_size)}</td></tr>'
    )
    return _table(("filled for", "pages", "memory"), rows, "classes")


def _waits(figures: Figures) -> str:
    if not figures.waits:
        return "<p>No fault waited for a page.</p>"
    named = (("half of them", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("the longest", 1.0))
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td class="n">'
        f"{span(figures.wait_at(share) * 1e6)}</td></tr>"
        for name, share in named
    )
    open_ = f" {figures.unanswered} were not answered." if figures.unanswered else ""
    waited = span(sum(figures.waits) * 1e6)
    return (
        f"<p>{len(figures.faults)} faults waited for {waited} in all, from the pager's reading of"
        f" the fault to the end of its fill.{open_}</p>"
        f"{drawing.how_long(figures.waits)}{_table(('within', 'time'), rows, 'waits')}"
    )


def _planners(figures: Figures) -> str:
    if not figures.planners:
        return "<p>Nothing: each page was filled because a thread waited for it.</p>"
    size_of = figures.header.page_size
    rows = []
    for name, usage in figures.planners.items():
        share = nothing = "unknown"
        if usage.touched is not None:
            share = f"{usage.touched / usage.filled:.0%}"
            nothing = size((usage.filled - usage.touched) * size_of)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="n">{usage.filled}</td>'
            f'<td class="n">{share}</td><td class="n">{nothing}</td></tr>'
        )
    late = ""
    if "working set" in figures.planners:
        late = (
            f"<p>{figures.late} faults came before the working set was in, and"
            f" {len(figures.faults) - figures.late} after it.</p>"
        )
    unknown = ""
    if any(usage.touched is None for usage in figures.planners.values()):
        unknown = (
            "<p>A page that is filled before it is touched raises no fault: a touch trace of the"
            " same work (<code>--touches</code>) tells how many of them were of use.</p>"
        )
    heads = ("filled for", "pages", "touched", "for nothing")
    return f"{_table(heads, ''.join(rows), 'planners')}{late}{unknown}"


def _kinds(figures: Figures) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="n">{size(count)}</td></tr>'
        for name, count in sorted(figures.bytes_by_kind.items())
    )
    gone = f"<p>The client dropped {figures.dropped} pages.</p>" if figures.dropped else ""
    if figures.evicted:
        gone += f"<p>{figures.evicted} pages went back to their source, to keep a budget.</p>"
    return _table(("by", "memory"), rows, "kinds") + gone


def _table(heads: tuple[str, ...], rows: str, name: str) -> str:
    first, *others = heads
    named = "".join(f'<th scope="col" class="n">{escape(each)}</th>' for each in others)
    return (
        f'<table id="{name}"><thead><tr><th scope="col">{escape(first)}</th>{named}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
