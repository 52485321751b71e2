"""The package mirror that this machine is set up with, read from apt's own lists.

Both formats of sources.list(5): one line a source, and deb822 stanzas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from userfault.kernel.errors import Unavailable

ETC = Path("/etc/apt")
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>\S.*)")
_FIELD = re.compile(r"^([\w-]+):(.*(?:\n[ \t].*)*)", re.MULTILINE)
_SIGNED_BY = re.compile(r"signed-by=(\S+)", re.IGNORECASE)
_DEBIAN = {"stable", "testing", "unstable", "sid", "bookworm", "trixie", "forky"}


class Source(msgspec.Struct, frozen=True):
    """An archive: where it is, its suites and components.

    `signed_by`: paths of keyrings.  `trusted`: whoever set it up vouches for it without one.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False

    def line(self, suite: str) -> str:
        """The line of a sources.list for the main part of a suite."""
        options = [f"signed-by={self.signed_by.replace(' ', ',')}"] if self.signed_by else []
        options += ["trusted=yes"] if self.trusted else []
        told = f"[{' '.join(options)}] " if options else ""
        return f"deb {told}{self.uri} {suite} main\n"


class Mirror(msgspec.Struct, frozen=True):
    """Debian's archive, and that of its security updates where one is set up."""

    archive: Source
    security: Source | None = None


def mirror(etc: Path = ETC) -> Mirror:
    """The mirror of this machine.  Raises Unavailable where there is none."""
    found = list(_sources(etc))
    archive = next((s for s in found if "main" in s.components and _DEBIAN & set(s.suites)), None)
    if archive is None:
        raise Unavailable(
            "cannot fetch kernels: no Debian mirror",
            cause=f"the source lists under {etc} name no Debian release with its main part",
            cure="give a kernel of your own: --kernel VMLINUZ --modules DIR",
        )
    security = next((s for s in found if any(x.endswith("-security") for x in s.suites)), None)
    return Mirror(archive, security)


def _sources(etc: Path) -> Iterator[Source]:
    parts = etc / "sources.list.d"
    for path in [etc / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            yield from one_line(path.read_text(errors="replace"))
    for path in sorted(parts.glob("*.sources")):
        yield from deb822(path.read_text(errors="replace"))


def one_line(text: str) -> Iterator[Source]:
    """The `deb` lines of a list."""
    for line in text.splitlines():
        found = _LINE.fullmatch(line.split("#", 1)[0].strip())
        if found is None:
            continue
        words = found["rest"].split()
        options = found["options"] or ""
        signed = _SIGNED_BY.search(options)
        yield Source(
            words[0],
            tuple(words[1:2]),
            tuple(words[2:]),
            signed[1] if signed else "",
            trusted="trusted=yes" in options,
        )


def deb822(text: str) -> Iterator[Source]:
    """The enabled `deb` stanzas of a file; one with several addresses gives the first."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {name.lower(): " ".join(value.split()) for name, value in _FIELD.findall(stanza)}
        uris, types = fields.get("uris", "").split(), fields.get("types", "").split()
        off = fields.get("enabled", "yes").lower() in ("no", "false", "0")
        if not uris or "deb" not in types or off:
            continue
        # A key that stands in the file itself is no path: apt's own keyring decides then.
        signed = fields.get("signed-by", "")
        yield Source(
            uris[0],
            _words(fields, "suites"),
            _words(fields, "components"),
            signed if signed.startswith("/") else "",
            trusted=fields.get("trusted", "").lower() == "yes",
        )


def _words(fields: dict[str, str], name: str) -> tuple[str, ...]:
    return tuple(fields.get(name, "").split())


def lines(found: Mirror, suites: Iterable[str]) -> str:
    """A sources.list of these suites; those of security updates only where they are set up."""
    told = []
    for suite in suites:
        if not suite.endswith("-security"):
            told.append(found.archive.line(suite))
        elif found.security is not None:
            told.append(found.security.line(suite))
    return "".join(told)
