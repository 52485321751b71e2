"""The scenarios that come with the package: one file a subject, each loaded by its import here."""

from userfault.check.explore.building.scenario import Scenario, scenario
from userfault.check.explore.scenarios import fills, old_events, old_fills, old_protection

SCENARIOS: list[Scenario] = list(scenario.by_name.values())

__all__ = ["SCENARIOS", "fills", "old_events", "old_fills", "old_protection"]
