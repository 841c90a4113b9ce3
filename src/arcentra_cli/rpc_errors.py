"""gRPC statuses as one clear line, with the fields at fault below it."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

from arcentra_cli.config import Endpoint
from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode

_DETAILS_KEY = "grpc-status-details-bin"
_UNREACHABLE = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}
_REFUSED = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ABORTED,
    StatusCode.OUT_OF_RANGE,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNIMPLEMENTED,
}


def explain(error: AioRpcError, endpoint: Endpoint) -> CliError:
    """The error of a command that a failed call ended."""
    code = error.code()
    text = error.details() or code.name.lower().replace("_", " ")
    if code in _UNREACHABLE:
        return CliError(
            f"cannot reach the server at {endpoint.address}: is `arcentra-server serve` running?",
            ExitCode.UNREACHABLE,
            _reason(error, endpoint),
        )
    if code is StatusCode.UNAUTHENTICATED:
        return CliError(
            f"the server at {endpoint.address} does not accept the token from {endpoint.token_source or 'you'}: {text}",
            ExitCode.UNREACHABLE,
            (f"log in with `arcentra login --server {endpoint.address}`", *endpoint.unreadable),
        )
    if code is StatusCode.PERMISSION_DENIED:
        return CliError(f"not allowed: {text}", ExitCode.USAGE)
    if code in _REFUSED:
        return CliError(text, ExitCode.USAGE, tuple(field_violations(error)))
    return CliError(f"the server failed: {text}", ExitCode.UNREACHABLE)


def _reason(error: AioRpcError, endpoint: Endpoint) -> tuple[str, ...]:
    """What helps when a server cannot be reached: a refused connection explains itself, other reasons do not."""
    text = error.details() or ""
    if endpoint.address.tls or "Connection refused" not in text:
        return (text,) if text else ()
    return ()


def field_violations(error: AioRpcError) -> Iterator[str]:
    """The faulty fields of a refused request, `path: what is wrong`, from the status details."""
    for detail in _details(error):
        request = error_details_pb2.BadRequest()
        if detail.Is(request.DESCRIPTOR):
            detail.Unpack(request)
            for violation in request.field_violations:
                yield f"{violation.field}: {violation.description}" if violation.field else violation.description


def _details(error: AioRpcError) -> list["status_pb2.any_pb2.Any"]:
    for key, value in error.trailing_metadata():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
