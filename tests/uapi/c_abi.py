"""Ask a C compiler what kernel headers say: values of macros, sizes and offsets of structs.

A header set is either the installed one or an unpacked one. Names that a header does not have
are left out of the answer: for macros the preprocessor decides, for structs the preprocessed text.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INCLUDES = (
    "linux/version.h",
    "linux/userfaultfd.h",
    "linux/fs.h",
    "linux/kvm.h",
    "linux/mman.h",
    "linux/memfd.h",
    "linux/falloc.h",
    "linux/fcntl.h",
)


class CompileError(Exception):
    """The compiler refused; the text is what it said."""


@dataclass(frozen=True)
class StructQuery:
    """One C struct and the C spelling of the fields whose offsets are wanted."""

    tag: str
    fields: tuple[str, ...]


@dataclass
class Answer:
    """What the headers say."""

    macros: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    offsets: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Headers:
    """A set of kernel headers, a compiler to read them with, and a directory for its output."""

    label: str
    cc: str
    scratch: Path
    search: Sequence[Path] = ()

    def compile(self, source: str, *arguments: str, search: Sequence[Path] | None = None) -> str:
        """Run the compiler over a source text; its standard output."""
        path = self.scratch / "source.c"
        path.write_text(source)
        places = self.search if search is None else search
        command = [self.cc, "-w", *(f"-isystem{place}" for place in places), *arguments, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if result.returncode:
            raise CompileError(result.stderr)
        return result.stdout

    def preprocessed(self, include: str | Iterable[str] = INCLUDES) -> str:
        return self.compile(_includes(include), "-E", "-P")

    def macro_names(self, include: str) -> set[str]:
        """Every macro that is defined once a header has been included."""
        text = self.compile(_includes(include), "-E", "-dM")
        return set(re.findall(r"^#define (\w+)", text, re.MULTILINE))

    def files(self, include: str) -> list[Path]:
        """Every file that including a header reads."""
        rule = self.compile(_includes(include), "-M").replace("\\\n", " ")
        return [Path(word) for word in rule.split(":", 1)[1].split()]

    def struct_tags(self, include: str | Iterable[str] = INCLUDES) -> set[str]:
        return set(re.findall(r"\bstruct\s+(\w+)\s*\{", self.preprocessed(include)))

    def macro_values(
        self, names: Iterable[str], include: str, search: Sequence[Path] | None = None
    ) -> dict[str, int]:
        """Values of macros of one header, by the preprocessor and the compiler."""
        return self._run(_program([include], names, {}), search).macros

    def ask(self, macros: Iterable[str], structs: Mapping[str, StructQuery]) -> Answer:
        """Values of macros, sizes and offsets of the structs the headers have."""
        tags = self.struct_tags()
        known = {name: query for name, query in structs.items() if query.tag in tags}
        return self._run(_program(INCLUDES, macros, known), None)

    def _run(self, source: str, search: Sequence[Path] | None) -> Answer:
        program = self.scratch / "program"
        self.compile(source, "-o", str(program), search=search)
        result = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
        answer = Answer()
        for line in result.stdout.splitlines():
            match line.split():
                case ["macro", name, value]:
                    answer.macros[name] = int(value)
                case ["size", name, value]:
                    answer.sizes[name] = int(value)
                case ["offset", name, path, value]:
                    answer.offsets[name, path] = int(value)
        return answer


def _includes(include: str | Iterable[str]) -> str:
    names = [include] if isinstance(include, str) else include
    return "".join(f"#include <{name}>\n" for name in names)


def _program(
    include: Iterable[str], macros: Iterable[str], structs: Mapping[str, StructQuery]
) -> str:
    """A C program that prints one line for every value it knows."""
    # The kernel's headers come first: the C library's must not get a chance to define anything.
    lines = [_includes(include), "#include <stddef.h>", "#include <stdio.h>", "int main(void) {"]
    for name in macros:
        lines += [
            f"#ifdef {name}",
            f'printf("macro {name} %llu\\n", (unsigned long long)({name}));',
            "#endif",
        ]
    for name, query in structs.items():
        lines.append(f'printf("size {name} %zu\\n", sizeof(struct {query.tag}));')
        lines += [
            f'printf("offset {name} {path} %zu\\n", offsetof(struct {query.tag}, {path}));'
            for path in query.fields
        ]
    return "\n".join([*lines, "return 0;", "}", ""])
