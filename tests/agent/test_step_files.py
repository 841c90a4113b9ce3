"""What a step host and its agent tell each other: orders, commands, files, and up to when a lease is good."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_agent import outcomes
from arcentra_agent.outcomes import Outcome
from arcentra_agent.step_host import commands, zygote
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.step_host.commands import Discard, Feed, Stop
from arcentra_agent.step_host.files import DamagedRecordError, StepFiles, StepRecord
from arcentra_agent.step_host.lease import Lease
from arcentra_agent.step_host.order import Order, StepSpec
from arcentra_agent.step_host.starter import HostStarter
from tests.agent.processes import Gate, gone

RECORD = StepRecord("step-1", 1, "lease", "command", "pipeline-1", "job-1", "job-1", "shell")
FILE_LIMIT = 32 * 1024


def _files(root: Path) -> StepFiles:
    for name in ("steps", "logs", "scratch", "workspaces"):
        (root / name).mkdir()
    return StepFiles.below(root, RECORD.step_run_id)


def _order(workspace: Path, script: str) -> Order:
    args = {"script": script}
    spec = StepSpec(
        "step-1", "p", "r", "build", "compile", 1, "shell", "", "", "1h", ["a"], args, {"A": "é"}, {"S": "x"}
    )
    return Order(spec, str(workspace), {"PATH": os.environ["PATH"]}, 0.5, boottime() + 3600)


def test_an_order_arrives_as_it_was_given_or_not_at_all(tmp_path: Path) -> None:
    order = _order(tmp_path, "echo 'ü' && true")
    data = order.encoded()
    assert Order.decoded(data) == order
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="line 1"):
            Order.decoded(data[:cut])


def test_an_order_shows_no_secret_when_it_is_printed(tmp_path: Path) -> None:
    order = _order(tmp_path, "hunter2-hunter2")
    assert "hunter2" not in repr(order)


@given(st.text(), st.none() | st.floats(0, 1000), st.floats(0, 1e9))
def test_commands_arrive_as_they_were_given(reason: str, grace: float | None, deadline: float) -> None:
    given = (Stop(reason, grace), Discard(), Feed(deadline))
    lines = b'{"command": "Later"}\n'.join(commands.encode(command) for command in given)
    assert list(commands.decode(lines)) == [Stop(reason[:500], grace), *given[1:]]


@pytest.mark.parametrize("character", ["x", "\n", "\0", "ü", "😀"])
def test_a_command_is_written_as_a_whole(character: str) -> None:
    assert len(commands.encode(Stop(character * 10_000, 0.123456789))) <= os.pathconf("/", "PC_PIPE_BUF")


def test_what_is_kept_of_a_step(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    assert files.read_record() == RECORD
    assert (files.read_outcome(), files.read_pid()) == (None, None)
    outcome = Outcome("FAILED", 3, "no \udcff", "script", {"m": "1"}, {"o": "2"}, "", 17)
    files.keep_outcome(outcome)
    assert files.read_outcome() == outcome
    files.log.touch()
    files.make_pipes()
    files.remove()
    assert not files.directory.exists()
    assert not files.log.exists()
    files.remove()


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"step_run_id": "step-1"}', '{"unknown": 1}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str | None) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    files.record.unlink()
    if content is not None:
        files.record.write_text(content)
    with pytest.raises(DamagedRecordError, match=r"step\.json: "):
        files.read_record()


def test_an_outcome_without_room_for_its_outputs_is_one_of_a_full_disk(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond what is reserved, which is a full disk for it."""
    files = _files(tmp_path)
    files.create(RECORD)
    # Limited after everything is imported: compiled modules are files too.
    code = (
        "import sys, pathlib, resource\n"
        "from arcentra_agent.outcomes import Outcome\n"
        "from arcentra_agent.step_host.files import StepFiles\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))\n"
        "files = StepFiles.below(pathlib.Path(sys.argv[1]), 'step-1')\n"
        "files.keep_outcome(Outcome('SUCCESS', outputs={'a': 'x' * 60_000}, log_size=5))\n"
    )
    subprocess.run((sys.executable, "-c", code, str(tmp_path)), check=True, timeout=60)
    outcome = files.read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.reason, outcome.log_size) == ("FAILED", "disk_full", 5)
    assert "the outcome of the step cannot be written: File too large" in outcome.message


def test_a_lease_is_good_for_less_than_the_server_keeps_it() -> None:
    lease = Lease()
    before = boottime()
    assert before + 25 <= lease.deadline <= boottime() + 25
    lease.renew(100.0)
    assert lease.deadline == 125.0
    lease.renew(90.0)
    assert lease.deadline == 125.0
    lease.duration = 60.0
    assert lease.deadline == 155.0
    lease.duration = 3.0
    assert lease.deadline == 102.5


