"""Telling of faults that have waited for too long: on standard error, and for `statistics()`.

The core says which, and what they wait for; here is added whose they are.  What this cannot tell
of is a pager that is itself stuck or stopped: it reads no faults then, and looks at no clock.
"""

from __future__ import annotations

from userfault.kernel.memtypes import size_name
from userfault.kernel.names import shown
from userfault.pager.core.actions import Overdue
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.wire.messages import MAX_OVERDUE, Waited
from userfault.source.spec import FileSpec, FunctionSpec, PagesSpec, Spec, StoreSpec

_ANSWERS = {
    "report": "it waits on",
    "alone": "the pages of that read are read one by one",
    "poison": "its page is given up (policy on_overdue=poison)",
    "kill": "the client is ended (policy on_overdue=kill)",
}


def tell(context: Context, action: Overdue) -> None:
    """One fault that is overdue.  The first `MAX_OVERDUE` of a mapping are told in full."""
    served = context.served
    said = len(served.overdue)
    if said < MAX_OVERDUE:
        waited = _waited(context, action)
        served.overdue.append(waited)
        served.owner.say(_text(waited))
        if said + 1 == MAX_OVERDUE:
            served.owner.say(
                "further faults of this mapping that wait for too long are counted, not listed"
            )


def still_waiting(served: Served) -> int:
    """How many faults that were told of wait still, those of forked children included."""
    return sum(context.core.watch.overdue for context in served.contexts)


def _waited(context: Context, action: Overdue) -> Waited:
    served = context.served
    attach = served.attach
    end = attach.start + attach.pages * attach.page_size
    whose = "" if context is served.main else ", in a forked child"
    return Waited(
        address=action.address,
        offset=action.page * attach.page_size if action.page >= 0 else -1,
        mapping=f"[{attach.start:#x}, {end:#x}), pages of {size_name(attach.page_size)}{whose}",
        source=_name(attach.source),
        state=action.state,
        age_s=action.age_s,
        faults=action.faults,
        waits_for=action.waits_for,
        answer=action.answer,
    )


def _text(waited: Waited) -> str:
    many = f" ({waited.faults} threads or more)" if waited.faults > 1 else ""
    where = f"offset {waited.offset:#x} of" if waited.offset >= 0 else "grown out of"
    return (
        f"a fault at {waited.address:#x} has waited for {waited.age_s:.1f} s{many}: {where} the"
        f" mapping {waited.mapping}, source {waited.source}; the page is {waited.state}, and waits"
        f" for {waited.waits_for}; {_ANSWERS[waited.answer]}"
    )


def _name(source: Spec) -> str:
    if isinstance(source, FileSpec | PagesSpec):
        return source.name
    if isinstance(source, StoreSpec):
        return shown(f"{source.url}/{source.name}")
    return source.target if isinstance(source, FunctionSpec) else "zeros"
