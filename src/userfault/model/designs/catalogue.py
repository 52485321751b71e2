"""Every design by name."""

from __future__ import annotations

from userfault.kernel.errors import UsageError
from userfault.model.designs.closed_choice import CLOSED_CHOICE
from userfault.model.designs.design import Design
from userfault.model.designs.get_folio_only import GET_FOLIO_ONLY
from userfault.model.designs.hardcoded import HARDCODED
from userfault.model.designs.merged import MERGED
from userfault.model.designs.ours import OURS
from userfault.model.designs.per_operation import PER_OPERATION
from userfault.model.designs.posted import POSTED
from userfault.model.designs.uffd_copy import UFFD_COPY

DESIGNS = {
    design.name: design
    for design in (
        HARDCODED,
        UFFD_COPY,
        GET_FOLIO_ONLY,
        PER_OPERATION,
        CLOSED_CHOICE,
        MERGED,
        POSTED,
        OURS,
    )
}


def design_named(name: str) -> Design:
    """The design of a name; UsageError names those that there are."""
    found = DESIGNS.get(name)
    if found is None:
        raise UsageError(f"no design is called {name!r}", cure=f"use one of {', '.join(DESIGNS)}")
    return found
