"""Answers of task managers: what comes back from Flow and from local commands, and what the core makes of any of it.

* The answers of Flow are given to the adapters of the client in the place of its stub: a message is parsed as the
  library does it, and one that cannot be parsed is the error that the library raises.  No channel stands between.
* The records of local commands are files in a work directory.  No signal leaves, whatever they name.
* Observations, however they came about, are given to ``decide`` for any state.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final
from unittest import mock
from uuid import UUID

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from opdispatch.action import ClaimTarget, NoteTarget, TargetAction
from opdispatch.candidate import Scope
from opdispatch.command import Pause
from opdispatch.decide import decide
from opdispatch.errors import OpdispatchError
from opdispatch.evolve import evolve, window
from opdispatch.identity import CommandId, IdempotencyKey, RunId, TargetId, TaskId
from opdispatch.observation import Observation, TaskMissing
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import Limits
from opdispatch.task import ClaimRef, Operation, SubmissionRequest, TaskRef, TaskStatus
from opdispatch_adapters.commands import CommandSettings, CommandTaskManager, processes
from opdispatch_adapters.flow.client import FlowInventory, FlowSettings, FlowTasks
from opdispatch_adapters.flow.client.runs import RemoteRuns
from opdispatch_adapters.flow.component_types import ComponentTypes
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.sql import documents
from tests.racks import component, rack_id
from tests.unit import builders as b

from .engine import Input, Surface
from .golden import inputs_of
from .laws import check_rejection, held
from .mutate import INTEGERS, TEXTS, JsonSeed, WireSeed, changed_bytes, in_another_encoding, raw_bytes

NOW: Final = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
SECONDS: Final = timedelta(seconds=5)
TYPES: Final = ComponentTypes({"compute": "Compute"})
RUN: Final = RunId(UUID(int=77))
TARGET: Final = TargetId(UUID(int=78))
KEY: Final = IdempotencyKey("golden-key")
_MOST_CALLS: Final = 200
_ERROR: Final = "error"
DECIDE: Final = "decide"
RECORDS: Final = ("started", "ended", "cancel")
_METHODS: Final = wire.DESCRIPTOR.services_by_name["Flow"].methods_by_name
UPGRADE: Final = "UpgradeFirmware"


# -- Flow --


class _Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self._code, self._text = code, text

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text


class _Stub:
    """Flow, as far as a client can tell: the answers by method, and an error where there is one."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.error: _Refused | None = None
        self.calls = 0

    def __getattr__(self, method: str) -> Callable[..., Message]:
        return lambda request, timeout, metadata: self._answer(method)

    def _answer(self, method: str) -> Message:
        self.calls += 1
        held(self.calls <= _MOST_CALLS, f"{method} is called for the {self.calls}th time for one answer")
        if self.error is not None:
            raise self.error
        kind = GetMessageClass(_METHODS[method].output_type)
        try:
            return kind.FromString(self.answers.get(method, b""))
        except DecodeError:
            raise _Refused(grpc.StatusCode.INTERNAL, "Exception deserializing response!") from None


def submission(*, again: bool = False) -> SubmissionRequest:
    return SubmissionRequest(
        key=KEY,
        run_id=RUN,
        target_id=TARGET,
        attempt=1,
        fence=1,
        rack_id=rack_id(1),
        rack_name="r1",
        components={"compute": (component(1), component(101))},
        operation=Operation(type="firmware_control", code="upgrade", payload='{"target_version":"2.14"}'),
        resubmission=again,
    )


def claim() -> ClaimRef:
    return ClaimRef(target_id=TARGET, attempt=1, fence=1, key=KEY, rack_id=rack_id(1), bar=True)


