"""How a C struct lies in memory, declared field by field.

A `Layout` computes what a C compiler for a 64-bit Linux computes: where each field is, how large
the whole struct is, and a `struct.Struct` to pack it. The padding is spelled out in the format
("=" with `x` bytes), so the format depends on the byte order of the machine and on nothing else.

    uffdio_range = Layout("uffdio_range", ("start", U64), ("len", U64))
    uffdio_register = Layout(
        "uffdio_register", ("range", uffdio_range), ("mode", U64), ("ioctls", U64)
    )
    uffdio_register.offset("range.len")  # 8
    uffdio_register.struct.pack(start, length, mode, 0)

Source: the C rules for struct layout in the System V ABI of x86-64 and the AAPCS64 of aarch64,
which agree on every struct declared here.
"""

from __future__ import annotations

from struct import Struct, calcsize

# The kernel's fixed-width types as `struct` codes.
U8 = "B"
U16 = "H"
U32 = "I"
U64 = "Q"
S64 = "q"


class Reserved:
    """Space that the kernel wants to be zero: it has a place and a size, but takes no value."""

    __slots__ = ("code", "count")

    def __init__(self, code: str, count: int = 1) -> None:
        self.code = code
        self.count = count


class Field:
    """One scalar of a struct, or one stretch of reserved space (then `code` ends in "x")."""

    __slots__ = ("code", "name", "offset", "size")

    def __init__(self, name: str, offset: int, size: int, code: str) -> None:
        self.name = name
        self.offset = offset
        self.size = size
        self.code = code

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.offset}, {self.size}, {self.code!r})"


class Layout:
    """One C struct.

    A member is `(name, kind)` or `(name, kind, offset)`. The kind is a code such as `U64`, a
    `Reserved`, or another Layout, whose fields then appear as "name.field". Without an offset a
    member goes to the next place its alignment allows; `packed` means alignment does not count.
    `size` states the whole size where the declared members do not fill the struct (a union).

    `fields` holds every scalar and every reserved stretch in order; `names` only those that
    `struct` packs and unpacks, in the same order.
    """

    __slots__ = ("_offsets", "align", "fields", "name", "names", "size", "struct")

    def __init__(
        self,
        name: str,
        *members: tuple[str, str | Reserved | Layout] | tuple[str, str | Reserved | Layout, int],
        packed: bool = False,
        size: int | None = None,
    ) -> None:
        fields: list[Field] = []
        end = 0
        align = 1
        for member in members:
            kind = member[1]
            kind_size, kind_align = _measure(kind)
            if packed:
                kind_align = 1
            start = member[2] if len(member) == 3 else _round_up(end, kind_align)
            if start < end:
                raise ValueError(f"{name}.{member[0]} would overlap the member before it")
            fields += _flatten(member[0], kind, start)
            end = start + kind_size
            align = max(align, kind_align)
        natural = _round_up(end, align)
        if size is not None and size < natural:
            raise ValueError(f"{name} needs {natural} bytes, more than the declared {size}")

        self.name = name
        self.fields = tuple(fields)
        self.names = tuple(f.name for f in fields if not f.code.endswith("x"))
        self.align = align
        self.size = natural if size is None else size
        self.struct = Struct(_format(fields, self.size))
        self._offsets = {f.name: f.offset for f in fields}

    def offset(self, name: str) -> int:
        """Where a field starts, in bytes from the start of the struct (KeyError if unknown)."""
        return self._offsets[name]

    def __repr__(self) -> str:
        return f"<Layout {self.name}: {self.size} bytes>"


def _round_up(place: int, align: int) -> int:
    return -(-place // align) * align


def _measure(kind: str | Reserved | Layout) -> tuple[int, int]:
    """Size and alignment of a member."""
    if isinstance(kind, Layout):
        return kind.size, kind.align
    if isinstance(kind, Reserved):
        width = calcsize("=" + kind.code)
        return width * kind.count, width
    width = calcsize("=" + kind)
    return width, width


def _flatten(name: str, kind: str | Reserved | Layout, start: int) -> list[Field]:
    """The fields a member contributes, at their offsets in the enclosing struct."""
    if isinstance(kind, Layout):
        return [Field(f"{name}.{f.name}", start + f.offset, f.size, f.code) for f in kind.fields]
    size = _measure(kind)[0]
    return [Field(name, start, size, f"{size}x" if isinstance(kind, Reserved) else kind)]


def _format(fields: list[Field], size: int) -> str:
    """The `struct` format of a whole struct, with every gap spelled out."""
    parts = ["="]
    end = 0
    for field in fields:
        if field.offset > end:
            parts.append(f"{field.offset - end}x")
        parts.append(field.code)
        end = field.offset + field.size
    if size > end:
        parts.append(f"{size - end}x")
    return "".join(parts)
