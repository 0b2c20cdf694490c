"""The service and the stand-in as programs: a run over the wire from end to end, killed, stopped and asked twice."""

from __future__ import annotations

import ctypes
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from tests.integration.cli_kit import REPOSITORY, environment
from tests.integration.waiting import eventually

LEONARDO: Final = REPOSITORY / "examples" / "inventory" / "leonardo"
TYPES: Final = ("--component-type", "compute=Compute", "--component-type", "switch=NVSwitch")
SHORT: Final = ("--poll", "0.3s", "--call-deadline", "1s", "--claim-lease", "3s")
PATIENCE: Final = 90.0


def _program(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "opdispatch_adapters.cli", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def _run(*arguments: str, code: int = 0) -> str:
    process = _program(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, f"{arguments}: {process.returncode}\n{out}\n{err}"
    return out + err


class Programs:
    """A stand-in and a service, each of which can be killed and started again where it was."""

    def __init__(self, path: Path, *standin: str, store: str | None = None) -> None:
        self.path = path
        self.store = str(path / "runs.db") if store is None else store
        self.state = path / "state.jsonl"
        self._standin_options = standin
        self._standin_address = "127.0.0.1:0"
        self.address = "127.0.0.1:0"
        self._running: list[subprocess.Popen[str]] = []
        _run("--store", self.store, "store", "migrate")

    def start_standin(self) -> subprocess.Popen[str]:
        options = ("--inventory", str(LEONARDO), *TYPES, "--state", str(self.state), *self._standin_options)
        process = _program("flow-standin", "--listen", self._standin_address, *options)
        self._running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"on (\S+:\d+),", line)
        assert found is not None, line + (process.stderr.read() if process.stderr else "")
        self._standin_address = found[1]
        return process

    def start_service(self, *options: str) -> subprocess.Popen[str]:
        process = _program(
            *("--store", self.store, "serve", "--listen", self.address, "--flow", self._standin_address),
            *SHORT,
            *options,
        )
        self._running.append(process)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"serving .* on (\S+:\d+) as", line)
            if found is not None:
                self.address = found[1]
                return process
        raise AssertionError("".join(said))

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @contextmanager
    def stub(self) -> Iterator[flow_pb2_grpc.FlowStub]:
        with grpc.insecure_channel(self.address, (("grpc.max_reconnect_backoff_ms", 200),)) as channel:
            yield flow_pb2_grpc.FlowStub(channel)

    def has_made(self, count: int) -> bool:
        """True once so many tasks were made."""
        return self.state.exists() and sum(self.made().values()) >= count

    def made(self) -> Counter[str]:
        """How many tasks were ever made for each key, from the stand-in's own record."""
        lines = [json.loads(line) for line in self.state.read_text().splitlines()]
        return Counter(line["description"] for line in lines if line["what"] == "made")


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Any]:
    made: list[Programs] = []

    def make(*standin: str, store: str | None = None) -> Programs:
        made.append(Programs(tmp_path, *standin, store=store))
        return made[-1]

    yield make
    for one in made:
        one.close()


ROLLOUT: Final = """\
name = "firmware"
inventory = "{inventory}"
max_concurrent_targets = 30

[operation]
type = "firmware_control"
code = "upgrade"
payload = {{ target_version = "2.4.1" }}

[phases]
kind = "count"
counts = [2, 20]
auto_advance = false

[[gates]]
kind = "failure_count"
threshold_count = 3
scope = "cumulative_run"

[conflict]
window = "5m"
initial_delay = "0.2s"
max_delay = "1s"
"""


def _rollout(path: Path) -> str:
    text = ROLLOUT.format(inventory=LEONARDO)
    file = path / "rollout.toml"
    file.write_text(text)
    return str(file)