class Client:
    """All that asks Flow, over one channel whose stub is put in its place."""

    def __init__(self, address: str, stub: Any = None) -> None:
        self.tasks = FlowTasks(FlowSettings(address=address, page=3, parallelism=1), types=TYPES)
        if stub is not None:
            self.tasks.channel._stub = stub
        self.inventory = FlowInventory(self.tasks.channel)
        self.runs = RemoteRuns(self.tasks.channel)
        self.known: tuple[TaskId, ...] = ()

    def asks(self) -> Mapping[str, Callable[[], Any]]:
        """What is asked, by the method whose answer it is about."""
        refs = [TaskRef(target_id=TARGET, task_id=task_id) for task_id in self.known]
        return {
            UPGRADE: lambda: self.tasks.submit([submission()], SECONDS),
            "ListTasks": lambda: [
                *self.tasks.observe([claim()], NOW),
                *self.tasks.submit([submission(again=True)], SECONDS),
            ],
            "GetTasksByIDs": lambda: self.tasks.observe(refs, NOW),
            "CancelTask": lambda: self.tasks.cancel(refs[:1]),
            "GetListOfRacks": lambda: self.inventory.candidates(Scope()),
            "GetListOfNVLDomains": lambda: self.inventory.candidates(Scope()),
            "GetRackInfoByID": lambda: self.inventory.candidates(Scope(racks=(str(rack_id(1)),))),
            "GetComponents": lambda: self.inventory.component_of("Compute", "external-1"),
        }

    def asks_of_runs(self, run_id: RunId) -> Mapping[str, Callable[[], Any]]:
        """The same of an operation-run server."""
        return {
            "GetOperationRun": lambda: self.runs.get(run_id),
            "ListOperationRuns": lambda: (self.runs.list(), self.runs.count()),
            "ListOperationRunTargets": lambda: self.runs.targets(run_id),
            "PauseOperationRun": lambda: self.runs.command(run_id, Pause(command_id=CommandId("pause"), actor="me")),
            "CreateOperationRun": lambda: self.runs.create(_rollout(), "request", "me"),
        }

    def close(self) -> None:
        self.tasks.close()


def _rollout() -> Any:
    configured = b.a_run(gates=(b.failure_count(2),)).rollout
    return replace(configured, operation=Operation(type="firmware_control", code="upgrade"))


# -- states --


def _a_target(chance: Random, phase: int) -> Any:
    terminal = chance.choice((b.completed, b.failed, b.terminated, b.skipped))
    wait = chance.choice((-20, 0, 20))
    given: dict[str, Any] = {"phase": phase, "attempt": chance.choice((1, 1, 2))}
    match chance.randrange(6):
        case 0:
            return b.pending(**given)
        case 1:
            return b.claimed(lease=wait, **given)
        case 2:
            return b.blocked(retry=wait, **given)
        case 3:
            cancelling = chance.choice((None, b.cancelling(due=wait)))
            return b.submitted(missing_since=chance.choice((None, -400, -1)), cancelling=cancelling, **given)
        case 4:
            return b.submitted(**given)
        case _:
            return terminal(**given)


def record_of(number: int) -> Any:
    """The record of a run in one of many situations, which follows from a number."""
    chance = Random(number)
    phase = chance.choice((0, 0, 1))
    targets = [_a_target(chance, chance.choice((phase, phase, 0))) for _ in range(chance.randint(1, 5))]
    targets.append(b.pending(phase=phase))
    status = chance.choice(tuple(RunStatus))
    reason = chance.choice(tuple(StatusReason)[1:]) if status is RunStatus.PAUSED else StatusReason.NONE
    strays = [
        b.a_stray(f"task-{index + 50}", target=index, due=chance.choice((-5, 5)))
        for index in range(chance.randint(0, 2))
    ]
    return b.a_record(
        *targets,
        strays=strays,
        status=status,
        status_reason=reason,
        phase=phase,
        quota=chance.choice((1, 2, 10)),
        gates=chance.choice(((), (b.failure_count(1),), (b.failure_rate(50),))),
        conflict_hold=chance.choice((None, None, "busy")),
        operator_hold=reason is StatusReason.OPERATOR_PAUSED,
        resumed_at=chance.choice((None, b.at(-10))),
        auto_advance=chance.random() < 0.5,
    )


_EXTREMES: Final = (
    *("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00.000000Z"),
    *("2031-04-02T10:00:00.000000Z", "2031-04-02T10:10:00.000000Z", "2031-04-02T09:00:00.000000Z"),
)


