"""How a schedule is shown: come here for what changed in each step, as text and as a page."""
