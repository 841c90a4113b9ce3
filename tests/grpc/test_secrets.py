"""Secrets over the wire: who may do what, what is refused, and that no value ever comes back."""

from typing import Any
from uuid import uuid1

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from grpc import aio

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.domain.identity import USER_ROLES, Role
from tests.support.server import Client, Server
from tests.support.work import one_step_pipeline

CANARY = "planted-canary-value-0815"
ALLOWED = {Role.MAINTAINER, Role.ADMIN}
REQUESTS = {
    "SetSecret": admin_pb2.SetSecretRequest(name="ROLES", value=CANARY),
    "ListSecrets": admin_pb2.ListSecretsRequest(),
    "DeleteSecret": admin_pb2.DeleteSecretRequest(name="ROLES"),
}


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except aio.AioRpcError as error:
        said, code = f"{error.details()} {error.debug_error_string()}", error.code()
    else:
        said, code = "", grpc.StatusCode.OK
    assert CANARY not in said
    return code


@pytest.mark.parametrize("role", [*USER_ROLES, Role.AGENT])
async def test_only_maintainers_and_administrators_may_touch_secrets(
    server: Server, admin: Client, registration: str, role: Role
) -> None:
    if role is Role.AGENT:
        _, caller = await admin.join(registration)
    else:
        caller = admin.as_caller(await server.command("token", "create", "--role", role.value, "--name", role.value))
    wanted = grpc.StatusCode.OK if role in ALLOWED else grpc.StatusCode.PERMISSION_DENIED
    for method, request in REQUESTS.items():
        call = getattr(caller.admin, method)(request, metadata=caller.metadata)
        assert await code_of(call) is wanted, method


async def test_a_secret_is_set_listed_and_deleted(admin: Client) -> None:
    pipeline_id = await one_step_pipeline(admin, "with-secrets", pool="with-secrets")
    scopes: tuple[dict[str, str], ...] = ({}, {"namespace": "default"}, {"pipeline_id": pipeline_id})
    for scope in scopes:
        request = admin_pb2.SetSecretRequest(name="LISTED", value=CANARY, **scope)
        answer = await admin.admin.SetSecret(request, metadata=admin.metadata)
        assert (answer.version, list(answer.warnings)) == (1, [])
    again = admin_pb2.SetSecretRequest(name="LISTED", value="short")
    answer = await admin.admin.SetSecret(again, metadata=admin.metadata)
    assert answer.version == 2
    assert "not masked" in answer.warnings[0]
    listed = await admin.admin.ListSecrets(admin_pb2.ListSecretsRequest(), metadata=admin.metadata)
    rows = [(s.namespace, s.pipeline_id, s.version, s.updated_by) for s in listed.secrets if s.name == "LISTED"]
    assert rows == [("", "", 2, "admin"), ("default", "", 1, "admin"), ("default", pipeline_id, 1, "admin")]
    assert all(0 < s.created_at <= s.updated_at for s in listed.secrets)
    one = admin_pb2.ListSecretsRequest(pipeline_id=pipeline_id)
    assert len((await admin.admin.ListSecrets(one, metadata=admin.metadata)).secrets) == 1
    for scope in scopes:
        which = admin_pb2.DeleteSecretRequest(name="LISTED", **scope)
        await admin.admin.DeleteSecret(which, metadata=admin.metadata)
        gone = admin.admin.DeleteSecret(which, metadata=admin.metadata)
        assert await code_of(gone) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "A"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"value": CANARY}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": CANARY, "value": CANARY}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "A", "value": f"{CANARY}\0"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "A", "value": CANARY * 4_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "A", "value": CANARY, "namespace": "no good"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "A", "value": CANARY, "namespace": "\0"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "A", "value": CANARY, "pipeline_id": "no id"}, grpc.StatusCode.NOT_FOUND),
        ({"name": "A", "value": CANARY, "pipeline_id": str(uuid1())}, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_what_is_refused_does_not_repeat_the_value(
    server: Server, admin: Client, fields: dict[str, str], code: grpc.StatusCode
) -> None:
    call = admin.admin.SetSecret(admin_pb2.SetSecretRequest(**fields), metadata=admin.metadata)
    assert await code_of(call) is code
    assert CANARY not in server.log.read_text()


def test_no_answer_of_any_method_has_a_place_for_the_value_of_a_secret() -> None:
    """The dispatch to the agent that has the lease is the one way out."""
    found = set()

    def look(message: Descriptor, seen: frozenset[str]) -> None:
        if message.full_name in seen or message.GetOptions().map_entry:
            return
        for field in message.fields:
            if "secret" in f"{message.name}.{field.name}".lower() and field.name in {"value", "secret", "secrets"}:
                found.add(f"{message.full_name}.{field.name}")
            if field.message_type is not None:
                look(field.message_type, seen | {message.full_name})

    for module in (admin_pb2, agent_pb2, gateway_pb2, pipeline_pb2, steprun_pb2, stream_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                look(method.output_type, frozenset())
    assert found == {
        "admin.v1.ListSecretsResponse.secrets",  # names
        "admin.v1.CreateHookResponse.secret",  # shown once
        "admin.v1.RotateHookSecretResponse.secret",  # shown once
        "agent.v1.StepRun.secrets",  # the dispatch
        "pipeline.v1.Step.secrets",  # names
        "steprun.v1.StepRunDetail.secrets",  # names
    }
