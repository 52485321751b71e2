"""Files that are read from top to bottom end before the reader does; so do classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import ROOT

FILE_LINES = 450
CLASS_LINES = 250
FOLDERS = ("src", "tests", "bench", "examples")

# Nobody reads these from top to bottom: one looks one thing up.
LISTS = {
    "src/userfault/check/statements": "a statement after the other, each alone",
    "src/userfault/kernel/calls.py": "a system call after the other, a struct each",
    "tests/mutants/mutations.py": "a mutation after the other, a few words each",
}


def long_files(root: Path, limit: int) -> Iterator[str]:
    """The Python files under `root` that have more lines."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if len(path.read_text().splitlines()) > limit:
                yield str(path.relative_to(root))


def long_classes(root: Path, limit: int) -> Iterator[str]:
    """The classes in them that have more lines, each with its file."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.ClassDef):
                    assert node.end_lineno is not None
                    if node.end_lineno - node.lineno + 1 > limit:
                        yield f"{path.relative_to(root)}: {node.name}"


def listed(path: str) -> bool:
    return any(Path(path).is_relative_to(place) for place in LISTS)


def test_no_file_is_long_but_lists() -> None:
    assert [path for path in long_files(ROOT, FILE_LINES) if not listed(path)] == []


def test_no_class_is_long() -> None:
    assert list(long_classes(ROOT, CLASS_LINES)) == []


@pytest.mark.parametrize("place", LISTS)
def test_what_is_excused_needs_it(place: str) -> None:
    assert any(Path(path).is_relative_to(place) for path in long_files(ROOT, FILE_LINES))


def test_what_is_too_long_is_named(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file.py").write_text("x = 1\n" * 5)
    (tmp_path / "src" / "classes.py").write_text(
        "class Fits:\n    x = 1\n\n\nclass Long:\n    x = 1\n    y = 2\n"
    )
    assert list(long_files(tmp_path, 4)) == ["src/classes.py", "src/file.py"]
    assert list(long_files(tmp_path, 7)) == []
    assert list(long_classes(tmp_path, 2)) == ["src/classes.py: Long"]
