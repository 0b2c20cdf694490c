"""The stand-in as a program: killed and started again on its record, told of other faults while it runs, and ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest

from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from tests.integration.cli_kit import PATIENCE_SECONDS, REPOSITORY, environment
from tests.integration.waiting import eventually

Stub = flow_pb2_grpc.FlowStub
LEONARDO: Final = REPOSITORY / "examples" / "inventory" / "leonardo"
TYPES: Final = ("--component-type", "compute=Compute", "--component-type", "switch=NVSwitch")
CODES: Final = grpc.StatusCode


class Program:
    """One process of it that listens; what it says besides goes to a file."""

    def __init__(self, path: Path, *options: str) -> None:
        self.said = path / "said.txt"
        with self.said.open("a") as said:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "opdispatch_adapters.cli", "flow-standin", "--listen", "127.0.0.1:0"),
                    *("--inventory", str(LEONARDO), *TYPES, "--duration", "1h", *options),
                ],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"on (\S+:\d+), with 138 racks", first)
        assert found is not None, first + self.said.read_text()
        self.channel = grpc.insecure_channel(found[1])
        self.stub = Stub(self.channel)

    def tasks(self) -> list[wire.Task]:
        """All that it tells of its tasks, by id."""
        return sorted(self.stub.ListTasks(wire.ListTasksRequest(with_report=True)).tasks, key=lambda task: task.id.id)

    def kill(self) -> None:
        """As a crash ends it."""
        self.channel.close()
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)

    def end(self) -> tuple[int, str]:
        """Its exit code and its last words, after SIGTERM."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, out


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Program] = []

    def one(*options: str) -> Program:
        started.append(Program(tmp_path, *options))
        return started[-1]

    yield one
    for program in started:
        if program.process.poll() is None:
            program.kill()


def _upgrade(stub: Stub, rack: wire.UUID, description: str, *, queued: bool = False) -> wire.UUID:
    request = wire.UpgradeFirmwareRequest(description=description, target_version="2")
    request.target_spec.racks.targets.add(id=rack)
    if queued:
        request.queue_options.conflict_strategy = wire.CONFLICT_STRATEGY_QUEUE
    (task_id,) = stub.UpgradeFirmware(request).task_ids
    return task_id


def test_whoever_is_killed_comes_back_with_the_same_tasks(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    first = start("--state", str(state))
    order = wire.OrderBy(rack_field=wire.RACK_ORDER_BY_FIELD_NAME, direction="ASC")
    racks = [one.info.id for one in first.stub.GetListOfRacks(wire.GetListOfRacksRequest(order_by=order)).racks]
    _upgrade(first.stub, racks[0], "at work")
    _upgrade(first.stub, racks[0], "in the queue", queued=True)
    cancelled = _upgrade(first.stub, racks[1], "cancelled")
    first.stub.CancelTask(wire.CancelTaskRequest(task_id=cancelled))
    before = first.tasks()
    first.kill()
    whole = state.read_bytes()
    # What a kill in the middle of a write leaves.
    state.write_bytes(whole + whole.splitlines()[0][:40])

    second = start("--state", str(state))

    assert {task.description: task.status for task in before} == {
        "at work": wire.TASK_STATUS_RUNNING,
        "in the queue": wire.TASK_STATUS_WAITING,
        "cancelled": wire.TASK_STATUS_TERMINATED,
    }
    assert second.tasks() == before
    # The cut line is gone, so that the next one stands on a line of its own.
    _upgrade(second.stub, racks[2], "after the kill")
    before = second.tasks()
    second.kill()
    third = start("--state", str(state))
    assert third.tasks() == before
    assert len(before) == 4
    code, said = third.end()
    assert (code, said) == (0, "4 tasks made; 0 asked for more than once; at most 1 of one at once\n")


def test_without_a_record_the_tasks_are_gone_with_the_process(start: Start) -> None:
    first = start()
    racks = first.stub.GetListOfRacks(wire.GetListOfRacksRequest()).racks
    _upgrade(first.stub, racks[0].info.id, "lost")
    first.kill()

    assert start().tasks() == []


def test_a_hangup_reads_the_faults_again_and_those_that_mean_nothing_change_nothing(
    start: Start, tmp_path: Path
) -> None:
    faults = tmp_path / "faults.toml"
    refusing = '[[fault]]\nkind = "refuse"\nmethods = "Version"\ncode = "ABORTED"\ntext = "not now"\n'
    faults.write_text(refusing)
    program = start("--faults", str(faults))

    def answer() -> tuple[grpc.StatusCode, str | None]:
        try:
            program.stub.Version(wire.VersionRequest())
        except grpc.RpcError as error:
            return error.code(), error.details()
        return CODES.OK, None

    assert answer() == (CODES.ABORTED, "not now")
    faults.write_text("[[fault]]\nkind = 1\n")
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the faults in use stay: " in program.said.read_text(), what="the refusal of the faults")
    assert answer() == (CODES.ABORTED, "not now")
    faults.write_text("")
    program.process.send_signal(signal.SIGHUP)
    eventually(answer, until=lambda told: told == (CODES.OK, None), what="an answer without the fault")
    assert program.end() == (0, "0 tasks made; 0 asked for more than once; at most 0 of one at once\n")