def test_a_run_goes_through_its_phases_though_both_are_killed(programs: Any, tmp_path: Path) -> None:
    site = programs("--duration", "0.3s", "--fail-share", "0.05", "--seed", "7")
    standin, service = site.start_standin(), site.start_service()
    server = ("--server", site.address)
    with grpc.insecure_channel(site._standin_address) as channel:
        # Other work on some racks: they are busy when the run comes to them.
        flow = flow_pb2_grpc.FlowStub(channel)
        racks = flow.GetListOfRacks(wire.GetListOfRacksRequest(pagination=wire.Pagination(limit=200)))
        for rack in racks.racks[:20]:
            request = wire.BringUpRackRequest(description="somebody else's")
            request.target_spec.racks.targets.add(id=rack.info.id)
            flow.BringUpRack(request)
    said = _run(*server, "create", _rollout(tmp_path))
    run_id = re.search(r"[0-9a-f-]{36}", said)
    assert run_id is not None
    _run(*server, "create", _rollout(tmp_path))

    watched = _run(*server, "show", run_id[0], "--watch", "--heartbeat", "1s")
    assert "waiting for phase advance" in watched
    _run(*server, "advance", run_id[0], "--expect", "1")
    eventually(lambda: len(site.made()), until=lambda n: n > 8, what="work of the second phase")
    for process in (standin, service):
        process.kill()
        process.wait()
    site.start_standin()
    site.start_service()
    _go_on_to_the_end(server, run_id[0])

    shown = _run(*server, "show", run_id[0])
    assert "completed_with_failures" in shown
    made = site.made()
    ours = {key: count for key, count in made.items() if run_id[0] in key}
    assert len(ours) == 138
    assert set(ours.values()) == {1}


def _go_on_to_the_end(server: Sequence[str], run_id: str) -> None:
    """What an operator does: accept what failed, open the next phase, until the run has ended."""
    for _ in range(20):
        said = _run(*server, "show", run_id, "--watch", "--heartbeat", "1s")
        if "completed_with_failures" in said:
            return
        accept = re.search(r"resume \S+ --accept-failures (\d+)", said)
        if accept is not None:
            _run(*server, "resume", run_id, "--accept-failures", accept[1])
        elif "advance" in said:
            expected = re.search(r"advance \S+ --expect (\d+)", said)
            assert expected is not None, said
            _run(*server, "advance", run_id, "--expect", expected[1])
    raise AssertionError("the run does not end")


