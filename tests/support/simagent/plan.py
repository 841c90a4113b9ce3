"""What a step does: drawn from the seed and the id of the step run, so that whoever runs it does the same."""

from __future__ import annotations

import hashlib
import random
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Odds:
    """How steps go. `seconds`: from and to; `failing`: how many of a hundred fail; the others in parts of one."""

    seed: int = 1
    seconds: tuple[float, float] = (0.02, 0.2)
    failing: int = 0
    with_logs: float = 0.5
    with_events: float = 0.5


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does: how long, with which end, how many bytes of log and how many events."""

    seconds: float
    exit_code: int
    log: bytes
    events: int


def plan_of(odds: Odds, step_run_id: str, script: str = "") -> StepPlan:
    """Return what a step does. A script of the form `sim SECONDS [EXIT_CODE]` says so itself; others leave it to chance."""
    chance = random.Random(f"{odds.seed}:{step_run_id}")  # noqa: S311 - it is to be the same again
    seconds = chance.uniform(*odds.seconds)
    exit_code = int(chance.randrange(100) < odds.failing)
    words = script.split()
    if words[:1] == ["sim"]:
        seconds = float(words[1])
        exit_code = int(words[2]) if len(words) > 2 else 0
    log = _log_of(odds.seed, step_run_id, chance.randrange(1, 4_000)) if chance.random() < odds.with_logs else b""
    events = chance.randrange(1, 4) if chance.random() < odds.with_events else 0
    return StepPlan(seconds, exit_code, log, events)


def crc_of(log: bytes) -> int:
    return zlib.crc32(log)


def _log_of(seed: int, step_run_id: str, size: int) -> bytes:
    """Return bytes of which each can be checked: the hashes of their place."""
    log = b""
    while len(log) < size:
        log += hashlib.sha256(f"{seed}:{step_run_id}:{len(log)}".encode()).hexdigest().encode() + b"\n"
    return log[:size]
