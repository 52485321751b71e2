"""The transcript of docs/prompt.md is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

from cli.commands import ROOT, userfault

_PAGE = ROOT / "docs" / "prompt.md"
_PROMPT = "next> "


def test_ten_lines_lead_to_a_served_guest_memfd_fault(tmp_path: Path) -> None:
    found = re.search(r"```console\n(.*?)```", _PAGE.read_text(), re.S)
    assert found is not None
    command, *told = found[1].splitlines()
    assert command == "$ userfault model"
    lines = [line.removeprefix(_PROMPT) for line in told if line.startswith(_PROMPT)]
    assert len(lines) < 10
    script = tmp_path / "script"
    script.write_text("\n".join(lines))
    done = userfault("model", "--script", str(script), columns=110)
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()] == told
    assert "0  Read(gmem+1, 8)                             b'guest...'" in told
