"""How a step run ended, as it is reported, and what each kind of failure is called."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from arcentra_agent.environment import BadEnvironmentError
from arcentra_agent.logs.spool import is_disk_full
from arcentra_agent.outputs import OutputError
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import ContainerError, PluginMissingError, StepResult
from arcentra_agent.process import CannotStartError
from arcentra_agent.secret_values import SecretValues
from arcentra_agent.workspaces import WorkspaceError

Status = Literal["SUCCESS", "FAILED", "CANCELLED", "TIMEOUT"]
SUCCESS: Final = "SUCCESS"
# What `timeout` and an interrupted shell answer.
_TIMEOUT_CODE, _CANCELLED_CODE = 124, 130


class InvalidStepError(ValueError):
    """The step run asks for something that makes no sense; the text is for the author of the pipeline."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step run ended, after `log_size` bytes of log. `traceback` is for the agent's own log, when it is at fault."""

    status: Status
    exit_code: int = 0
    message: str = ""
    reason: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    traceback: str = ""
    log_size: int = 0

    def without(self, secrets: SecretValues) -> "Outcome":
        """Return the same without any secret in it."""
        return replace(
            self,
            message=secrets.masked(self.message),
            metrics={name: secrets.masked(value) for name, value in self.metrics.items()},
            outputs={name: secrets.masked(value) for name, value in self.outputs.items()},
            traceback=secrets.masked(self.traceback),
        )


def failed(exit_code: int, message: str, reason: str) -> Outcome:
    """Return a failure for the reason, one of those of `TaskStatus.failure_reason`."""
    return Outcome("FAILED", exit_code, message, reason)


def cancelled(message: str) -> Outcome:
    """Return the end of a step run that somebody wanted stopped."""
    return Outcome("CANCELLED", _CANCELLED_CODE, message, "cancelled")


def timed_out(limit: str) -> Outcome:
    """Return the end of a step run that took longer than its limit, a duration as it was written."""
    message = f"the step ran longer than its time limit of {limit}"
    return Outcome("TIMEOUT", _TIMEOUT_CODE, message, "timeout")


def lost(message: str) -> Outcome:
    """Return the end of a step run that its agent did not see to the end."""
    return failed(1, message, "agent_lost")


def outcome_of(result: StepResult) -> Outcome:
    """Return the outcome of an operation that came to its end."""
    if result.exit_code == 0:
        return Outcome(SUCCESS, metrics=result.metrics, outputs=result.outputs)
    failure = failed(result.exit_code, result.message, "script")
    return replace(failure, metrics=result.metrics, outputs=result.outputs)


def outcome_of_error(error: Exception) -> Outcome:
    """Return the outcome of a step run that could not go on."""
    match error:
        case InvalidStepError() | ArgumentError() | WorkspaceError() | BadEnvironmentError() | OutputError():
            return failed(2, str(error), "validation")
        case PluginMissingError():
            return failed(127, str(error), "plugin_missing")
        case CannotStartError() | ContainerError():
            return failed(error.exit_code, str(error), error.reason)
        case OSError():
            return failed(1, f"the agent's host: {error}", "disk_full" if is_disk_full(error) else "internal")
        case _:
            broken = failed(1, f"the agent failed with {type(error).__name__}", "internal")
            return replace(broken, traceback="".join(traceback.format_exception(error)))
