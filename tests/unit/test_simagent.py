"""The simulated agent says of each lease what becomes of it, also of a step run that comes to it twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from arcentra_api.agent.v1 import agent_pb2
from tests.support.simagent.connect import ConnectSession
from tests.support.simagent.journal import Journal
from tests.support.simagent.plan import Odds
from tests.support.simagent.ship import Shipper
from tests.support.simagent.steps import RUNNING, Steps


async def test_a_step_that_comes_again_under_another_lease_is_reported_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "agent.jsonl")
    steps = Steps(journal, Shipper("agent", (), journal, random.Random(1)), Odds(), 10.0, lambda: 0)  # noqa: S311
    session = ConnectSession("agent", (), steps, 1, 10.0, 10.0)
    async with asyncio.TaskGroup() as group:
        for lease in ("first", "second"):
            steps.take(group, agent_pb2.StepRun(step_run_id="step", command_id=lease))
            message, sent = session._message()
            assert message is not None
            assert [report.status for report in message.task_statuses] == [RUNNING], lease
            session._sent.append(sent)
            refusal = agent_pb2.TaskStatusRefusal(step_run_id="step", status=RUNNING, reason="LEASE_LOST")
            session._receive(agent_pb2.ConnectResponse(acked_sequence=sent.sequence, refusals=[refusal]), group)
    journal.close()
