"""What can go wrong with a guest."""

from __future__ import annotations

from userfault.kernel.errors import UserfaultError


class GuestError(UserfaultError):
    """A CPU of the guest stopped for good; `cpu` is its number."""

    def __init__(self, cpu: int, *, cause: str, cure: str) -> None:
        super().__init__(f"CPU {cpu} of the guest stopped", cause=cause, cure=cure)
        self.cpu = cpu