def _create(stub: flow_pb2_grpc.FlowStub, racks: int, concurrency: int = 10) -> wire.UUID:
    request = wire.CreateOperationRunRequest(name="racks")
    configuration = request.configuration
    configuration.selector.percentage.percentage = max(racks * 100 // 138, 1)
    configuration.selector.percentage.seed = "s"
    configuration.options.max_concurrent_targets = concurrency
    configuration.options.safety_policy.gates.add().failure_count.failure_threshold_count = 1000
    configuration.operation.upgrade_firmware.target_version = "1"
    return stub.CreateOperationRun(request, wait_for_ready=True, timeout=PATIENCE).id


def _run_of(stub: flow_pb2_grpc.FlowStub, run: wire.UUID) -> wire.OperationRun:
    request = wire.GetOperationRunRequest(id=run, include_stats=True)
    return stub.GetOperationRun(request, wait_for_ready=True, timeout=PATIENCE).operation_run


def test_a_stop_in_the_middle_ends_well_and_loses_nothing(programs: Any) -> None:
    site = programs("--duration", "0.2s")
    site.start_standin()
    service = site.start_service()
    with site.stub() as stub:
        run = _create(stub, 60)
        for number in (1, 6, 15):
            eventually(partial(site.has_made, number))
            service.terminate()
            assert service.wait(timeout=30) == 0
            service = site.start_service()
        ended = eventually(
            lambda: _run_of(stub, run),
            until=lambda found: found.summary.HasField("finished_at"),
            patience_seconds=PATIENCE,
        )
    counts = ended.stats.cumulative_phase_stats.outcome_counts
    assert (counts.failed, counts.terminated, counts.skipped) == (0, 0, 0)
    assert set(site.made().values()) == {1}


def test_a_signal_that_another_thread_gets_stops_it_too(programs: Any) -> None:
    site = programs("--duration", "0.2s")
    site.start_standin()
    service = site.start_service()
    with site.stub() as stub:
        _create(stub, 3)
    # By then the main thread has nothing to do but wait.
    eventually(partial(site.has_made, 1))
    status = {int(path.parent.name): path.read_text() for path in Path(f"/proc/{service.pid}/task").glob("*/status")}
    bit = 1 << (signal.SIGTERM - 1)
    takers = [
        thread
        for thread, text in status.items()
        if thread != service.pid and not int(text.split("SigBlk:")[1].split()[0], 16) & bit
    ]

    assert ctypes.CDLL(None).tgkill(service.pid, takers[0], signal.SIGTERM) == 0

    assert service.wait(timeout=30) == 0


def _is_claimed(stub: Any, run: wire.UUID) -> bool:
    """Whether a target of the run is claimed and has no answer yet."""
    claimed = wire.OPERATION_RUN_TARGET_STATUS_CLAIMED
    asked = wire.ListOperationRunTargetsRequest(operation_run_id=run, status=claimed)
    return bool(stub.ListOperationRunTargets(asked).total)


def test_a_second_sigterm_does_not_wait(programs: Any, tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "hang"\n')
    site = programs("--duration", "0.2s", "--faults", str(faults))
    standin = site.start_standin()
    service = site.start_service("--call-deadline", "20s", "--claim-lease", "60s", "--grace", "60s")
    with site.stub() as stub:
        run = _create(stub, 3)
        eventually(partial(_is_claimed, stub, run), what="a claim")
    service.send_signal(signal.SIGTERM)
    assert service.stderr is not None
    for line in service.stderr:
        if "stopping" in line:
            break
    service.send_signal(signal.SIGTERM)

    assert service.wait(timeout=10) == 143
    faults.write_text("")
    standin.send_signal(signal.SIGHUP)
    # What was claimed is looked up when its lease is over; a cancel needs to wait for none of that.
    site.start_service()
    with site.stub() as stub:
        told = stub.CancelOperationRun(wire.CancelOperationRunRequest(id=run), wait_for_ready=True, timeout=PATIENCE)
    assert told.summary.state.status == wire.OPERATION_RUN_STATUS_CANCELLED


def test_a_stop_takes_no_longer_than_its_grace_though_flow_hangs(programs: Any, tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "hang"\nmethods = "submissions"\n')
    site = programs("--duration", "0.2s", "--faults", str(faults))
    standin = site.start_standin()
    service = site.start_service("--call-deadline", "60s", "--claim-lease", "180s", "--grace", "2s")
    with site.stub() as stub:
        run = _create(stub, 3)
        eventually(partial(_is_claimed, stub, run), what="a claim")
    service.terminate()

    # Far below the deadline of the calls; the rest is for a busy machine.
    _, said = service.communicate(timeout=25)
    assert service.returncode == 0
    assert "a call to the task manager does not end" in said
    assert "Traceback" not in said
    standin.kill()


def test_replicas_share_a_database_and_one_may_be_killed(programs: Any, postgres_url: str) -> None:
    site = programs("--duration", "0.3s", store=postgres_url)
    site.start_standin()
    first = site.start_service()
    site.address = "127.0.0.1:0"
    site.start_service()
    with site.stub() as stub:
        run = _create(stub, 60)
        eventually(partial(site.has_made, 15))
        first.kill()
        ended = eventually(
            lambda: _run_of(stub, run),
            until=lambda found: found.summary.HasField("finished_at"),
            patience_seconds=PATIENCE,
        )

    counts = ended.stats.cumulative_phase_stats.outcome_counts
    assert (counts.failed, counts.terminated, counts.skipped) == (0, 0, 0)
    assert set(site.made().values()) == {1}


def test_settings_come_from_flags_environment_and_file_and_are_shown(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('flow = "127.0.0.1:7"\nlisten = "127.0.0.1:8"\nthreads = 3\n')
    process = subprocess.run(
        [
            *(sys.executable, "-m", "opdispatch_adapters.cli", "--store", "postgresql://me:hush@db/ops"),
            *("serve", "--config", str(config), "--listen", "127.0.0.1:9", "--print-settings"),
        ],
        env=environment(OPDISPATCH_SERVE_THREADS="4"),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )

    shown = json.loads(process.stdout)
    assert (shown["flow"], shown["listen"], shown["threads"]) == ("127.0.0.1:7", "127.0.0.1:9", 4)
    assert shown["dispatcher"]["poll"] == 10.0
    assert "hush" not in process.stdout


def test_every_setting_can_stand_in_the_file_by_the_name_of_its_flag(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        'store = "file.db"\ntasks = "file-tasks"\ncommands = "file.toml"\npoll = "3s"\nresume-needs-number = true\n'
        'component-type = ["server=Compute"]\nallowed-service-identity = "spiffe://a/file"\n'
    )

    def shown(*words: str, **env: str) -> dict[str, Any]:
        process = subprocess.run(
            [sys.executable, "-m", "opdispatch_adapters.cli", *words, "--config", str(config), "--print-settings"],
            env=environment(**env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        settings: dict[str, Any] = json.loads(process.stdout)
        return settings

    filed = shown("serve")
    stronger = shown("--store", "flag.db", "serve", OPDISPATCH_TASKS="env-tasks")
    identified = shown(
        *("serve", "--commands", "flag.toml"), OPDISPATCH_SERVE_ALLOWED_SERVICE_IDENTITY="spiffe://a/1 spiffe://a/2"
    )

    assert (filed["store"], filed["tasks"]) == (str(tmp_path / "file.db"), str(tmp_path / "file-tasks"))
    assert (filed["commands"], filed["dispatcher"]["poll"]) == ("file.toml", 3.0)
    assert filed["resume_needs_number"] is True
    assert (filed["component_type"], filed["allowed_service_identity"]) == (["server=Compute"], ["spiffe://a/file"])
    assert (stronger["store"], stronger["tasks"]) == (str(tmp_path / "flag.db"), str(tmp_path / "env-tasks"))
    assert (identified["commands"], identified["store"]) == ("flag.toml", str(tmp_path / "file.db"))
    assert identified["allowed_service_identity"] == ["spiffe://a/1", "spiffe://a/2"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--listen", "0.0.0.0:5"), "give certificates, listen on 127.0.0.1, or say --insecure"),
        (("--listen", "127.0.0.1:65536"), "--listen: '127.0.0.1:65536' is no address; give HOST:PORT"),
        (("--listen", "127.0.0.1:-1"), "--listen: '127.0.0.1:-1' is no address"),
        (("--listen", "127.0.0.1:abc"), "--listen: '127.0.0.1:abc' is no address"),
        (("--listen", ":50051"), "--listen: ':50051' is no address"),
        (("--inventory", str(LEONARDO)), "--commands: a run that is created by a call names no program"),
        (("--flow", "nowhere"), "'nowhere' is no address; give HOST:PORT"),
        (("--flow", "10.0.0.1:5"), "10.0.0.1:5 is another host, and there are no certificates"),
        ((), "no racks are named; give --inventory DIRECTORY or --flow HOST:PORT"),
        (("--flow", "127.0.0.1:5", "--component-type", "x"), "'x' maps nothing"),
        (("--flow", "127.0.0.1:5", "--component-type", "x=Lamp"), "'Lamp' is no component type of Flow"),
        (("--ca-cert", "ca.crt"), "only some of the certificates are named"),
        (("--flow", "127.0.0.1:5", "--data-key", "/nowhere/key"), "/nowhere/key: it cannot be read"),
        (("--allowed-service-identity", "spiffe://a/b"), "without certificates no caller is told from another"),
        (("--config", "/nowhere/serve.toml"), "/nowhere/serve.toml: it cannot be read"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    store = str(tmp_path / "runs.db")
    _run("--store", store, "store", "migrate")

    assert text in _run("--store", store, "serve", *options, code=2)


def test_a_list_of_identities_that_is_not_utf_8_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listed = str(tmp_path / "runs.db"), tmp_path / "identities"
    listed.write_bytes(b"spiffe://a/b\nspiffe://a/\xe9\n")
    monkeypatch.setenv("FLOW_AUTHORIZATION_ALLOWED_SERVICE_IDENTITIES_FILE", str(listed))
    _run("--store", store, "store", "migrate")

    assert f"{listed}:2: it is not UTF-8: byte 0xe9; save it as UTF-8" in _run("--store", store, "serve", code=2)


def test_a_port_that_is_taken_is_told(programs: Any) -> None:
    site = programs()
    site.start_standin()
    site.start_service()

    said = _run("--store", site.store, "serve", "--listen", site.address, "--flow", site._standin_address, code=75)

    assert f"it cannot listen on {site.address}" in said


def test_what_a_server_has_no_call_for_is_refused(programs: Any, tmp_path: Path) -> None:
    site = programs()
    site.start_standin()
    site.start_service()
    server = ("--server", site.address)
    with site.stub() as stub:
        run_id = _create(stub, 3)
        listing = wire.ListOperationRunTargetsRequest(operation_run_id=run_id)
        run, rack = run_id.id, stub.ListOperationRunTargets(listing).targets[0].id.id

    assert "a server has no call for settle" in _run(
        *server, "settle", run, str(rack), "--as", "skipped", "--reason", "r", code=2
    )
    assert "this command needs the store itself" in _run(*server, "worker", code=2)
    assert "was not found" in _run(*server, "show", "nothing", code=2)
    other = ROLLOUT.format(inventory=LEONARDO)
    file = tmp_path / "other.toml"
    file.write_text(other.replace("target_version", "version"))
    assert "a firmware upgrade has no such key" in _run(*server, "create", str(file), code=2)
