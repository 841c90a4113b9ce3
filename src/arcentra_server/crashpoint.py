"""Places at which a test lets the server die: before and after each commit, and before what is said about it.

`crashpoint("name")` does nothing unless ARCENTRA_CRASHPOINT names the place as the process starts:

    ARCENTRA_CRASHPOINT=claim.after_commit          dies by SIGKILL when it first comes there
    ARCENTRA_CRASHPOINT=claim.after_commit:3        the third time
    ARCENTRA_CRASHPOINT=claim.after_commit:1:raise  raises CrashPointReached there; `sleep`: stands still for 2 s

The module belongs to no layer and imports nothing of ours, so that every layer which does something to the world may
name its places. Domain and scheduling decide and do nothing: they have none.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "ARCENTRA_CRASHPOINT"
SLEEP_SECONDS: Final = 2.0  # of the whole loop
_ACTIONS = ("kill", "raise", "sleep")

# What has happened, and what has not, when a process dies there.
POINTS: Final = {
    "approval.before_commit": "a vote and what it decides are written, not committed",
    "approval.after_commit": "a vote is committed, its caller does not know",
    "cancel_job.after_commit": "a job is cancelled, its caller does not know",
    "cancel_step.before_commit": "the cancellation of a step is decided, not written",
    "cancel_step.after_commit": "a step is cancelled, its caller does not know",
    "change.before_commit": "a change of runs is written, not committed",
    "change.after_commit": "a change of runs is committed, nobody was told",
    "change.published": "a change of runs is committed and told, not answered",
    "claim.before_commit": "step runs are leased, not committed",
    "claim.after_commit": "step runs are leased, not sent",
    "claim.sent": "step runs are leased, and handed to their channels",
    "concurrency.after_commit": "a key was given to a job, nothing else knows",
    "connect.first_message": "an agent is back and has said what it has, nothing was done about it",
    "connect.caught_up": "what an agent missed is known and committed, not sent",
    "cron.claimed": "ticks are claimed, no run was started",
    "cron.started": "the run of a tick is started, the tick is not noted",
    "cron.noted": "the run of a tick is started and noted",
    "drain.begun": "the server stops, and agents were told to connect elsewhere",
    "drain.answered": "the calls have ended, what was handed in is not committed",
    "event.before_commit": "a batch of events is written, not committed",
    "event.after_commit": "a batch of events is committed, not acknowledged",
    "event.before_ack": "all events of a call are committed, the call is not answered",
    "fetch.leased": "an agent that pulls is about to be answered with its leases",
    "heartbeat.before_commit": "leases are renewed, not committed",
    "heartbeat.after_commit": "leases are renewed, nobody was told",
    "log.mid": "chunks of a log are written, their place is not",
    "log.before_commit": "a batch of logs is written, not committed",
    "log.after_commit": "a batch of logs is committed, not acknowledged",
    "log.before_ack": "all batches of a call are committed, the call is not answered",
    "migrate.before_commit": "a migration has run, and is not committed",
    "migrate.after_commit": "a migration is committed, the server has not started",
    "notify.claimed": "a notification is claimed, not sent",
    "notify.sent": "a notification is sent, and not noted",
    "notify.settled": "a notification is sent and noted",
    "reaper.before_commit": "what is overdue is dealt with, not committed",
    "reaper.after_commit": "what is overdue is dealt with, nothing else knows",
    "rearm.after_commit": "a server that starts listens and has renewed all leases, and does nothing else yet",
    "register.before_commit": "a registration token is used up and an agent is there, not committed",
    "register.after_commit": "an agent is registered, and does not know its token",
    "report.received": "an agent has reported, nothing was written",
    "report.after_commit": "a report is committed, not acknowledged",
    "report.settled": "a report is committed, and its acknowledgement is about to be sent",
    "retry_run.after_commit": "a run is opened again, its caller does not know",
    "retry_step.before_commit": "the new attempts of a job are made, not committed",
    "retry_step.after_commit": "a job is opened again, its caller does not know",
    "rotate.before_commit": "the old token of an agent is to end and a new one is there, not committed",
    "rotate.after_commit": "an agent has a new token, and does not know it",
    "secret.after_commit": "a secret is set, its caller does not know",
    "stop_run.after_commit": "a run is stopped, its caller does not know",
    "trigger.before_commit": "a run is made, not committed",
    "trigger.after_commit": "a run is made, its caller does not know",
    "webhook.taken": "a delivery is taken, no run was started",
    "webhook.started": "the runs of a delivery are started, the delivery is not finished",
    "webhook.finished": "a delivery is finished, its sender does not know",
}


class CrashPointReached(Exception):
    """What an armed place raises when it is told to raise."""


@dataclass(slots=True)
class _Armed:
    name: str
    left: int
    action: str

    def reach(self) -> None:
        self.left -= 1
        if self.left:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "raise":
            raise CrashPointReached(self.name)
        time.sleep(SLEEP_SECONDS)


def parse(text: str) -> _Armed | None:
    """Read a setting, `NAME[:TIME[:ACTION]]`; None when it is empty.

    Raises:
        ValueError: no such place or action, or the time is not a positive number.
    """
    if not text:
        return None
    name, _, rest = text.partition(":")
    number, _, action = rest.partition(":")
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}={text}: there is no place {name!r}; arcentra_server/crashpoint.py has them all")
    if number and not (number.isdecimal() and int(number)):
        raise ValueError(f"{VARIABLE}={text}: {number!r} is not how often it is to be reached: write 1 or more")
    if action and action not in _ACTIONS:
        raise ValueError(f"{VARIABLE}={text}: {action!r} is not one of {', '.join(_ACTIONS)}")
    return _Armed(name, int(number or 1), action or "kill")


_armed = parse(os.environ.get(VARIABLE, ""))


def crashpoint(name: str) -> None:
    """Do here what the environment asks for, if it names this place; nothing otherwise.

    Raises:
        CrashPointReached: the environment asks for that.
    """
    if _armed is not None and _armed.name == name:
        _armed.reach()
