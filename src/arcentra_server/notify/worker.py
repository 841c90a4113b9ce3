"""The loop of the process: settings in the first line, then a message a line; an answer a line.

It ends when its input ends, and after a message that ran out of time: what that left behind is nobody's to know. The
parent starts another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import FrameType
from typing import IO, Any

from arcentra_server.notify.confine import confine
from arcentra_server.notify.egress import Allowed, Egress
from arcentra_server.notify.http import LastAnswer, limit_requests
from arcentra_server.notify.sending import Outcome, Sender

_ROOTS = "SSL_CERT_FILE"


class OutOfTime(BaseException):
    """A message took too long. No `Exception`: libraries keep those to themselves."""


def main() -> None:
    """Serve until the input ends."""
    answers = _own_output()
    logging.disable(logging.CRITICAL)  # what libraries log holds addresses and answers
    sys.dont_write_bytecode = True
    settings = json.loads(sys.stdin.readline() or "null")
    if settings is None:
        return
    sender = _set_up(settings)
    signal.signal(signal.SIGALRM, _out_of_time)
    _say(answers, {"ready": True})
    # From here on errors are answers; a traceback would show addresses.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    for line in sys.stdin:
        started = time.monotonic()
        outcome, usable = _send(sender, json.loads(line), float(settings["seconds"]))
        milliseconds = round((time.monotonic() - started) * 1_000)
        _say(answers, {**asdict(outcome), "duration_ms": milliseconds, "last": not usable})
        if not usable:
            return


def _set_up(settings: Mapping[str, Any]) -> Sender:
    egress, answer = Egress(Allowed.of(settings["allow"])), LastAnswer()
    seconds, insecure = float(settings["seconds"]), bool(settings["allow_http"])
    roots = os.environ.get(_ROOTS) or True
    limit_requests(egress, answer, seconds=seconds, allow_http=insecure, roots=roots)
    sender = Sender(egress, answer, seconds=seconds, allow_insecure=insecure)
    confine(egress, [os.environ.get(_ROOTS, "")])
    return sender


def _send(sender: Sender, message: Mapping[str, Any], seconds: float) -> tuple[Outcome, bool]:
    """Send a message within the time; also answer whether the process can be used further."""
    try:
        # Requests end by themselves before; this is for what has no end of its own, such as resolving a name.
        signal.setitimer(signal.ITIMER_REAL, seconds * 1.5)
        try:
            return sender.send(message), True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OutOfTime:
        return Outcome(delivered=False, error="no answer in time"), False
    except Exception as error:  # noqa: BLE001 - one bad message keeps no other from being sent
        return Outcome(delivered=False, error=f"internal error: {type(error).__name__}"), True


def _out_of_time(_: int, __: FrameType | None) -> None:
    raise OutOfTime


def _own_output() -> IO[str]:
    """Take stdout for answers alone: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _say(answers: IO[str], document: Mapping[str, Any]) -> None:
    answers.write(json.dumps(document) + "\n")
    answers.flush()
