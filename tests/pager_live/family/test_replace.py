"""`Pager.replace()`: processes made from the code that is installed by then take over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import userfault
from helpers.pages import PAGE, numbers
from userfault import Pager, PagerError, Policy, lazy

DEMAND = Policy(background=False)
PACKAGE = Path(userfault.__file__).parent

UPGRADED = """
import sys
from pathlib import Path
import userfault

source, program, text = sys.argv[1:]
with userfault.Pager() as pager:
    policy = userfault.Policy(background=False)
    with userfault.lazy(source, pager=pager, policy=policy) as mapped:
        before = pager.processes()
        assert mapped[0] == 1
        file = Path(program)
        file.write_text(file.read_text() + text)
        try:
            pager.replace()
            print("replaced")
        except userfault.PagerError as error:
            print(error.cause)
        assert mapped[4096] == 2
        print("the same" if pager.processes() == before else "others")
"""


def upgraded(image: Path, tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a client of a copy of the package, whose pager's code has `text` added before replace."""
    shutil.copytree(PACKAGE, tmp_path / "userfault")
    program = tmp_path / "userfault/api/pager_main.py"
    return subprocess.run(
        [sys.executable, "-c", UPGRADED, str(image), str(program), text],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )


def test_the_new_processes_run_the_code_that_is_installed_by_then(
    image: Path, tmp_path: Path
) -> None:
    done = upgraded(image, tmp_path, "\nimport os; os.write(2, b'new code')\n")
    assert done.stdout.split() == ["replaced", "others"]
    assert "new code" in done.stderr


@pytest.mark.parametrize("text", ["\nthis is not Python\n", "\nsucceed = None\n"])
def test_code_that_does_not_start_leaves_the_old_processes_serving(
    image: Path, tmp_path: Path, text: str
) -> None:
    done = upgraded(image, tmp_path, text)
    assert done.stdout.splitlines()[-1] == "the same"
    assert "standard error" in done.stdout


def test_a_pager_is_replaced_again_and_again_with_all_that_it_serves(image: Path) -> None:
    with Pager() as pager, lazy(image, pager=pager, policy=DEMAND) as first:
        for at in range(5):
            with lazy(image, memory="shmem", pager=pager, policy=DEMAND) as second:
                before = set(pager.processes().values())
                pager.replace()
                assert numbers(first[at * PAGE : (at + 1) * PAGE]) == [at + 1]
                assert numbers(second[at * PAGE : (at + 1) * PAGE]) == [at + 1]
                assert not before & set(pager.processes().values())
        first.complete()
        assert first.statistics().states["present"] == len(first) // PAGE + 1


def test_a_closed_pager_is_not_replaced() -> None:
    pager = Pager()
    pager.close()
    with pytest.raises(PagerError, match="closed"):
        pager.replace()
