"""A timeline as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape

from userfault.check.explore.telling.timeline import Row, Timeline
from userfault.model.profiles import Config

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; --run: #1565c0; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto;
  max-width: 90rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; }
.violation { border-left: .3rem solid var(--bad); padding: .4rem .8rem; margin: 1rem 0;
  background: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere; }
.violation b { color: var(--bad); }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; }
thead th { position: sticky; top: 0; background: Canvas; }
td.step { text-align: right; opacity: .6; }
td.runs { background: color-mix(in srgb, var(--run) 14%, transparent);
  border-left: .2rem solid var(--run); white-space: nowrap; }
td.preempts { border-left-style: double; }
ul { margin: 0; padding-left: 1rem; }
tr.last td { background: color-mix(in srgb, var(--bad) 12%, transparent); }
"""


def page(timeline: Timeline) -> str:
    """The whole page."""
    design = f" under {timeline.design}" if timeline.design != Config().design else ""
    title = f"{timeline.scenario} on {timeline.kernel}{design}"
    bugs = f" with {', '.join(timeline.bugs)}" if timeline.bugs else ""
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in timeline.tasks.values())
    rows = "\n".join(
        _row(number, row, timeline, last=number == len(timeline.rows))
        for number, row in enumerate(timeline.rows, 1)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}{escape(bugs)}</h1>
<p>{escape(timeline.sentence)}</p>
{_end(timeline)}
<p>See it again: <code>userfault explore --replay {escape(timeline.line)}</code></p>
<div class="wide">
<table>
<thead><tr><th scope="col">step</th>{heads}<th scope="col">what changed</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</body>
</html>
"""


def _end(timeline: Timeline) -> str:
    if timeline.violation is not None:
        kind, name = escape(timeline.violation.kind), escape(timeline.violation.name)
        text = escape(timeline.violation.text)
        return f'<div class="violation"><b>{kind}: {name}</b>\n{text}</div>'
    parts = "".join(
        f"<li>{escape(name)}: <code>{escape(value)}</code></li>"
        for name, value in timeline.outcome or ()
    )
    return f"<ul class='outcome'>{parts}</ul>"


def _row(number: int, row: Row, timeline: Timeline, *, last: bool) -> str:
    cells = []
    for task in timeline.tasks:
        if task != row.task:
            cells.append("<td></td>")
            continue
        kind = "runs preempts" if row.preempts else "runs"
        cells.append(f'<td class="{kind}">{escape(row.point)}</td>')
    told = "".join(f"<li>{escape(change)}</li>" for change in row.changes)
    broke = last and timeline.violation is not None
    attribute = ' class="last"' if broke else ""
    return (
        f'<tr{attribute}><td class="step">{number}</td>{"".join(cells)}'
        f"<td>{f'<ul>{told}</ul>' if told else ''}</td></tr>"
    )
