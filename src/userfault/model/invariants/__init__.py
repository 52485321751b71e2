"""What must hold: come here to have the model's state recounted, or every step of it judged.

`check(machine)` walks everything and counts again (`books.py`).  `RULES` are what must hold after
each step, by name, with a sentence and a source; each looks at what the step wrote and did only
(`rule.py`): what entries show, what was filled, who is registered, who waits, what is counted.
"""

from userfault.model.invariants.books import check
from userfault.model.invariants.rule import Rule, Seen
from userfault.model.invariants.rules import RULES

__all__ = ["RULES", "Rule", "Seen", "check"]
