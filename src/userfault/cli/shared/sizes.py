"""Bytes in words, and words that stand for bytes."""

from __future__ import annotations

import click

from userfault.kernel.memtypes import GIB, KIB, MIB

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(count: float) -> str:
    """Bytes in words."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"


def told(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The callback of a size: bytes, or a number with K, M, G or T (powers of 1024)."""
    if value is None:
        return None
    text = value.strip().upper().removesuffix("IB").removesuffix("B")
    unit = text[-1:] if text[-1:] in _UNITS else ""
    number = text.removesuffix(unit)
    if not number.isascii() or not number.isdecimal() or not int(number):
        raise click.BadParameter(f"{value!r} is no size: write bytes, or 128K, 64M, 2G", ctx, param)
    return int(number) * _UNITS[unit]
