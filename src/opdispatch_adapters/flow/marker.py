"""The idempotency key of a submission, put where Flow keeps free text and gives it back unchanged.

Flow's wire has no key, but a task keeps the description of its submitter (flow-grpc, 6.9).  The marker is its end; what
an operator wrote is before it.
"""

from __future__ import annotations

from opdispatch.identity import IdempotencyKey


def marked(description: str, key: IdempotencyKey) -> str:
    """A description that ends in the marker of a key."""
    marker = _marker(key)
    return f"{description} {marker}" if description else marker


def is_marked(description: str, key: IdempotencyKey) -> bool:
    """True for a description that ends in the marker of this key."""
    return description.endswith(_marker(key))


def _marker(key: IdempotencyKey) -> str:
    return f"[opdispatch {key}]"