class Answers(Surface):
    name: ClassVar[str] = "answers"
    takes_every_seed: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._seeds: tuple[Input, ...] = ()
        self._stub = _Stub()
        self._client = Client("127.0.0.1:1", self._stub)
        self._manager = CommandTaskManager(
            CommandSettings(work_directory=directory / "work", command=("/bin/true", "{rack_id}"))
        )
        found = self._manager._directory(KEY)
        assert found is not None
        self._task = Path(found)
        self._here: dict[str, Any] = {"boot": "", "namespace": ""}
        self._patches: list[Any] = [
            mock.patch.object(signal, "pidfd_send_signal", return_value=None),
            # A look at every process of the host for each input would be most of the time.
            mock.patch.object(processes, "every_process", return_value=()),
            mock.patch.object(processes, "here", return_value=self._here),
        ]
        for patch in self._patches:
            patch.start()

    def close(self) -> None:
        for patch in self._patches:
            patch.stop()
        self._client.close()
        self._manager.close()

    @property
    def seeds(self) -> Sequence[Input]:
        if not self._seeds:
            self.use(inputs_of(self.name))
        return self._seeds

    def use(self, seeds: Sequence[Input]) -> None:
        """Take the answers apart, and let what was recorded be of this host."""
        self._seeds = tuple(seeds)
        self._golden = {seed.kind: seed.data for seed in self._seeds}
        self._wires = [(s.kind, WireSeed(s.data)) for s in self._seeds if s.kind in _METHODS]
        self._json = [(s.kind, JsonSeed(s.data.strip())) for s in self._seeds if s.kind not in _METHODS]
        self._all_wires = [seed for _, seed in self._wires]
        self._all_json = [seed for _, seed in self._json]
        self._bytes = [seed.data for seed in self._seeds]
        started = json.loads(self._golden["started"])
        self._here |= {"boot": started["boot"], "namespace": started["namespace"]}
        known = wire.GetTasksByIDsResponse.FromString(self._golden["GetTasksByIDs"])
        self._client.known = tuple(TaskId(task.id.id) for task in known.tasks)

    def mutated(self, chance: Random) -> Input:
        match chance.randrange(20):
            case 0:
                return Input(_ERROR, self._an_error(chance))
            case 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8:
                kind, seed = chance.choice(self._wires)
                match chance.randrange(8):
                    case 0:
                        return Input(kind, raw_bytes(chance))
                    case 1 | 2:
                        return Input(kind, changed_bytes(seed.data, chance, self._bytes))
                    case _:
                        return Input(kind, seed.changed(chance, self._all_wires))
            case 9 | 10 | 11 | 12 | 13:
                return Input(DECIDE, _told_anything(chance))
            case _:
                kind, parsed = chance.choice(self._json)
                match chance.randrange(10):
                    case 0:
                        return Input(kind, raw_bytes(chance))
                    case 1 | 2:
                        return Input(kind, changed_bytes(parsed.data, chance, self._bytes))
                    case 3:
                        return Input(kind, in_another_encoding(parsed.data, chance))
                    case _:
                        return Input(kind, parsed.changed(chance, self._all_json, huge=False))

    def _an_error(self, chance: Random) -> bytes:
        method = chance.choice([kind for kind, _ in self._wires])
        code = chance.choice(tuple(grpc.StatusCode)[1:])
        texts = (*TEXTS, "sql: no rows in result set", "failed to create any tasks", "operation run not found: x")
        return json.dumps([method, code.name, chance.choice(texts)]).encode("ascii")

    def _asks(self) -> Mapping[str, Callable[[], Any]]:
        return {**self._client.asks(), **self._client.asks_of_runs(RUN)}

    def value(self, given: Input) -> Any:
        """What it is read to: observations, candidates, runs or a decision."""
        _ = self.seeds
        if given.kind == DECIDE:
            return self._decided(given.data)
        if given.kind in RECORDS:
            return self._looked_at(given)
        return self.asked(given.kind, given.data)

    def asked(self, method: str, data: bytes, error: _Refused | None = None) -> Any:
        """What a client makes of this answer to each call of a method; the others are answered as they were."""
        self._stub.answers = {**self._golden, method: data}
        self._stub.calls, self._stub.error = 0, error
        breaker = self._client.tasks.channel.breaker
        breaker.answered()
        return self._asks()[method]()

    def takes(self, given: Input) -> bool:
        _ = self.seeds
        try:
            if given.kind == DECIDE:
                self._decided(given.data)
                return True
            if given.kind in RECORDS:
                found = self._looked_at(given)
            elif given.kind == _ERROR:
                method, code, text = json.loads(given.data)
                # The library replaces what is no text.
                text = text.encode("utf-8", "replace").decode()
                found = self.asked(method, b"", _Refused(grpc.StatusCode[code], text))
            else:
                found = self.asked(given.kind, given.data)
        except OpdispatchError as error:
            check_rejection(error)
            return False
        for one in found if isinstance(found, list) else ():
            # What a task manager says is kept in a store and shown on a screen.
            text = f"{getattr(one, 'message', '')}{getattr(one, 'task_id', '')}"
            text.encode()
            held("\0" not in text, f"{text!r} cannot be stored")
        return bool(found)

    # -- local commands --

    def _looked_at(self, given: Input) -> list[Observation]:
        """What a manager tells of a task whose records are those of a real one, but for this."""
        self._task.mkdir(parents=True, exist_ok=True)
        for kind, data in {"started": self._golden["started"], given.kind: given.data}.items():
            (self._task / kind).write_bytes(data)
        ref = TaskRef(target_id=TARGET, task_id=TaskId(KEY))
        try:
            found = [*self._manager.observe([ref, claim()], NOW), *self._manager.cancel([ref])]
            try:
                self._manager.output_of(ref.task_id)
            except OpdispatchError as error:
                check_rejection(error)
            # Another task of the same call is looked at as ever.
            sound = TaskRef(target_id=TARGET, task_id=TaskId("no-such-task"))
            missing = TaskMissing(target_id=TARGET, task_id=sound.task_id, looked_at=NOW)
            held(missing in self._manager.observe([ref, sound], NOW), "another task is not told of")
            return found
        finally:
            shutil.rmtree(self._task)

    # -- the core --

    def _decided(self, data: bytes) -> Any:
        """The decision on a state and observations; what must hold of any is checked."""
        try:
            given = json.loads(data)
            record = record_of(int(given["state"]))
            text = json.dumps({"version": 1, "value": given["observations"]})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            # No input of this kind: it is JSON that says which state.
            documents.observations_from("the observations", data.decode("utf-8", "replace"))
            return None
        observations = documents.observations_from("the observations", text)
        state = window(record, observations=observations, limits=Limits(), now=b.NOW)
        decision = decide(state)
        held(decide(state) == decision, "the same state was decided otherwise")
        named = {observation.target_id for observation in observations}
        for step in decision.steps:
            action = step.action
            if isinstance(action, TargetAction) and action.target_id not in named:
                before = record.targets[action.target_id]
                stays = isinstance(action, NoteTarget) and action.message == before.message
                held(stays or isinstance(action, ClaimTarget), f"a target that nobody named is changed: {action}")
        after = evolve(record, decision)
        following = decide(window(after, observations=(), limits=Limits(), now=b.NOW))
        evolve(after, following)
        return decision