@pytest.mark.slow
async def test_a_host_keeps_how_its_step_ended(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    async with HostStarter(os.environ) as starter:
        host = await starter.start(files, _order(tmp_path, "echo $A; echo n=1 > $ARCENTRA_OUTPUT"))
        await host.ended()
    outcome = files.read_outcome()
    assert outcome is not None
    assert (outcome.status, dict(outcome.outputs)) == (outcomes.SUCCESS, {"n": "1"})
    assert files.log.stat().st_size == outcome.log_size
    assert "é\n" in files.log.read_text()
    assert not files.scratch.exists()


@pytest.mark.slow
async def test_a_host_without_its_whole_order_does_nothing(tmp_path: Path) -> None:
    """Its agent was killed while it wrote the order, or its zygote before it had answered."""
    files = _files(tmp_path)
    files.create(RECORD)
    witness = tmp_path / "witness"
    async with HostStarter(os.environ) as starter:
        pipe = starter._ask(files)
        (child,) = _hosts_below(starter)
        os.write(pipe, _order(tmp_path, f"touch {witness}").encoded()[:-1])
        os.close(pipe)
        await gone(child)
        # It is the other host's to say who it is.
        assert files.read_pid() is None
        host = await starter.start(files, _order(tmp_path, "true"))
        await host.ended()
    assert not witness.exists()
    outcome = files.read_outcome()
    assert outcome is not None
    assert outcome.status == outcomes.SUCCESS


@pytest.mark.slow
async def test_of_two_hosts_the_one_goes_on_whose_lease_was_renewed(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    deadline = boottime() + 5
    async with HostStarter(os.environ) as starter:
        hosts = []
        for name in ("fed", "starved"):
            (tmp_path / name).mkdir()
            files = _files(tmp_path / name)
            files.create(RECORD)
            order = replace(_order(tmp_path, f"read line < {gate.path}"), deadline=deadline)
            hosts.append((files, await starter.start(files, order)))
        (fed, fed_host), (starved, starved_host) = hosts
        fed_host.tell(Feed(deadline + 3600))
        fed_host.tell(Feed(deadline - 3600))
        await starved_host.ended()
        await gate.open()
        await fed_host.ended()
    ends = [(outcome.status, outcome.reason) for files in (fed, starved) if (outcome := files.read_outcome())]
    assert ends == [("SUCCESS", ""), ("FAILED", "agent_lost")]


@pytest.mark.slow
async def test_an_order_that_cannot_be_given_leaves_no_host_waiting_for_it(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    order = _order(tmp_path, "true")
    async with HostStarter(os.environ) as starter:
        with pytest.raises(TypeError, match="not JSON"):
            await starter.start(files, replace(order, spec=replace(order.spec, args={"script": object()})))
        for child in _hosts_below(starter):
            await gone(child)
    assert files.read_pid() is None


def _hosts_below(starter: HostStarter) -> list[int]:
    (parent,) = starter.pids
    listing = Path("/proc") / str(parent) / "task" / str(parent) / "children"
    return [int(pid) for pid in listing.read_text().split()]


def test_what_another_version_has_written_is_read(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    files.record.write_text(json.dumps({**asdict(RECORD), "added_later": [1]}))
    assert files.read_record() == RECORD
    kept = {"step_run_id": "step-1", "attempt": 1, "lease_token": "lease", "job_id": "job-1"}
    files.record.write_text(json.dumps(kept))
    assert files.read_record() == StepRecord("step-1", 1, "lease", job_id="job-1")
    files.outcome.write_text(json.dumps({"status": "SUCCESS", "log_size": 5, "added_later": {}}))
    assert files.read_outcome() == Outcome("SUCCESS", log_size=5)


@pytest.mark.parametrize("fields", [{"attempt": "1"}, {"job_id": None}, {"workspace": ["w"]}, {"attempt": True}])
def test_a_record_of_other_types_is_damaged(tmp_path: Path, fields: dict[str, object]) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    files.record.write_text(json.dumps({**asdict(RECORD), **fields}))
    with pytest.raises(DamagedRecordError, match=next(iter(fields))):
        files.read_record()


def test_an_order_of_another_version_is_read(tmp_path: Path) -> None:
    order = _order(tmp_path, "true")
    stored = json.loads(order.encoded())
    stored["added_later"] = stored["spec"]["added_later"] = stored["local"]["added_later"] = "x"
    del stored["local"]["container_options"], stored["spec"]["artifacts"]
    read = Order.decoded(json.dumps(stored).encode())
    assert read == replace(order, spec=replace(order.spec, artifacts=[]))
    for gone_from in (stored, stored["spec"]):
        gone_from.pop("workspace", None)
        gone_from.pop("step_run_id", None)
        with pytest.raises(ValueError, match="not an order"):
            Order.decoded(json.dumps(stored).encode())


def test_what_is_reserved_for_an_outcome_is_there_as_a_whole(tmp_path: Path) -> None:
    """A disk takes part of a text, and the rest not any more."""
    _files(tmp_path)
    code = (
        "import sys, pathlib, resource\n"
        "from arcentra_agent.step_host.files import StepFiles, StepRecord\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "files = StepFiles.below(pathlib.Path(sys.argv[1]), 'step-1')\n"
        "files.create(StepRecord('step-1', 1, 'l', 'c', 'p', 'j', 'w', 'shell'))\n"
    )
    argv = (sys.executable, "-c", code, str(tmp_path))
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=60)
    assert "File too large" in done.stderr


def test_a_host_that_cannot_be_forked_leaves_nothing_open(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.create(RECORD)
    files.make_pipes()
    files.control.unlink()
    own, others = socket.socketpair()
    with own, others:
        before = _open_files()
        with pytest.raises(FileNotFoundError):
            zygote._fork(others, files, -1)
        assert _open_files() == before


def _open_files() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())
