"""What a word at the prompt can become."""

from __future__ import annotations

from collections.abc import Iterable

from userfault.check.differential.areas import AREAS
from userfault.check.prompt.language import WHO
from userfault.check.prompt.words import GUEST, WORDS, Part

_ADDRESSES = frozenset({Part.SPOT, Part.SOURCE, Part.AREA, Part.FILE_SPOT, Part.FILE_SIZE})


def candidates(before: str, others: Iterable[str], descriptors: Iterable[str]) -> list[str]:
    """Every word that may follow `before`.

    `others`: what stands where a verb does; `descriptors`: names that are open.
    """
    words = before.rsplit(";", maxsplit=1)[-1].split()
    if words and WHO.fullmatch(words[0]):
        words = words[1:]
        others = ()
    if not words:
        return sorted({*WORDS, *others})
    if words[0] == "help":
        return sorted(WORDS)
    verb = WORDS.get(words[0])
    if verb is None:
        return []
    found: set[str] = set(GUEST if verb.verb == "guest" else verb.names)
    addressed = sum(word.split("+")[0] in AREAS for word in words[1:])
    if addressed < sum(part in _ADDRESSES for part in verb.parts) or Part.REST in verb.parts:
        found |= set(AREAS)
    if len(words) == 1 and {Part.UFFD, Part.FILE, Part.REST} & set(verb.parts):
        found |= set(descriptors)
    return sorted(found)
