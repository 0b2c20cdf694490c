"""URLs of stores that were typed wrong: refused, and never shown with what may be a password."""

from __future__ import annotations

import pytest

from opdispatch.errors import InvalidInput
from opdispatch_adapters.sql.postgres.settings import shown, url_of
from opdispatch_adapters.sql.sqlite.engine import file_of

SECRET = "hunter2"


@pytest.mark.parametrize(
    "source",
    [
        f"postgresql://ada:p@{SECRET}@host/runs",
        f"postgresql://ada:12/{SECRET}@host/runs",
        f"postgresql://ada:12?{SECRET}@host/runs",
        f"postgresql://ada:{SECRET}@host:port/runs",
        f"postgresql://ada:{SECRET}@host",
    ],
)
def test_a_password_that_ends_too_early_is_not_shown_as_something_else(source: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        url_of(source)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("postgresql://ada:p%40ss%2F@host/runs", "host"),
        ("postgresql://host/runs?user=ada@realm", "host"),
        ("postgresql://host:5432/runs", "host"),
        ("postgresql:///runs?host=/run/postgresql", None),
    ],
)
def test_an_at_that_belongs_there_is_taken(source: str, host: str | None) -> None:
    assert url_of(source)[0].host == host


@pytest.mark.parametrize("name", ["password", "sslpassword", "oauth_client_secret"])
def test_no_secret_of_a_query_is_shown(name: str) -> None:
    url, _ = url_of(f"postgresql://ada:{SECRET}@host/runs?sslmode=require&{name}={SECRET}")

    assert shown(url) == "postgresql://ada:***@host/runs?sslmode=require"


@pytest.mark.parametrize("source", [f"mysql://ada:{SECRET}@host:port/runs", f"a b://ada:{SECRET}@host"])
def test_what_is_no_url_at_all_is_not_repeated(source: str) -> None:
    with pytest.raises(InvalidInput, match="it is not a URL") as refused:
        file_of(source)

    assert SECRET not in str(refused.value)
