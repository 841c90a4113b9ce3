"""Who keeps its leases when most agents fall silent together."""

from uuid import UUID

import pytest

from arcentra_server.domain.lapse_brake import Holder, to_spare

# Of each agent: l lapsed, s about to lapse, r spared and not heard of since, R the same and lapsed again, . heard of.
_FLAGS = {
    "l": {"lapsed": True, "lapsing": True},
    "s": {"lapsing": True},
    "r": {"spared": True},
    "R": {"lapsed": True, "lapsing": True, "spared": True},
    ".": {},
}


@pytest.mark.parametrize(
    ("fleet", "spared"),
    [
        ("", ""),
        ("l", ""),  # a single agent is lost like any other
        ("ll", ""),
        ("lll", "lll"),
        ("ll.", "ll"),
        ("l..", ""),
        ("ll..", ""),  # half is not more than half
        ("lll..", "lll"),
        # They fall silent at once and lapse one by one: the first is spared for the sake of those behind it.
        ("lss", "l"),
        ("rls", "l"),
        ("rrl", "l"),
        ("ls..", ""),
        # Once a silence: who is spared and lapses again is lost, and still counts as silent for the others.
        ("RRR", ""),
        ("RRl", "l"),
        ("R..", ""),
        ("rrr", ""),
    ],
)
def test_who_is_spared(fleet: str, spared: str) -> None:
    holders = [Holder(UUID(int=place), **_FLAGS[letter]) for place, letter in enumerate(fleet)]
    assert "".join(fleet[identity.int] for identity in to_spare(holders)) == spared
