"""Every error has its status, every method its row; a status fits into headers; the log holds no values of variables."""

import io
from collections.abc import Iterator

import pytest
import structlog

from arcentra_server import logs
from arcentra_server.domain.errors import ArcentraError, Fault, NotFound, ValidationError
from arcentra_server.domain.identity import Role
from arcentra_server.rpc.interceptors.errors import STATUS, to_status
from arcentra_server.rpc.policy import POLICY, check_policy, refusal

HEADERS = 8 * 1024


def tree(root: type[ArcentraError]) -> Iterator[type[ArcentraError]]:
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


@pytest.mark.parametrize("error", sorted(tree(ArcentraError), key=str))
def test_each_error_has_its_status_and_its_reason(error: type[ArcentraError]) -> None:
    assert error in STATUS
    assert error.reason != ArcentraError.reason


def test_a_status_fits_into_headers_however_much_is_wrong() -> None:
    faults = [
        Fault(f"stages[0].jobs[{index}].steps[0].timeout", "'soon' is not a duration" * 5) for index in range(500)
    ]
    status = to_status(ValidationError(faults))
    size = len(status.details) + sum(len(key) + len(value) for key, value in status.trailing_metadata or ())
    assert size * 4 / 3 < HEADERS  # binary headers travel in base64
    assert "more faults" in str(status.trailing_metadata)


def test_one_long_fault_is_cut() -> None:
    status = to_status(NotFound("x" * 100_000))
    assert len(status.details) < HEADERS / 4


def test_a_method_without_a_row_keeps_the_server_from_starting() -> None:
    with pytest.raises(RuntimeError, match="Nothing"):
        check_policy([*POLICY, "/agent.v1.AgentService/Nothing"])


def test_a_row_without_a_method_keeps_the_server_from_starting() -> None:
    with pytest.raises(RuntimeError, match="Heartbeat"):
        check_policy(set(POLICY) - {"/agent.v1.AgentService/Heartbeat"})


@pytest.mark.parametrize("style", ["json", "console"])
def test_the_log_tells_where_it_failed_and_no_values(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    before = structlog.get_config()
    try:
        logs.configure("info", style)

        def fail(token: str) -> None:
            raise RuntimeError(f"{len(token)} characters are no good")

        try:
            fail("arc_pat_canary")
        except RuntimeError:
            structlog.get_logger().exception("failed")
    finally:
        structlog.configure(**before)
    assert "14 characters are no good" in written.getvalue()
    assert "arc_pat_canary" not in written.getvalue().replace('fail("arc_pat_canary")', "")


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        ("/pipeline.v1.PipelineService/TriggerPipeline", "trigger, maintainer or admin"),
        ("/admin.v1.AdminService/SetSecret", "maintainer or admin"),
        ("/agent.v1.AgentService/Heartbeat", "agent"),
    ],
)
def test_a_refused_role_is_told_which_roles_may(method: str, needed: str) -> None:
    assert refusal(Role.VIEWER, POLICY[method]) == f"the role viewer may not do this: it takes {needed}"
