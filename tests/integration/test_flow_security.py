"""Who may call the service: certificates, identities, roles, and certificates that are replaced while it serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from opdispatch.errors import InvalidInput, Unavailable
from opdispatch_adapters.dispatcher import Settings
from opdispatch_adapters.flow.certificates import Certificates
from opdispatch_adapters.flow.client import FlowSettings, RemoteRuns
from opdispatch_adapters.flow.client.channel import FlowChannel
from opdispatch_adapters.flow.server import CALLS, ROLES, SERVICE, Access, Role, roles_from
from opdispatch_adapters.flow.server.bounds import MOST_MEMBERS
from opdispatch_adapters.flow.server.health import Health
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.service import LIVENESS, Service, ServiceSettings
from tests.integration.certificates import Authority
from tests.integration.flow_kit import Racks, a_request, candidates
from tests.integration.waiting import eventually

OPERATOR, READER, OTHER = "spiffe://site/console", "spiffe://site/dashboard", "spiffe://site/other"


class NoTasks:
    """A task manager that is never asked for anything here."""

    capacity: int | None = None

    def submit(self, *_: object) -> list[Any]:
        return []

    observe = cancel = submit

    def on_change(self, callback: Callable[..., None]) -> None:
        return


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def _settings(certificates: Certificates | None, **more: Any) -> ServiceSettings:
    access = Access(roles=roles_from([OPERATOR, f"{READER}=reader"]))
    return ServiceSettings(address="127.0.0.1:0", certificates=certificates, access=access, **more)


def _service(settings: ServiceSettings, store: MemoryStore | None = None) -> Service:
    return Service(
        store if store is not None else MemoryStore(),
        NoTasks(),
        Racks(candidates()),
        settings,
        dispatcher=Settings(),
    )


@pytest.fixture
def service(authority: Authority) -> Iterator[Service]:
    with _service(_settings(authority.issue("service"), reflection=True)) as started:
        yield started


def _channel(service: Service, certificates: Certificates | None, ca: Path | None = None) -> grpc.Channel:
    if certificates is None:
        assert ca is not None
        credentials = grpc.ssl_channel_credentials(root_certificates=ca.read_bytes())
    else:
        root, cert, key = certificates.read()
        credentials = grpc.ssl_channel_credentials(ca.read_bytes() if ca is not None else root, key, cert)
    return grpc.secure_channel(service.address, credentials)


def _code(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    found: Any = error.value
    return found.code(), found.details()


LIST: Final = wire.ListOperationRunsRequest()


def test_a_client_without_a_certificate_gets_no_connection(service: Service, authority: Authority) -> None:
    with _channel(service, None, authority.file) as channel:
        code, _ = _code(lambda: flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST, timeout=5))

    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_client_of_another_authority_gets_no_connection(
    service: Service, authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "theirs", "foreign").issue("client", OPERATOR)
    with _channel(service, foreign, authority.file) as channel:
        code, _ = _code(lambda: flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST, timeout=5))

    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_client_without_an_identity_is_not_authenticated(service: Service, authority: Authority) -> None:
    with _channel(service, authority.issue("client")) as channel:
        told = _code(lambda: flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST))

    assert told == (grpc.StatusCode.UNAUTHENTICATED, "authenticated service identity is required")


def test_an_identity_that_is_not_allowed_may_do_nothing(service: Service, authority: Authority) -> None:
    with _channel(service, authority.issue("client", OTHER)) as channel:
        told = _code(lambda: flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST))

    assert told == (grpc.StatusCode.PERMISSION_DENIED, "caller is not authorized to invoke Flow")


def test_a_reader_reads_and_changes_nothing(service: Service, authority: Authority) -> None:
    with _channel(service, authority.issue("client", READER)) as channel:
        stub = flow_pb2_grpc.FlowStub(channel)

        assert stub.ListOperationRuns(LIST).total == 0
        code, _ = _code(lambda: stub.CreateOperationRun(a_request()))

    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert service.store.count() == 0


def test_an_operator_may_do_all_and_is_named_in_the_journal(service: Service, authority: Authority) -> None:
    with _channel(service, authority.issue("client", OPERATOR)) as channel:
        stub = flow_pb2_grpc.FlowStub(channel)
        run = stub.CreateOperationRun(a_request()).id
        paused = stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run), metadata=(("x-actor", "ada"),))

    assert paused.summary.state.status == wire.OPERATION_RUN_STATUS_PAUSED
    (listed,) = service.store.list()
    actors = {entry.actor for entry in service.store.journal(listed.run_id)}
    assert f"ada by {OPERATOR}" in actors


def test_health_and_reflection_are_behind_the_same_door(service: Service, authority: Authority) -> None:
    with _channel(service, authority.issue("client", OTHER)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, LIVENESS):
            told = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert told.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        code, _ = _code(lambda: next(reflection.ServerReflectionInfo(iter([asked]))))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    with _channel(service, authority.issue("client", READER)) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        reply = next(reflection.ServerReflectionInfo(iter([asked])))
    assert SERVICE in {one.name for one in reply.list_services_response.service}


def test_without_being_asked_for_there_is_no_reflection(authority: Authority) -> None:
    with (
        _service(_settings(authority.issue("service"))) as service,
        _channel(service, authority.issue("client", OPERATOR)) as channel,
    ):
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        code, _ = _code(lambda: next(reflection.ServerReflectionInfo(iter([asked]))))

    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_certificates_are_replaced_while_it_serves(
    service: Service, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    client = authority.issue("client", OPERATOR)
    before = x509.load_pem_x509_certificate(authority.path.joinpath("service.crt").read_bytes()).serial_number
    with _channel(service, client) as channel:
        stub = flow_pb2_grpc.FlowStub(channel)
        assert stub.ListOperationRuns(LIST).total == 0
        replaced = authority.issue("service")

        # The old connection goes on, a new one meets the new certificate.
        assert stub.ListOperationRuns(LIST).total == 0
    after = x509.load_pem_x509_certificate(replaced.cert.read_bytes()).serial_number
    caplog.set_level("INFO")
    with _channel(service, client) as channel:
        assert flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST).total == 0
    assert before != after
    assert "the certificates were replaced" in caplog.text


def test_certificates_that_cannot_be_used_leave_the_old_ones(
    service: Service, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    authority.path.joinpath("service.crt").write_text("nothing")

    with _channel(service, authority.issue("client", OPERATOR)) as channel:
        assert flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST).total == 0

    assert "the certificates in use stay" in caplog.text
    assert "service.crt: it holds no certificate" in caplog.text


def test_our_client_presents_its_certificate_and_notices_a_new_one(service: Service, authority: Authority) -> None:
    now = 0.0
    client = authority.issue("client", OTHER)
    channel = FlowChannel(FlowSettings(address=service.address, certificates=client), monotonic=lambda: now)
    remote = RemoteRuns(channel)
    with pytest.raises(InvalidInput, match="caller is not authorized to invoke Flow; present a certificate"):
        remote.count()
    authority.issue("client", OPERATOR)
    now = 60.0

    assert remote.count() == 0
    channel.close()
    with pytest.raises(Unavailable, match="the channel is closed"):
        remote.count()


def test_without_certificates_a_service_must_be_open() -> None:
    with pytest.raises(InvalidInput, match="without TLS no identity can be told"):
        _service(_settings(None)).start()


def test_an_open_service_says_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = ServiceSettings(address="127.0.0.1:0")

    with _service(settings) as service, grpc.insecure_channel(service.address) as channel:
        stub = flow_pb2_grpc.FlowStub(channel)
        assert stub.ListOperationRuns(LIST).total == 0
        # What is in no table is refused even where everybody is let in.
        unknown: Any = channel.unary_unary("/v1.Flow/UpgradeFirmware")
        code, _ = _code(lambda: unknown(b""))

    assert "everybody who reaches it may do everything" in caplog.text
    assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED)


def test_every_call_that_is_served_has_a_role() -> None:
    served = {f"/{SERVICE}/{name}" for name in CALLS}
    described = {
        method.name for method in wire.DESCRIPTOR.services_by_name["Flow"].methods if "OperationRun" in method.name
    }

    assert {method for method in ROLES if method.startswith("/v1.Flow/")} == served
    assert set(CALLS) == described
    assert {method for method, role in ROLES.items() if role is Role.ANYBODY} == {
        f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://site/console", "is no SPIFFE id"),
        ("spiffe://", "is no SPIFFE id"),
        ("spiffe://site/console=king", "'king' is no role"),
    ],
)
def test_an_identity_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        roles_from([text])


def test_an_identity_is_given_once() -> None:
    with pytest.raises(InvalidInput, match="is given twice"):
        roles_from([OPERATOR, f"{OPERATOR}=reader"])


def test_readiness_follows_the_store_and_liveness_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    settings = ServiceSettings(address="127.0.0.1:0", check_every=timedelta(milliseconds=20))
    with _service(settings, store) as service, grpc.insecure_channel(service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        def status(name: str) -> int:
            found: int = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            return found

        def gone(**_: object) -> None:
            raise Unavailable("the store", "it is gone")

        assert status("") == health_pb2.HealthCheckResponse.SERVING
        with monkeypatch.context() as patch:
            patch.setattr(store, "next_due", gone)
            eventually(lambda: status(""), until=lambda found: found == health_pb2.HealthCheckResponse.NOT_SERVING)
            assert status(LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        eventually(lambda: status(""), until=lambda found: found == health_pb2.HealthCheckResponse.SERVING)


def test_who_watches_the_health_holds_up_neither_a_call_nor_a_stop() -> None:
    settings = ServiceSettings(address="127.0.0.1:0", threads=2, check_every=timedelta(hours=1))
    with _service(settings) as service, grpc.insecure_channel(service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watched = [health.Watch(health_pb2.HealthCheckRequest(service=SERVICE)) for _ in range(6)]
        assert {next(one).status for one in watched} == {health_pb2.HealthCheckResponse.SERVING}

        assert flow_pb2_grpc.FlowStub(channel).ListOperationRuns(LIST, timeout=20).total == 0
        began = time.monotonic()
        assert service.stop(timedelta(seconds=60))

        assert time.monotonic() - began < 30
        for one in watched:
            assert [told.status for told in one] == [health_pb2.HealthCheckResponse.NOT_SERVING]
            assert one.code() is grpc.StatusCode.OK


def test_a_watcher_that_comes_while_it_stops_is_told_so_and_let_go() -> None:
    health = Health()
    health.end()

    class Context:
        def add_callback(self, callback: object) -> bool:
            return True

    told = list(health.Watch(health_pb2.HealthCheckRequest(service=""), Context()))

    assert [one.status for one in told] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_service_that_is_started_again_is_ready_again() -> None:
    service = _service(ServiceSettings(address="127.0.0.1:0"))
    for _ in range(2):
        with service, grpc.insecure_channel(service.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE, LIVENESS):
                told = health.Check(health_pb2.HealthCheckRequest(service=name))
                assert told.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stop_that_is_repeated_waits_for_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[timedelta | None] = []
    with _service(ServiceSettings(address="127.0.0.1:0")) as service:
        stop = service.dispatcher.stop

        def does_not_end(timeout: timedelta | None = None) -> bool:
            asked.append(timeout)
            stop(timeout)
            return False

        monkeypatch.setattr(service.dispatcher, "stop", does_not_end)

        assert not service.stop(timedelta(seconds=5))
        assert not service.stop(timedelta(seconds=5))

    assert asked == [timedelta(seconds=5)]


def test_a_request_with_as_many_members_as_are_taken_comes_through() -> None:
    request = a_request()
    # A gate is a member too.
    for number in range(MOST_MEMBERS - 1):
        request.configuration.operation.upgrade_firmware.target_spec.racks.targets.add(name=f"{number:0300d}")
    with (
        _service(ServiceSettings(address="127.0.0.1:0")) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        code, text = _code(lambda: flow_pb2_grpc.FlowStub(channel).CreateOperationRun(request, timeout=60))

    assert code is grpc.StatusCode.NOT_FOUND
    assert "rack target 0" in text