def _told_anything(chance: Random) -> bytes:
    """A state and observations, whatever they name."""
    told = []
    for _ in range(chance.randint(1, 4)):
        target = chance.choice((*(str(b.target_id(number)) for number in range(6)), str(UUID(int=5))))
        task = chance.choice((*(f"task-{number}" for number in range(6)), "task-50", "task-51", "", "x" * 300))
        claimed = {
            "attempt": chance.choice((0, 1, 1, 1, 2, *INTEGERS[-6:])),
            "fence": chance.choice((0, 1, 1, 1, 2, *INTEGERS[-6:])),
        }
        message, at = chance.choice(TEXTS), chance.choice(_EXTREMES)
        kind = chance.choice(tuple(documents.OBSERVATIONS))
        fields: dict[str, Any] = {"kind": kind, "target_id": target}
        if kind.startswith("submission"):
            fields |= claimed
        if kind in ("task_observed", "task_missing", "submission_accepted", "cancellation_refused"):
            fields["task_id"] = task
        if kind in ("task_observed", "task_missing", "submission_absent"):
            fields["looked_at"] = at
        if kind == "task_observed":
            fields["status"] = chance.choice(tuple(TaskStatus)).value
        if kind == "submission_absent":
            fields["barred"] = chance.random() < 0.5
        if kind not in ("task_missing", "submission_accepted", "submission_absent"):
            fields["message"] = message
        told += [fields] * chance.choice((1, 1, 1, 2))
    return json.dumps({"state": chance.randrange(1_000_000), "observations": told}).encode("ascii")


def recorded_decisions() -> list[bytes]:
    """Observations of each kind, on states of several kinds."""
    chance = Random(2026)
    return [_told_anything(chance) for _ in range(8)]
