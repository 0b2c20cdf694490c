"""Who may call what: by the exact SPIFFE id in the client's certificate, and a role for each call.

What is not in the table is refused, so a call that is added later is closed until somebody decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, unique
from typing import Final

import attrs
import grpc

from opdispatch.errors import InvalidInput

from .failure import CallFailure

_SPIFFE: Final = "spiffe://"


@unique
class Role(IntEnum):
    """What a caller may do; a higher role may do all that a lower one may."""

    ANYBODY = 0
    READER = 1
    OPERATOR = 2


ROLES: Final[Mapping[str, Role]] = {
    "/v1.Flow/GetOperationRun": Role.READER,
    "/v1.Flow/ListOperationRuns": Role.READER,
    "/v1.Flow/ListOperationRunTargets": Role.READER,
    "/v1.Flow/CreateOperationRun": Role.OPERATOR,
    "/v1.Flow/PauseOperationRun": Role.OPERATOR,
    "/v1.Flow/ResumeOperationRun": Role.OPERATOR,
    "/v1.Flow/AdvanceOperationRunPhase": Role.OPERATOR,
    "/v1.Flow/CancelOperationRun": Role.OPERATOR,
    "/grpc.health.v1.Health/Check": Role.ANYBODY,
    "/grpc.health.v1.Health/List": Role.ANYBODY,
    "/grpc.health.v1.Health/Watch": Role.ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READER,
}
"""The role that each call needs."""


@attrs.frozen(kw_only=True)
class Access:
    """The identities that may call, and their roles.

    Without TLS nobody can be told from anybody else, so ``is_open`` lets everyone in: it is for a server on the
    loopback, or where somebody said in so many words that it may be open.
    """

    roles: Mapping[str, Role] = attrs.field(factory=dict)
    is_open: bool = False

    def check(self, method: str, identity: str | None) -> None:
        """Raises CallFailure: UNAUTHENTICATED without an identity, PERMISSION_DENIED for one that may not call this."""
        needed = ROLES.get(method)
        if needed is Role.ANYBODY or (self.is_open and needed is not None):
            return
        if identity is None and not self.is_open:
            raise CallFailure(grpc.StatusCode.UNAUTHENTICATED, "authenticated service identity is required")
        if needed is None or self.roles.get(identity or "", Role.ANYBODY) < needed:
            raise CallFailure(grpc.StatusCode.PERMISSION_DENIED, "caller is not authorized to invoke Flow")


def roles_from(texts: Iterable[str]) -> Mapping[str, Role]:
    """The roles that lines such as ``spiffe://site/ns/ops/sa/console`` or ``spiffe://site/dashboard=reader`` give; one
    without a role is an operator.  Raises InvalidInput."""
    roles: dict[str, Role] = {}
    for text in texts:
        identity, _, name = text.strip().partition("=")
        known = {role.name.lower(): role for role in Role if role is not Role.ANYBODY}
        if not identity.startswith(_SPIFFE) or identity == _SPIFFE:
            raise InvalidInput.at(
                "--allowed-service-identity", f"{identity!r} is no SPIFFE id", "give spiffe://domain/path"
            )
        if name and name not in known:
            raise InvalidInput.at("--allowed-service-identity", f"{name!r} is no role", f"use {' or '.join(known)}")
        if identity in roles:
            raise InvalidInput.at("--allowed-service-identity", f"{identity} is given twice", "give it once")
        roles[identity] = known[name] if name else Role.OPERATOR
    return roles
