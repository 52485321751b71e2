"""Every interleaving of a few tasks on the model: come here to ask what can go wrong, and when.

A *scenario* builds a small world (`building/`); a *strategy* (`strategies/`) leads the *runner*
(`runner.py`) through its schedules; a *search* (`search.py`) does so until there are no more.
Scenarios of the package are in `scenarios/`, how a schedule is shown in `telling/`.
"""

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.search import explored

__all__ = ["Caller", "World", "explored", "scenario"]
