"""The scenarios that come with the package: one file a subject, each loaded by its import here."""

from userfault.check.explore.building.scenario import Scenario, scenario
from userfault.check.explore.scenarios import (
    budget,
    continues,
    drivers,
    events,
    fills,
    guests,
    handlers,
    moves,
    old_events,
    old_fills,
    old_protection,
    pager,
    protection,
    races,
    retry,
    sets,
    sharing,
    tracking,
)

SCENARIOS: list[Scenario] = list(scenario.by_name.values())

__all__ = [
    "SCENARIOS",
    "budget",
    "continues",
    "drivers",
    "events",
    "fills",
    "guests",
    "handlers",
    "moves",
    "old_events",
    "old_fills",
    "old_protection",
    "pager",
    "protection",
    "races",
    "retry",
    "sets",
    "sharing",
    "tracking",
]
