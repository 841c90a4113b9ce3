"""Errors as gRPC statuses: the one mapping, with details that programs can read."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from arcentra_server.domain import errors

DOMAIN = "arcentra"
# Bytes. The message stands in the headers twice, the violations once and in base64.
LARGEST_MESSAGE = 1_024
LARGEST_VIOLATIONS = 2_560

STATUS: dict[type[errors.ArcentraError], int] = {
    errors.ValidationError: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.InvalidTransition: code_pb2.FAILED_PRECONDITION,
    errors.NotAdmitted: code_pb2.FAILED_PRECONDITION,
    errors.LeaseLost: code_pb2.FAILED_PRECONDITION,
    errors.WriteConflict: code_pb2.ABORTED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.NotLeased: code_pb2.PERMISSION_DENIED,
    errors.LimitExceeded: code_pb2.RESOURCE_EXHAUSTED,
    errors.SecretUnreadable: code_pb2.FAILED_PRECONDITION,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.GivenUp: code_pb2.UNAVAILABLE,
    errors.NoRoom: code_pb2.UNAVAILABLE,
}
_RETRY_SECONDS = {code_pb2.ABORTED: 0, code_pb2.RESOURCE_EXHAUSTED: 1, code_pb2.UNAVAILABLE: 1}


def to_status(error: errors.ArcentraError) -> grpc.Status:
    """Return the gRPC status of an error, with `ErrorInfo`, the field violations and when to try again.

    A status travels in headers, which may hold 8 KiB: what does not fit is counted.
    """
    code = STATUS[type(error)]
    status = status_pb2.Status(code=code, message=_shortened(str(error)))
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if isinstance(error, errors.ValidationError):
        _add(status, error_details_pb2.BadRequest(field_violations=_violations(error)))
    if code in _RETRY_SECONDS:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = _RETRY_SECONDS[code]
        _add(status, retry)
    return rpc_status.to_status(status)


def _shortened(text: str) -> str:
    return (
        text
        if len(text.encode()) <= LARGEST_MESSAGE
        else text.encode()[:LARGEST_MESSAGE].decode(errors="ignore") + " ..."
    )


def _violations(error: errors.ValidationError) -> list[error_details_pb2.BadRequest.FieldViolation]:
    violations: list[error_details_pb2.BadRequest.FieldViolation] = []
    room = LARGEST_VIOLATIONS
    for index, fault in enumerate(error.faults):
        room -= len(fault.path.encode()) + len(fault.message.encode()) + 8
        if room < 0 and violations:
            more = f"and {len(error.faults) - index} more faults"
            violations.append(error_details_pb2.BadRequest.FieldViolation(field="", description=more))
            break
        path, message = _shortened(fault.path), _shortened(fault.message)
        violations.append(error_details_pb2.BadRequest.FieldViolation(field=path, description=message))
    return violations


def _add(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
