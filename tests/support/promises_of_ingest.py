"""Promises about what agents send in bulk: P5, events, and P6, logs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from uuid import UUID

from arcentra_server.domain.packing import Compression, unpack
from tests.support.fault_evidence import Evidence, grouped


def events_once(seen: Evidence) -> Iterator[str]:
    """P5: every event that an agent made is stored once, under its seq, and none is missing in between."""
    for name in seen.journals:
        made, rows = seen.events_of(name)
        if sorted(rows) != list(range(1, len(rows) + 1)):
            yield f"the events of agent {name} have holes: {sorted(set(range(1, max(rows) + 1)) - set(rows))}"
        for seq, event_id in made.items():
            if rows.get(seq) != event_id:
                yield f"event {seq} of agent {name} is {rows.get(seq)}, it was made as {event_id}"
        for seq in rows.keys() - made.keys():
            yield f"event {seq} of agent {name} is stored, and was never made"


def whole_logs(seen: Evidence) -> Iterator[str]:
    """P6: the log of each step run whose end was accepted holds the bytes that its process wrote."""
    accepted = {line["lease"] for _, line in seen.lines("verdict") if line["accepted"] and line["status"] != "RUNNING"}
    logs = {str(row["step_run_id"]): row for row in seen.rows["step_logs"]}
    chunks = grouped(seen.rows["log_chunks"], "step_run_id")
    for name, line in seen.lines("end"):
        if line["lease"] not in accepted:
            continue
        log = logs.get(line["step"])
        size, lost = (log["size"], log["lost_bytes"]) if log else (0, 0)
        if (size, lost) != (line["log_len"], 0):
            yield (
                f"the log of step run {line['step']} has {size} bytes of which {lost} are lost; agent {name} wrote"
                f" {line['log_len']}"
            )
            continue
        data = b"".join(
            unpack(Compression(chunk["compression"]), chunk["data"], chunk["raw_size"])
            for chunk in sorted(chunks.get(UUID(line["step"]), ()), key=lambda chunk: chunk["start_offset"])
        )
        if (len(data), zlib.crc32(data)) != (line["log_len"], line["log_crc"]):
            yield f"the log of step run {line['step']} does not hold the bytes that agent {name} wrote"
