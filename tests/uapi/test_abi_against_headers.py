"""Every constant and every layout of `userfault.uapi`, compared with real kernel headers.

The tables are turned into a C program, once for the headers installed on the machine and once for
the newest ones its package mirror has. Each test prints which names a header set does not have;
`pytest -s` or `-rP` shows it, and the junit report keeps it as a property.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import ModuleType

import pytest

from uapi.c_abi import Answer, CompileError, Headers, StructQuery
from uapi.libc_dev import NoHeadersError, newest_headers
from userfault.uapi import kvm, mman, pagemap, userfaultfd
from userfault.uapi.layout import Layout
from userfault.uapi.syscalls import SYSCALLS

TABLES = (userfaultfd, pagemap, kvm, mman)

# The kernel release whose ABI the tables hold.
COMPLETE_FOR = (7, 3)

# Names of our own, which no header has.
OWN_CONSTANTS = {name for name in vars(pagemap) if re.match(r"PM_(?!SCAN_)", name)}

# In C all messages are one struct with a union; in Python each kind has its own Layout.
MESSAGE_PATHS = {
    "uffd_msg_pagefault": {
        "flags": "arg.pagefault.flags",
        "address": "arg.pagefault.address",
        "ptid": "arg.pagefault.feat.ptid",
    },
    "uffd_msg_fork": {"ufd": "arg.fork.ufd"},
    "uffd_msg_remap": {
        "from": "arg.remap.from",
        "to": "arg.remap.to",
        "len": "arg.remap.len",
    },
    "uffd_msg_remove": {"start": "arg.remove.start", "end": "arg.remove.end"},
}

# Masks that grow with the ABI: an old header's mask has only the bits that header names.
MASKS = {
    "UFFD_API_FEATURES": r"UFFD_FEATURE_\w+",
    "UFFD_API_REGISTER_MODES": r"UFFDIO_REGISTER_MODE_\w+",
    "UFFD_API_IOCTLS": r"_UFFDIO_\w+",
    "UFFD_API_RANGE_IOCTLS": r"_UFFDIO_\w+",
    "UFFD_API_RANGE_IOCTLS_BASIC": r"_UFFDIO_\w+",
}


def constants(table: ModuleType) -> dict[str, int]:
    found = {k: v for k, v in vars(table).items() if isinstance(v, int) and k.upper() == k}
    return {name: value for name, value in found.items() if name not in OWN_CONSTANTS}


def layouts(table: ModuleType) -> dict[str, Layout]:
    return {value.name: value for value in vars(table).values() if isinstance(value, Layout)}


CONSTANTS = {name: value for table in TABLES for name, value in constants(table).items()}
LAYOUTS = {name: layout for table in TABLES for name, layout in layouts(table).items()}


def c_path(layout: str, field: str) -> str:
    return MESSAGE_PATHS.get(layout, {}).get(field, field)


def c_query(layout: Layout) -> StructQuery:
    tag = "uffd_msg" if layout.name in MESSAGE_PATHS else layout.name
    return StructQuery(tag, tuple(c_path(layout.name, f.name) for f in layout.fields))


@dataclass(frozen=True)
class Case:
    """One header set and its answers."""

    headers: Headers
    answer: Answer
    release: tuple[int, int]
    missing: list[str]
    root: Path | None  # of the unpacked package


def installed(scratch: Path, cc: str) -> tuple[Headers, Path | None]:
    return Headers("installed headers", cc, scratch), None


def newest(scratch: Path, cc: str) -> tuple[Headers, Path | None]:
    try:
        package = newest_headers()
    except NoHeadersError as reason:
        pytest.skip(f"no newer kernel headers: {reason}")
    label = f"linux-libc-dev {package.version}"
    if package.note:
        label += f" ({package.note})"
    # Debian keeps asm/ of every machine under the name of its architecture.
    search = [package.include, package.include / f"{platform.machine()}-linux-gnu"]
    return Headers(label, cc, scratch, search), package.root


@pytest.fixture(scope="module", params=[installed, newest], ids=["installed", "newest"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if platform.machine() not in SYSCALLS:
        pytest.skip(f"the tables are for {', '.join(SYSCALLS)}, this is a {platform.machine()}")
    cc = shutil.which("cc")
    if not cc:
        pytest.skip("no C compiler: cc is not installed")
    headers, root = request.param(tmp_path_factory.mktemp("abi"), cc)
    try:
        code = headers.macro_values(["LINUX_VERSION_CODE"], "linux/version.h")["LINUX_VERSION_CODE"]
    except CompileError as error:
        pytest.skip(f"{headers.label}: no usable kernel headers: {error}")
    answer = headers.ask(CONSTANTS, {name: c_query(it) for name, it in LAYOUTS.items()})
    missing = sorted({*CONSTANTS, *LAYOUTS} - {*answer.macros, *answer.sizes})
    return Case(headers, answer, (code >> 16, code >> 8 & 0xFF), missing, root)


def test_constants_have_the_headers_values(case: Case) -> None:
    ours = {name: CONSTANTS[name] for name in case.answer.macros if name not in MASKS}

    assert ours == {name: value for name, value in case.answer.macros.items() if name in ours}
    assert len(ours) > 100, "the headers were not really read"


@pytest.mark.parametrize("mask", MASKS)
def test_masks_have_the_bits_the_header_names(case: Case, mask: str) -> None:
    """An older header's mask is ours without the bits it has no name for; a newer one's is more."""
    theirs = case.answer.macros.get(mask)
    if theirs is None:
        pytest.skip(f"{case.headers.label} has no {mask}")
    pattern = MASKS[mask]
    named = [value for name, value in case.answer.macros.items() if re.fullmatch(pattern, name)]
    known = reduce(or_, [1 << bit for bit in named] if pattern.startswith("_") else named)
    if case.release > COMPLETE_FOR:
        theirs &= known

    assert theirs == CONSTANTS[mask] & known


def test_layouts_have_the_headers_sizes_and_offsets(case: Case) -> None:
    sizes = {name: LAYOUTS[name].size for name in case.answer.sizes}
    offsets = {
        (name, c_path(name, f.name)): f.offset for name in sizes for f in LAYOUTS[name].fields
    }

    assert sizes == case.answer.sizes
    assert offsets == case.answer.offsets
    assert {"uffdio_api", "uffd_msg_pagefault", "uffdio_copy"} <= sizes.keys()


def test_names_a_header_lacks_are_known(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    """Whatever is missing is listed; the header of the release we claim may lack nothing."""
    release = "{}.{}".format(*case.release)
    listed = ", ".join(case.missing) or "nothing"
    print(f"{case.headers.label} (Linux {release}) lacks: {listed}")
    record_property(f"lacking in Linux {release}", listed)
    if case.release >= COMPLETE_FOR:
        assert case.missing == []
    elif case.root:
        pytest.skip(f"the newest header to be had is Linux {release}; lacks: {listed}")


def test_the_tables_lack_no_name(case: Case) -> None:
    """Every macro and struct of the userfaultfd header, and of the scan in linux/fs.h, is ours."""
    theirs = {
        name
        for header, pattern in (
            ("linux/userfaultfd.h", r"_?UFFDIO|UFFD_|USERFAULTFD_"),
            ("linux/fs.h", r"PAGE_IS_|PM_SCAN_|PAGEMAP_"),
        )
        for name in case.headers.macro_names(header)
        if re.match(pattern, name)
    }
    theirs |= case.headers.struct_tags("linux/userfaultfd.h") - case.headers.struct_tags(
        "linux/types.h"
    )
    unknown = sorted(theirs - {*CONSTANTS, *LAYOUTS})
    print(f"{case.headers.label} has beyond our tables: {', '.join(unknown) or 'nothing'}")
    if case.release > COMPLETE_FOR and unknown:
        pytest.skip(f"{case.headers.label} is newer than the tables; it adds: {unknown}")

    assert len(theirs) > 60, "the headers were not really read"
    assert unknown == []


def test_the_unpacked_headers_are_the_ones_compiled(case: Case) -> None:
    """The compiler's search path puts the unpacked headers before the installed ones."""
    if case.root is None:
        pytest.skip("the installed headers need no search path")
    # Includes linux/ and asm/ headers and nothing of the C library.
    read = case.headers.files("linux/kvm.h")

    assert {"kvm.h", "types.h"} <= {path.name for path in read}
    system = [path for path in read if path.name not in ("source.c", "stdc-predef.h")]
    assert [path for path in system if not path.is_relative_to(case.root)] == []
    # A name of 7.3 is in the answer exactly if the header's own version says so.
    assert ("UFFD_FEATURE_RWP" in case.answer.macros) == (case.release >= (7, 3))


@pytest.mark.parametrize("machine", sorted(SYSCALLS))
def test_system_call_numbers(case: Case, machine: str) -> None:
    """The machine's own numbers, and the other machine's where its headers are unpacked."""
    search: list[Path] | None = None
    if case.root is not None:
        include = case.root / "usr" / "include"
        search = [include / f"{machine}-linux-gnu", include]
        if not (search[0] / "asm" / "unistd.h").exists():
            pytest.skip(f"{case.headers.label} has no headers for {machine}")
    elif machine != platform.machine():
        pytest.skip(f"the installed headers are for {platform.machine()}")
    numbers = SYSCALLS[machine]
    theirs = case.headers.macro_values(
        [f"__NR_{name}" for name in numbers], "asm/unistd.h", search=search
    )

    ours = {f"__NR_{name}": number for name, number in numbers.items()}
    lacking = ours.keys() - theirs.keys()
    print(f"{case.headers.label} lacks {sorted(lacking) or 'nothing'}")
    assert not lacking or case.release < (7, 3)
    assert theirs == {name: ours[name] for name in theirs}
