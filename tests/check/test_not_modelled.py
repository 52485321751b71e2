"""What docs/model.md says the model leaves out: each row differs from this kernel, or goes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.skips import absent
from userfault.check.differential.batch import Runner
from userfault.check.differential.found import kernels
from userfault.check.differential.program import from_text
from userfault.kernel.errors import Unavailable

_TEXT = Path(__file__).parents[2].joinpath("docs", "model.md").read_text(encoding="utf-8")
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
