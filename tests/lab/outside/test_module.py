"""The module in a guest that breaks: an oops in a hook, one that does not load."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.lab import newest_kernel
from helpers.skips import absent
from userfault.check.statements import load
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import REGISTRY
from userfault.kernel.errors import Unavailable
from userfault.lab.outside.build import SOURCE, module_for
from userfault.lab.session import Session
from userfault.lab.store import Kernel, Store

# One after the other: each machine keeps a processor busy.
pytestmark = [pytest.mark.xdist_group("lab"), pytest.mark.timeout(600)]

COPIES, CONTINUES = 49, 89


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return newest_kernel()


def built(kernel: Kernel, source: Path = SOURCE) -> Path:
    try:
        return module_for(Store(), kernel, source=source)
    except Unavailable as error:
        absent(str(error))


def judged(kernel: Kernel, module: Path, *numbers: int) -> list[CaseResult]:
    load()
    with Session(kernel, outside=module) as session:
        return [session.run_case(REGISTRY[number], "shmem") for number in numbers]


def test_an_oops_in_a_hook_is_lost_and_says_where(kernel: Kernel, tmp_path: Path) -> None:
    hook = "struct folio *folio = filemap_lock_folio(inode->i_mapping, pgoff);\n\n"
    oops = f"{hook}\tif (!IS_ERR(folio))\n\t\t*(int *)8 = 1;\n"
    text = SOURCE.read_text()
    assert text.count(hook) == 1
    changed = tmp_path / SOURCE.name
    changed.write_text(text.replace(hook, oops))
    module = built(kernel, changed)
    module = module.rename(tmp_path / module.name)  # the cache is for what is as it should be

    copies, lost = judged(kernel, module, COPIES, CONTINUES)

    assert copies.verdict is Verdict.PASSED
    assert (lost.verdict, lost.memory) == (Verdict.LOST, "outside")
    assert "NULL pointer dereference" in lost.reason
    assert "outside_get_folio_noalloc" in lost.reason


def test_a_module_that_does_not_load_is_lost_with_what_the_console_says(
    kernel: Kernel, tmp_path: Path
) -> None:
    module = tmp_path / "no.ko"
    module.write_bytes(b"this is no module")

    (lost,) = judged(kernel, module, COPIES)

    assert lost.verdict is Verdict.LOST
    assert "the module does not load" in lost.reason
    assert "userfault_outside" in lost.reason
