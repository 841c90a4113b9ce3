"""What the agents' doors share."""

from __future__ import annotations

from dataclasses import dataclass

from arcentra_server.db.bell import WorkBell
from arcentra_server.domain.standing import Settings
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.services.agents import AgentService
from arcentra_server.services.arrivals import ArrivalService
from arcentra_server.services.dispatch import DispatchService
from arcentra_server.services.reports import ReportService


@dataclass(frozen=True, slots=True)
class AgentParts:
    """The services behind Connect, FetchStepRun and AgentChannel, which are three doors to one dispatch.

    `settings`: those of an agent of which nobody wants anything.
    """

    agents: AgentService
    arrivals: ArrivalService
    dispatch: DispatchService
    reports: ReportService
    channels: AgentChannels
    bell: WorkBell
    settings: Settings
