"""What a source is: a value that can be sent, made from whatever the user hands over.

| the user hands over | it becomes |
|---|---|
| a path, an open file, a descriptor | `FileSpec`; the descriptor is passed on, nothing is copied |
| bytes, bytearray, memoryview, mmap, array, BytesIO | `FileSpec` of a sealed memfd, written once |
| `zero(length)` | `ZeroSpec` |
| `function("module:name", length)`, or a function of a module | `FunctionSpec` |
| a snapshot in a store | `StoreSpec`; `snapshot.serving.handover` reads its manifest |
| pages that are still on another host | `PagesSpec`; made by `serve.page_server` and `migrate` |
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec

from userfault.kernel.errors import SourceError, SourceTypeError, UsageError
from userfault.kernel.names import shown
from userfault.kernel.numbers import is_number, whole
from userfault.source import buffers, interpreter, objects, opening

SOURCE_ALIGNMENT = 4096  # offsets into a file must suit mmap(2)
LARGE = 8192  # bytes of a function's arguments that are sent, and recorded, with everything else


class ZeroSpec(msgspec.Struct, frozen=True, tag="zero"):
    """`length` bytes of zeros."""

    length: int


class FileSpec(msgspec.Struct, frozen=True, tag="file"):
    """`length` bytes at `offset` of an open file of `size` bytes, last changed at `mtime_ns`.

    `copied`: bytes written to make it (a bytes-like source); `name` is for messages only.
    """

    length: int
    offset: int
    size: int
    mtime_ns: int
    name: str
    copied: int = 0


class FunctionSpec(msgspec.Struct, frozen=True, tag="function"):
    """`length` bytes that `module:name` returns, called as `f(offset, length, *args, **kwargs)`.

    `arguments`: args and kwargs, pickled.  `path`: where the worker finds modules.  `stored`: the
    bytes of arguments that are too large to be sent about; they are in the descriptor that comes
    along, and `arguments` is empty.  `options`: those of the interpreter that calls it.
    """

    length: int
    target: str
    arguments: bytes
    path: tuple[bytes, ...]
    stored: int = 0
    options: tuple[str, ...] = ()


class StoreSpec(msgspec.Struct, frozen=True, tag="store"):
    """`length` bytes of the snapshot `name` in the store `url`, whose manifest has `digest`.

    The table of its pages comes along as a descriptor, so that the name is for messages only.
    `second`: another store that is asked for chunks which the first one cannot give.  `cache`: a
    folder of this machine that keeps `cache_size` bytes of what was read from a remote store ("":
    none; None: as the environment says).  Paths cross as bytes: they may be no
    UTF-8.  There are no credentials here: whoever reads takes them from its environment.
    """

    length: int
    raw_url: bytes
    name: str
    digest: bytes
    raw_second: bytes | None = None
    raw_cache: bytes | None = None
    cache_size: int | None = None

    @classmethod
    def of(
        cls,
        url: str,
        name: str,
        *,
        second: str | None = None,
        cache: str | None = None,
        **rest: Any,
    ) -> StoreSpec:
        """With its paths as they are written in Python."""
        return cls(
            raw_url=os.fsencode(url),
            name=name,
            raw_second=None if second is None else os.fsencode(second),
            raw_cache=None if cache is None else os.fsencode(cache),
            **rest,
        )

    @property
    def url(self) -> str:
        """The store."""
        return os.fsdecode(self.raw_url)

    @property
    def second(self) -> str | None:
        """The store that stands in."""
        return None if self.raw_second is None else os.fsdecode(self.raw_second)

    @property
    def cache(self) -> str | None:
        """The folder of the cache."""
        return None if self.raw_cache is None else os.fsdecode(self.raw_cache)


class PagesSpec(msgspec.Struct, frozen=True, tag="pages"):
    """`length` bytes that a process of ours gets from another host, page by page.

    The socket to that process comes along as a descriptor (`source.pages`).  `name`: of the other
    host, for messages only.  `task`: whose memory it is, by the number that it has there.
    `offset`: where it begins among what that process has.
    """

    length: int
    name: str
    task: int = 0
    offset: int = 0


Spec: TypeAlias = ZeroSpec | FileSpec | FunctionSpec | StoreSpec | PagesSpec


class Resolved(msgspec.Struct, frozen=True):
    """A source ready to be sent: its spec, and the descriptor that goes with it (-1 for none).

    The descriptor belongs to whoever holds this.
    """

    spec: Spec
    fd: int = -1

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)


def zero(length: int) -> ZeroSpec:
    """A source of `length` zero bytes."""
    return ZeroSpec(_length(whole("length", length), None, "the zero source"))


def function(
    target: str | Callable[..., Any], length: int, *args: Any, **kwargs: Any
) -> FunctionSpec:
    """A source of `length` bytes computed by a function in the pager's workers.

    `target`: `"package.module:name"`, or a function defined at the top of a module.  It is called
    as `f(offset, length, *args, **kwargs)` and returns exactly `length` bytes.  Raises
    SourceTypeError for lambdas, closures and bound methods, which another process cannot find,
    and for arguments that cannot be pickled.
    """
    name = target if isinstance(target, str) else _name_of(target)
    if not _TARGET.fullmatch(name):
        raise UsageError(
            f"{name!r} names no function",
            cause="it is not of the form package.module:name",
            cure='write for example "mypackage.images:read_page"',
        )
    try:
        import pickle  # noqa: PLC0415  # for functions alone; it takes 2 ms of a pager's start

        arguments = pickle.dumps((args, kwargs))
    except Exception as error:
        raise SourceTypeError(
            f"the arguments of {name} cannot be pickled",
            cause=f"{type(error).__name__}: {error}",
            cure="pass plain values: the function runs in another process",
        ) from None
    path, like_ours = tuple(_module_path()), tuple(interpreter.options())
    taken = _length(whole("length", length), None, name)
    return FunctionSpec(taken, name, arguments, path, options=like_ours)


def _module_path() -> Iterator[bytes]:
    """Where this program finds modules, as another one has to say it."""
    for entry in sys.path:
        with contextlib.suppress(OSError):  # relative to a folder that is not there any more
            if isinstance(entry, str):  # what is no text the import system passes over
                yield os.fsencode(os.path.abspath(entry))


def resolve(source: Any, *, length: int | None = None, offset: int = 0) -> Resolved:
    """Whatever the user handed over, as a spec with its descriptor.

    `length`: bytes to take (default: all from `offset` on).  Raises UsageError for an empty
    source, or one shorter than `length`; SourceError when a file cannot be opened;
    SourceTypeError for an object that is none of the above.
    """
    if isinstance(source, ZeroSpec | FunctionSpec | Resolved):
        return _resolved(source, length)
    target = names_function(source)
    if target:
        return _function_of(target, length)
    if isinstance(source, str | os.PathLike):
        return _path(os.fspath(source), length, offset)
    if is_number(source) and not isinstance(source, bool):
        return _duplicate(whole("descriptor", source), source, length, offset)
    fd = objects.descriptor_of(source)
    if fd is not None:
        return _duplicate(fd, getattr(source, "name", source), length, offset)
    return _buffer(source, length, offset)


def _resolved(source: ZeroSpec | FunctionSpec | Resolved, length: int | None) -> Resolved:
    """What is a source already; of one that has a descriptor, which its owner keeps, all."""
    if isinstance(source, Resolved):
        return Resolved(source.spec, os.dup(source.fd))
    taken = _length(source.length, length, "the source")
    return _with_large_arguments(msgspec.structs.replace(source, length=taken))


def names_function(source: Any) -> str:
    """`module:name` where `source` is a function, or text that names one and no file; else "".

    Raises SourceTypeError for a function that another process cannot find.
    """
    if isinstance(source, str):
        return source if _TARGET.fullmatch(source) and not os.path.exists(source) else ""
    return _name_of(source) if callable(source) else ""


_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _length(available: int, wanted: int | None, what: str) -> int:
    """The length to serve: all there is, or what is wanted if there is as much."""
    if available <= 0:
        raise UsageError(
            f"{what} is empty", cause="it has no bytes", cure="memory has at least one byte"
        )
    if wanted is None:
        return available
    if not 0 < wanted <= available:
        raise UsageError(
            f"length={wanted} of {what}",
            cause=f"it has {available} bytes there",
            cure="pass a length within it, or leave it out",
        )
    return wanted


def _function_of(name: str, length: int | None) -> Resolved:
    if length is None:
        raise UsageError(
            f"the source {name} has no length",
            cause="a function does not say how many bytes it can deliver",
            cure="pass length=, or userfault.function(target, length, ...)",
        )
    return Resolved(function(name, length))


def _with_large_arguments(spec: ZeroSpec | FunctionSpec) -> Resolved:
    """Large arguments go into a sealed memfd, which is passed on as a file would be."""
    if isinstance(spec, ZeroSpec) or len(spec.arguments) <= LARGE:
        return Resolved(spec)
    fd = _memfd("userfault-arguments", memoryview(spec.arguments), "the arguments")
    return Resolved(msgspec.structs.replace(spec, arguments=b"", stored=len(spec.arguments)), fd)


def _name_of(target: Callable[..., Any]) -> str:
    """`module:name` of a function that another process can import; SourceTypeError for others."""
    name = getattr(target, "__qualname__", "")
    module = getattr(target, "__module__", None) or ""
    why = ""
    if getattr(target, "__self__", None) is not None and not isinstance(target, type):
        why = "a bound method carries an object of this process"
    elif "<lambda>" in name:
        why = "a lambda has no name to import it by"
    elif "<locals>" in name:
        why = "a closure lives inside a call of this process"
    elif not name or not module:
        why = f"an object of type {type(target).__name__} has no name to import it by"
    elif module == "__main__":
        why = "the main program cannot be imported by another process"
    if why:
        raise SourceTypeError(
            f"{name or target!r} cannot be a source",
            cause=f"the function runs in the pager's workers, and {why}",
            cure="define it at the top of a module, and pass what it needs as arguments of"
            " userfault.function()",
        )
    return f"{module}:{name}"


def _path(path: str | bytes, length: int | None, offset: int) -> Resolved:
    name = shown(path)
    try:
        fd = opening.open_file(path)
    except opening.NoFileError as error:
        raise _no_file(name, error) from None
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise SourceError(
            f"cannot open the source {name}",
            cause=error.strerror or "" if isinstance(error, OSError) else str(error),
            cure="check the path and its permissions",
        ) from None
    return _descriptor(fd, name, length, offset)


def _duplicate(number: int, name: Any, length: int | None, offset: int) -> Resolved:
    try:
        fd = os.dup(number)
    except (OSError, OverflowError) as error:
        raise SourceTypeError(
            f"{shown(name)} cannot be a source",
            cause=f"it has no descriptor ({error})",
            cure="pass an open file, or a path",
        ) from None
    return _descriptor(fd, shown(name), length, offset)


def _no_file(name: str, error: opening.NoFileError) -> SourceTypeError:
    return SourceTypeError(
        f"{name} cannot be a source", cause=error.strerror or "", cure="copy it to a file first"
    )


def _descriptor(fd: int, name: str, length: int | None, offset: int) -> Resolved:
    """A FileSpec of an open file; takes the descriptor over."""
    try:
        held = os.fstat(fd)
        opening.check(held.st_mode)
        if offset < 0 or offset % SOURCE_ALIGNMENT:
            raise UsageError(
                f"offset={offset}",
                cause=f"offsets into a source must be multiples of {SOURCE_ALIGNMENT}",
                cure="round it down and skip the first bytes",
            )
        size = os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(held.st_mode) else held.st_size
        taken = _length(size - offset, length, name)
        os.pread(fd, 1, offset)  # a descriptor opened for writing only fails here, not in a fault
        return Resolved(FileSpec(taken, offset, size, held.st_mtime_ns, name), fd)
    except opening.NoFileError as error:
        os.close(fd)
        raise _no_file(name, error) from None
    except OSError as error:
        os.close(fd)
        raise SourceError(
            f"cannot read the source {name}",
            cause=os.strerror(error.errno or 0),
            cure="open it for reading",
        ) from None
    except BaseException:
        os.close(fd)
        raise


def _buffer(source: Any, length: int | None, offset: int) -> Resolved:
    """Bytes become a sealed memfd: written once here, then shared with the pager."""
    # What is in memory already is its own buffer; a subclass may read anything.
    view = buffers.raw(source.getbuffer() if type(source) is io.BytesIO else source)
    if view is None:
        raise objects.refusal(source)
    if offset < 0:
        raise UsageError(f"offset={offset}", cause="it is negative", cure="count from the start")
    view = view[offset:]
    taken = _length(len(view), length, "the buffer")
    fd = _memfd("userfault-source", view[:taken], "the source")
    return Resolved(FileSpec(taken, 0, taken, os.fstat(fd).st_mtime_ns, "bytes", copied=taken), fd)


def _memfd(name: str, view: memoryview, what: str) -> int:
    """A sealed memfd that holds `view`.  Raises SourceError."""
    fd = -1
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        written = 0
        while written < len(view):
            written += os.pwrite(fd, view[written:], written)
        _seal(fd)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise SourceError(
            f"cannot copy {what} into a memfd",
            cause=os.strerror(error.errno or 0),
            cure="free memory, raise `ulimit -n` or `ulimit -f`, or pass a file",
        ) from None
    return fd


def _seal(fd: int) -> None:
    import fcntl  # noqa: PLC0415  (only this way of making a source needs it)

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
