"""Ingest between the wire and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2

from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.event_order import AgentEvent
from arcentra_server.domain.ids import parse_id
from arcentra_server.domain.ingest import AckStatus, IngestResult
from arcentra_server.domain.log_order import LogBatch
from arcentra_server.domain.packing import Compression

LARGEST_EVENT_BATCH = 256
_EXACT_INTEGERS = 2**53
_COMPRESSION = {
    gateway_pb2.LogBatch.COMPRESSION_UNSPECIFIED: Compression.NONE,
    gateway_pb2.LogBatch.COMPRESSION_NONE: Compression.NONE,
    gateway_pb2.LogBatch.COMPRESSION_GZIP: Compression.GZIP,
    gateway_pb2.LogBatch.COMPRESSION_ZSTD: Compression.ZSTD,
}
_ACK_STATUS = {status: gateway_pb2.IngestAck.Status.Value(f"STATUS_{status.value}") for status in AckStatus}
_MESSAGES = {
    AckStatus.ACCEPTED: "all is stored",
    AckStatus.PARTIAL_ACCEPTED: "some is stored, the rest is refused",
    AckStatus.REJECTED: "nothing is stored",
    AckStatus.OUT_OF_ORDER: "something is missing before what came: send again from expected_seq",
}


def log_batch(batch: gateway_pb2.LogBatch) -> LogBatch:
    """Read a log batch.

    Raises:
        ValidationError: a required field is missing, or one has no meaning.
    """
    step_id = parse_id(batch.meta.step_id)
    if step_id is None:
        raise ValidationError.at("batch.meta.step_id", "is not the id of a step run")
    if not batch.meta.seq:
        raise ValidationError.at("batch.meta.seq", "is required, from 1")
    if not batch.batch_id:
        raise ValidationError.at("batch.batch_id", "is required")
    compression = _COMPRESSION.get(batch.compression)
    if compression is None:
        raise ValidationError.at("batch.compression", "is not known")
    offset = batch.offset if batch.HasField("offset") else None
    return LogBatch(step_id, batch.meta.seq, offset, compression, batch.data, batch.raw_size)


def agent_events(batch: gateway_pb2.EventBatch) -> list[AgentEvent]:
    """Read a batch of events. What is wrong with a single one is for the rules of ingest to say.

    Raises:
        ValidationError: there are too many.
    """
    if len(batch.events) > LARGEST_EVENT_BATCH:
        raise ValidationError.at("batch.events", f"at most {LARGEST_EVENT_BATCH} events in a batch")
    return [_agent_event(event) for event in batch.events]


def _agent_event(event: gateway_pb2.Event) -> AgentEvent:
    meta = event.meta
    return AgentEvent(
        seq=meta.seq,
        event_id=_text(event.event_id),
        event_type=event.event_type,
        pipeline_id=meta.pipeline_id,
        step_id=meta.step_id,
        payload=_struct(event.payload),
        occurred_at=_time(meta.timestamp) if meta.HasField("timestamp") else None,
        size=event.ByteSize(),
    )


def ingest_ack(result: IngestResult) -> gateway_pb2.IngestAck:
    """Write the answer to a call."""
    return gateway_pb2.IngestAck(
        status=_ACK_STATUS[result.status],
        message=_MESSAGES[result.status],
        last_accepted_seq=result.last_seq,
        expected_seq=result.expected_seq,
        rejected_seqs=[item.seq for item, _ in result.rejections],
        rejections=[
            gateway_pb2.Rejection(seq=item.seq, event_id=item.event_id, step_id=item.step_id, reason=reason.value)
            for item, reason in result.rejections
        ],
        lost_bytes=result.lost_bytes,
    )


def _time(stamp: timestamp_pb2.Timestamp) -> datetime | None:
    """Return the time an agent states, for information: one that no calendar has is as good as none."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _struct(struct: struct_pb2.Struct) -> Mapping[str, Any]:
    return {_text(key): _value(value) for key, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return _text(value.string_value)
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT_INTEGERS else number
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    return value.bool_value if kind == "bool_value" else None


def _text(text: str) -> str:
    """Return a text that the database can hold: it has no NUL."""
    return text.replace("\0", "\ufffd") if "\0" in text else text
