"""What docs/model.md says the model leaves out: each row differs from this kernel, or goes."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from helpers.skips import absent
from userfault.check.differential.batch import Runner
from userfault.check.differential.found import kernels
from userfault.check.differential.pool import Pool
from userfault.check.differential.program import from_text
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import Unavailable
from userfault.linux.hugepool import growing, read_pool

_TEXT = Path(__file__).parents[3].joinpath("docs", "model.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| `(0 [^`]+)` \|$", _TEXT, re.MULTILINE)


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 3


@pytest.mark.usefixtures("agent")
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="not modelled: docs/model.md")
@pytest.mark.parametrize("program", [text for _, text in ROWS], ids=[what for what, _ in ROWS])
def test_the_model_agrees_with_this_kernel(program: str) -> None:
    try:
        runner = Runner(*kernels())
    except Unavailable as error:
        absent(str(error))
    assert runner.run(from_text(program)) is None


@pytest.mark.parametrize(
    "step",
    [
        "0 mremap hugepriv+0 1p 1p 3 hugeanon+0",
        "0 mremap hugepriv+1 2p 2p 3 hugeanon+0",
        "0 mremap hugepriv+0 2p 1p 0",
    ],
)
def test_what_would_leak_until_the_system_restarts_is_left_out(
    step: str, pool: Pool | None
) -> None:
    if pool is None:
        absent("no huge pages can be had")
    try:
        runner = Runner(*kernels())
    except Unavailable as error:
        absent(str(error))
    with growing(HUGE):  # nobody takes the free pages meanwhile
        pool.fill_up()
        before = read_pool(HUGE)
        found, lines = runner.trace(from_text(f"0 map hugepriv; {step}"))
    assert found is None
    assert not [line for line in lines if "Mremap" in line.what]
    # Other programs may reserve pages meanwhile; what leaks stays.
    deadline = time.monotonic() + 5
    while read_pool(HUGE).reserved > before.reserved:
        assert time.monotonic() < deadline
        time.sleep(0.002)
