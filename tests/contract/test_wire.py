"""The generated stubs keep the fixed wire contract, and the comparison sees each kind of breach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.contract.wire import describe, deviations, read_contract

CONTRACT = read_contract(Path(__file__).with_name("wire.txt"))
# In the order of their imports, as a descriptor pool wants them.
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR for module in (steprun_pb2, pipeline_pb2, agent_pb2, gateway_pb2, stream_pb2)
]


def test_the_contract_is_read_whole() -> None:
    assert sum(title.startswith("package ") for title in CONTRACT) == 5
    assert sum(len(members) for title, members in CONTRACT.items() if title.startswith("service ")) == 37
    assert sum(len(members) for members in CONTRACT.values()) == 706


def test_stubs_keep_the_contract() -> None:
    assert deviations(CONTRACT, describe(FILES)) == []


def rebuilt(change: Callable[[dict[str, FileDescriptorProto]], None]) -> list[FileDescriptor]:
    """The generated files with `change` applied to their protos, in a pool of their own."""
    protos = {file.package: FileDescriptorProto.FromString(file.serialized_pb) for file in FILES}
    change(protos)
    pool = DescriptorPool()
    for well_known in (struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(well_known.DESCRIPTOR.serialized_pb)
    for proto in protos.values():
        pool.Add(proto)
    return [pool.FindFileByName(proto.name) for proto in protos.values()]


def message(protos: dict[str, FileDescriptorProto], full_name: str) -> DescriptorProto:
    package, _, name = full_name.rpartition(".")
    return next(found for found in protos[package].message_type if found.name == name)


def field(protos: dict[str, FileDescriptorProto], full_name: str) -> FieldDescriptorProto:
    owner, _, name = full_name.rpartition(".")
    return next(found for found in message(protos, owner).field if found.name == name)


def renumber_field(protos: dict[str, FileDescriptorProto]) -> None:
    field(protos, "agent.v1.TaskCancel.reason").number = 7


def retype_field(protos: dict[str, FileDescriptorProto]) -> None:
    field(protos, "agent.v1.TaskCancel.reason").type = FieldDescriptorProto.TYPE_BYTES


def repeat_field(protos: dict[str, FileDescriptorProto]) -> None:
    field(protos, "agent.v1.TaskCancel.reason").label = FieldDescriptorProto.LABEL_REPEATED


def rename_field(protos: dict[str, FileDescriptorProto]) -> None:
    renamed = field(protos, "agent.v1.TaskCancel.reason")
    renamed.name = renamed.json_name = "why"


def leave_oneof(protos: dict[str, FileDescriptorProto]) -> None:
    field(protos, "agent.v1.ConnectRequest.task_ack").ClearField("oneof_index")


def replace_map(protos: dict[str, FileDescriptorProto]) -> None:
    field(protos, "agent.v1.TaskStatus.metrics").type_name = ".google.protobuf.Struct"


def add_low_field(protos: dict[str, FileDescriptorProto]) -> None:
    message(protos, "agent.v1.TaskCancel").field.add(
        name="extra", number=99, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
    )


def add_low_enum_value(protos: dict[str, FileDescriptorProto]) -> None:
    enum = next(found for found in protos["agent.v1"].enum_type if found.name == "AckStatus")
    enum.value.add(name="ACK_STATUS_LATER", number=3)


def renumber_enum_value(protos: dict[str, FileDescriptorProto]) -> None:
    enum = next(found for found in protos["agent.v1"].enum_type if found.name == "AckStatus")
    enum.value[2].number = 9


def drop_method(protos: dict[str, FileDescriptorProto]) -> None:
    del protos["stream.v1"].service[0].method[0]


def stop_streaming(protos: dict[str, FileDescriptorProto]) -> None:
    method = next(found for found in protos["agent.v1"].service[0].method if found.name == "Connect")
    method.client_streaming = False


def drop_package(protos: dict[str, FileDescriptorProto]) -> None:
    del protos["stream.v1"]


@pytest.mark.parametrize(
    ("breach", "expected"),
    [
        (renumber_field, "message agent.v1.TaskCancel: reason is 7 string, fixed as 2 string"),
        (retype_field, "message agent.v1.TaskCancel: reason is 2 bytes, fixed as 2 string"),
        (repeat_field, "message agent.v1.TaskCancel: reason is 2 repeated string, fixed as 2 string"),
        (rename_field, "message agent.v1.TaskCancel: reason is missing (fixed as 2 string)"),
        (leave_oneof, "message agent.v1.ConnectRequest: task_ack is 4 agent.v1.TaskAck, "),
        (replace_map, "message agent.v1.TaskStatus: metrics is 6 repeated google.protobuf.Struct, "),
        (add_low_field, "message agent.v1.TaskCancel: extra = 99 string was added below 100"),
        (add_low_enum_value, "enum agent.v1.AckStatus: ACK_STATUS_LATER = 3 was added below 100"),
        (renumber_enum_value, "enum agent.v1.AckStatus: ACK_STATUS_FAILED is 9, fixed as 2"),
        (drop_method, "service stream.v1.StreamService: StreamStepRunStatus is missing"),
        (stop_streaming, "service agent.v1.AgentService: Connect is (agent.v1.ConnectRequest) -> "),
        (drop_package, "package stream.v1: missing"),
    ],
)
def test_a_breach_is_named(breach: Callable[[dict[str, FileDescriptorProto]], None], expected: str) -> None:
    found = deviations(CONTRACT, describe(rebuilt(breach)))
    assert any(line.startswith(expected) for line in found), found


def test_additions_from_100_up_are_free() -> None:
    def add(protos: dict[str, FileDescriptorProto]) -> None:
        add_low_field(protos)
        message(protos, "agent.v1.TaskCancel").field[-1].number = 199

    assert deviations(CONTRACT, describe(rebuilt(add))) == []


def test_an_unreadable_line_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "wire.txt"
    broken.write_text("## a.proto package a\na.M: x=1 string; y=two string\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"wire.txt:2: cannot read"):
        read_contract(broken)
