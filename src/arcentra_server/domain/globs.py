"""Globs for branches, tags and paths.

`*` stands for any text without `/`, `**` for any text, `?` for one character that is not `/`; `**/` at the beginning of
a part of a path stands for no folder too, so `docs/**/*.md` matches `docs/a.md`. Everything else stands for itself.

Matching walks the text once with the set of places in the glob that it may have come to, so its cost grows with the
length of the text and nothing that somebody writes can make it explode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

LONGEST_GLOB = 256
_NO_MEANING = "[]{}\\"


@dataclass(frozen=True, slots=True)
class GlobList:
    """Globs, those with `!` in front apart."""

    wanted: tuple[_Glob, ...]
    excluded: tuple[_Glob, ...]

    def cost(self, text: str) -> int:
        """Return how much it may take to tell whether a text passes: 1 a glob, and 1 for each character to be walked."""
        walked = (len(text) - len(glob.start) for glob in self._all if text.startswith(glob.start))
        return len(self._all) + sum(walked)

    def passes(self, text: str) -> bool:
        """Answer whether a text matches one of the globs, if there are any, and none of those that exclude."""
        if any(glob.matches(text) for glob in self.excluded):
            return False
        return not self.wanted or any(glob.matches(text) for glob in self.wanted)

    @property
    def _all(self) -> tuple[_Glob, ...]:
        return (*self.excluded, *self.wanted)


def read_globs(texts: Sequence[str]) -> GlobList:
    """Read a list of globs. An empty one lets everything pass."""
    wanted = tuple(_read(text) for text in texts if not text.startswith("!"))
    return GlobList(wanted, tuple(_read(text[1:]) for text in texts if text.startswith("!")))


def check_glob(text: str) -> list[str]:
    """Return what is wrong with a glob."""
    shown = repr(text[:80])
    glob = text.removeprefix("!")
    if not glob:
        return [f"{shown} is empty: write a glob, for example main or release/**"]
    if len(text) > LONGEST_GLOB:
        return [f"{shown} is longer than {LONGEST_GLOB} characters"]
    faults = []
    if not glob.isprintable():
        faults.append(f"{shown} holds a character that cannot be seen")
    odd = sorted({character for character in glob if character in _NO_MEANING})
    if odd:
        listed = " ".join(odd)
        faults.append(
            f"{shown}: {listed} mean nothing here; write one glob for each case, and ? for the character itself"
        )
    if glob.startswith(("!", "/", "./")):
        faults.append(f"{shown} matches nothing: names of branches, tags and files do not start with ! or /")
    if glob.endswith("/"):
        faults.append(f"{shown} matches nothing: write {glob}** for everything in the folder")
    return faults


@dataclass(frozen=True, slots=True)
class _Glob:
    """A glob as sets of places, one bit a place; the last place is its end.

    `start`: what the text must start with. `by_character`: places that a character leads on from. `single`: places that
    any character but `/` leads on from. `within`, `across`: places that a text without `/`, or any text, stays at.
    `folders`: places that stand for whole folders.
    """

    start: str
    end: int
    single: int
    within: int
    across: int
    folders: int
    by_character: dict[str, int] = field(hash=False)

    def matches(self, text: str) -> bool:
        if not text.startswith(self.start):
            return False
        places = self._and_behind(1)
        for character in text[len(self.start) :]:
            slash = character == "/"
            ahead = places & self.by_character.get(character, 0)
            stay = places & self.across
            if slash:
                ahead |= places & self.folders
            else:
                ahead |= places & self.single
                stay |= places & self.within
            # In the middle of a folder's name nothing of what follows can begin.
            places = self._and_behind(ahead << 1 | stay) | (places & self.folders)
            if not places:
                return False
        return bool(places >> self.end)

    def _and_behind(self, places: int) -> int:
        """Add the places that are reached without a character: those behind what may stand for nothing."""
        skippable = self.within | self.across | self.folders
        while True:
            more = places | (places & skippable) << 1
            if more == places:
                return places
            places = more


@lru_cache(maxsize=4096)
def _read(text: str) -> _Glob:
    wild = min((place for place in (text.find("*"), text.find("?")) if place >= 0), default=len(text))
    start, rest = text[:wild], text[wild:]
    by_character: dict[str, int] = {}
    single = within = across = folders = 0
    position, place = 0, 1
    while position < len(rest):
        stars = len(rest) - position - len(rest[position:].lstrip("*"))
        begins_part = text[: wild + position][-1:] in ("", "/")
        if stars >= 2 and begins_part and rest.startswith("/", position + stars):
            position += stars + 1
            if folders & place >> 1:
                # Whole folders, twice: once says the same, and does not have to be stepped over at each character.
                continue
            folders |= place
        elif stars:
            within, across = (within | place, across) if stars == 1 else (within, across | place)
            position += stars
        else:
            character = rest[position]
            if character == "?":
                single |= place
            else:
                by_character[character] = by_character.get(character, 0) | place
            position += 1
        place <<= 1
    return _Glob(start, place.bit_length() - 1, single, within, across, folders, by_character)
