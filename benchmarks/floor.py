"""The floor: what the database itself needs to change as many rows in as many commits as a cycle must.

A bare table and two bulk statements: one commit that touches every target that ends and every one that is claimed, and
one for the results of the submissions.  Its rows are as wide as those of the reference (some 200 bytes), because the
server writes a new version of a whole row.  Nothing is read, decided or explained, there is no index but the key, no
page is left half empty, and nothing is journalled; no store that keeps its promises can be as fast.
"""

from __future__ import annotations

import time
from typing import Final

import psycopg

from benchmarks.contender import Contender

_REST: Final = "-" * 150
"""What a row holds besides, and no tick changes: whose target it is, and of what."""
_UPDATE: Final = """
    UPDATE bare SET status = new.status, n = new.n
    FROM unnest(%s::integer[], %s::text[], %s::bigint[]) AS new (id, status, n)
    WHERE bare.id = new.id
"""


class Floor(Contender):
    """The bare table in a database of its own."""

    def __init__(self, url: str, size: int, concurrency: int) -> None:
        super().__init__(size, concurrency)
        self._connection = psycopg.connect(url)
        self._count = 0
        with self._connection.transaction():
            self._connection.execute("CREATE TABLE bare (id integer PRIMARY KEY, status text, n bigint, rest text)")

    def refill(self) -> None:
        with self._connection.transaction():
            self._connection.execute("TRUNCATE bare")
            self._connection.execute(
                "INSERT INTO bare SELECT id, 'pending', 0, %s FROM generate_series(0, %s) AS id", (_REST, self.size - 1)
            )
        self._connection.commit()
        self._connection.autocommit = True
        self._connection.execute("VACUUM ANALYZE bare")
        self._connection.autocommit = False

    def tick(self, completes: int, claims: int) -> float:
        ended = range(self._completed, self._completed + completes)
        claimed = range(self._claimed, self._claimed + claims)
        began = time.perf_counter()
        self._write([*ended, *claimed], ["completed"] * completes + ["claimed"] * claims)
        if claims:
            self._write([*claimed], ["submitted"] * claims)
        return time.perf_counter() - began

    def _write(self, ids: list[int], statuses: list[str]) -> None:
        self._count += 1
        self._connection.execute(_UPDATE, (ids, statuses, [self._count] * len(ids)))
        self._connection.commit()

    def standing(self) -> tuple[int, int]:
        counted: dict[str, int] = dict(
            self._connection.execute("SELECT status, count(*) FROM bare GROUP BY status").fetchall()
        )
        self._connection.commit()
        return counted.get("completed", 0), counted.get("submitted", 0)

    def close(self) -> None:
        """Give the connection up."""
        self._connection.close()
