"""How much is sent to an agent at once. A gRPC client takes messages of 4 MiB unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from arcentra_server.domain.execution import Dispatch

LARGEST_PORTION = 2 * 1024 * 1024
"""Bytes of step runs in one message, unless it is one step run alone: what else it says has as much room again."""
LARGEST_STEP_RUN = 3 * 1024 * 1024
"""Bytes of one step run with its secrets filled in: larger ones are not sent, they fail."""


def portions(dispatches: Iterable[Dispatch], most: int, size: Callable[[Dispatch], int]) -> Iterator[list[Dispatch]]:
    """Yield dispatches message by message, in order: each has at most `most`, and `LARGEST_PORTION` bytes.

    One that is larger is a message of its own. `size`: the bytes of a step run as it is sent, secrets included.
    """
    portion: list[Dispatch] = []
    room = LARGEST_PORTION
    for dispatch in dispatches:
        needed = size(dispatch)
        if portion and (len(portion) == most or needed > room):
            yield portion
            portion, room = [], LARGEST_PORTION
        portion.append(dispatch)
        room -= needed
    if portion:
        yield portion


def leases_within(sizes: Iterable[tuple[UUID, int]], room: int) -> list[UUID]:
    """Return the first of some leases, given with their bytes: those that `room` holds, and the one that goes beyond it."""
    found = []
    for lease_id, size in sizes:
        if room <= 0:
            break
        found.append(lease_id)
        room -= size
    return found
