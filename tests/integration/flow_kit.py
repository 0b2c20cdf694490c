"""What the tests of Flow's calls share: a server on the loopback over a store in a file, and requests to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import grpc

from opdispatch.candidate import Candidate, Scope
from opdispatch.command import Command, Reply
from opdispatch.control import control
from opdispatch.errors import InvalidInput
from opdispatch.identity import ComponentId, RunId
from opdispatch.observation import Observation, TaskObserved
from opdispatch.ports import Store
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.dispatcher import Settings, carry_out_command
from opdispatch_adapters.flow.server import OperationRuns, add_operation_runs
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.sql import SqlStore
from tests.integration.store_kit import a_round, accepted
from tests.racks import rack, rack_id

SWITCH: Final = ComponentId(UUID(int=900))
DOMAIN: Final = UUID(int=700)


def candidates() -> list[Candidate]:
    """Racks r1 to r6, each with a compute tray; r1 has a switch too, r1 and r2 share a domain; two are called twin."""
    labels = {"nvl_domain": (str(DOMAIN), "pod-1")}
    trays = [{"Compute": (ComponentId(UUID(int=number)),)} for number in range(9)]
    return [
        rack(1, {**trays[1], "NVSwitch": (SWITCH,)}, labels=labels, row="A", position="1"),
        rack(2, trays[2], labels=labels, row="B", position="1"),
        *(rack(number, trays[number], row="A", position=str(number)) for number in (3, 4, 5, 6)),
        rack(7, trays[7], name="twin"),
        rack(8, trays[8], name="twin"),
    ]


class Racks:
    """An inventory of these racks.  It also knows the switch of r1 by the id of the core service."""

    def __init__(self, known: Sequence[Candidate]) -> None:
        self.known = known

    def candidates(self, scope: Scope, limit: int | None = None) -> Sequence[Candidate]:
        return sorted(scope.of(self.known), key=lambda one: str(one.id))[:limit]

    def component_of(self, type: str, external_id: str) -> ComponentId | None:
        return SWITCH if (type, external_id) == ("NVSwitch", "core-9") else None


def commands_on(store: Store, settings: Settings | None = None) -> Callable[..., Reply]:
    """What carries commands out on a store, as a dispatcher does."""

    def carry_out(run_id: RunId, asked: Command, *, controller: Any = control) -> Reply:
        return carry_out_command(store, run_id, asked, settings or Settings(), _no_look, controller=controller)

    return carry_out


def _no_look(*_: object) -> Sequence[Any]:
    raise InvalidInput.at("tasks", "nothing is looked at here")


@contextmanager
def served(
    runs: OperationRuns, *, more: grpc.GenericRpcHandler | None = None, **options: Any
) -> Iterator[flow_pb2_grpc.FlowStub]:
    """A stub of a server on the loopback that serves these runs."""
    with reached(runs, more=more, **options) as channel:
        yield flow_pb2_grpc.FlowStub(channel)


@contextmanager
def reached(
    runs: OperationRuns, *, more: grpc.GenericRpcHandler | None = None, **options: Any
) -> Iterator[grpc.Channel]:
    """A channel to such a server; it also has ``more`` handlers of somebody else."""
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        if more is not None:
            server.add_generic_rpc_handlers((more,))
        add_operation_runs(server, runs, **options)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            server.stop(0).wait()


def a_request(**changes: Callable[[wire.CreateOperationRunRequest], object]) -> wire.CreateOperationRunRequest:
    """A request for a run of every rack, changed by each of these."""
    request = wire.CreateOperationRunRequest(name="spring firmware")
    configuration = request.configuration
    configuration.selector.percentage.percentage = 100
    configuration.selector.percentage.seed = "sel-seed"
    configuration.options.max_concurrent_targets = 2
    configuration.options.safety_policy.gates.add().failure_count.failure_threshold_count = 2
    configuration.options.ordering_policy.random.seed = "ord-seed"
    configuration.operation.upgrade_firmware.target_version = "2.4.1"
    for change in changes.values():
        change(request)
    return request


def rack_uuid(number: int) -> wire.UUID:
    return wire.UUID(id=str(rack_id(number)))


def _ended(store: SqlStore, run_id: RunId, **statuses: TaskStatus) -> list[Observation]:
    """Looks at the tasks of every submitted target: completed, unless its rack is given another status."""
    now = store.unsettled(run_id).looked_at
    return [
        TaskObserved(
            target_id=target.id,
            task_id=target.task_id or "",  # type: ignore[arg-type]
            status=statuses.get(target.rack_name, TaskStatus.COMPLETED),
            message="",
            looked_at=now,
        )
        for target in store.targets(run_id, statuses={TargetStatus.SUBMITTED})
    ]


def to_the_end_of_the_phase(store: SqlStore, run_id: RunId, **statuses: TaskStatus) -> None:
    """Dispatch a run by hand until nothing more of it can start; tasks complete, but those of the racks named."""
    observations: list[Observation] = []
    for _ in range(20):
        decision = a_round(store, run_id, *observations)
        outcomes = accepted(decision)
        observations = [*outcomes] if outcomes else _ended(store, run_id, **statuses)
        if not observations:
            return
    raise AssertionError("the phase does not end")
