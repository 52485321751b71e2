"""A planner around another one, to which it leaves whatever it does not decide itself."""

from __future__ import annotations

from userfault.pager.core.planner import Load, Planner, Run, Work


class Outer:
    """As `inner` is."""

    def __init__(self, inner: Planner) -> None:
        self.inner = inner

    @property
    def background(self) -> bool:
        """See `Planner`."""
        return self.inner.background

    @background.setter
    def background(self, on: bool) -> None:
        self.inner.background = on

    @property
    def quiet(self) -> int:
        """See `Planner`."""
        return self.inner.quiet

    @quiet.setter
    def quiet(self, pieces: int) -> None:
        self.inner.quiet = pieces

    @property
    def follows(self) -> bool:
        """See `Planner`."""
        return self.inner.follows

    @follows.setter
    def follows(self, on: bool) -> None:
        self.inner.follows = on

    @property
    def along(self) -> list[Run]:
        """See `Planner`."""
        return self.inner.along

    @property
    def why(self) -> int:
        """See `Planner`."""
        return self.inner.why

    @why.setter
    def why(self, reason: int) -> None:
        self.inner.why = reason

    @property
    def more(self) -> bool:
        """See `Planner`."""
        return self.inner.more

    @property
    def eager(self) -> bool:
        """See `Planner`."""
        return self.inner.eager

    def fault(self, page: int) -> Run:
        """See `Planner`."""
        return self.inner.fault(page)

    def minor(self, page: int) -> Run:
        """See `Planner`."""
        return self.inner.minor(page)

    def settled(self, page: int, count: int, demand: bool) -> None:
        """See `Planner`."""
        self.inner.settled(page, count, demand)

    def time(self, now: float) -> None:
        """See `Planner`."""
        self.inner.time(now)

    def want(self, page: int, count: int) -> None:
        """See `Planner`."""
        self.inner.want(page, count)

    def forget(self) -> None:
        """See `Planner`."""
        self.inner.forget()

    def idle(self, load: Load) -> Work | None:
        """See `Planner`."""
        return self.inner.idle(load)
