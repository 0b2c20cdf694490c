"""The component types of an inventory and those of Flow.

To the core a type is opaque text; Flow has six.  Which of them each text of an inventory is, is said here and nowhere
else; a text that nobody mapped is refused when a run is planned, not when its tasks are begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opdispatch.errors import InvalidInput

from .enums import COMPONENT_TYPES


class ComponentTypes:
    """Types of an inventory to types of Flow; several of the former may be one of the latter.

    Flow's own texts stand for themselves, in any case, unless they are mapped to something else.  Raises InvalidInput
    for a mapping to what is no type of Flow.
    """

    def __init__(self, mapped: Mapping[str, str] | None = None) -> None:
        known = {text.lower(): text for text in COMPONENT_TYPES.values()}
        self._flow: dict[str, str] = {}
        for ours, flow in (mapped or {}).items():
            if flow.lower() not in known:
                raise InvalidInput.at(
                    f"component_types[{ours!r}]",
                    f"{flow!r} is no component type of Flow",
                    f"use one of {', '.join(COMPONENT_TYPES.values())}",
                )
            self._flow[ours] = known[flow.lower()]
        self._known: Final = known

    def flow_type(self, ours: str) -> str:
        """The type of Flow that one of the inventory is.  Raises InvalidInput for one that nobody mapped."""
        found = self._flow.get(ours, self._known.get(ours.lower()))
        if found is None:
            raise InvalidInput.at(
                "inventory",
                f"the component type {ours!r} stands for none of Flow's",
                f"map it to one of {', '.join(COMPONENT_TYPES.values())}",
            )
        return found

    def types_of(self, flow: str) -> tuple[str, ...]:
        """The types of the inventory that one of Flow stands for: itself, and those that are mapped to it."""
        mapped = (ours for ours, text in self._flow.items() if text == flow)
        own = () if self._flow.get(flow, flow) != flow else (flow,)
        return tuple(dict.fromkeys((*own, *mapped)))
