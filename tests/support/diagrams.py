"""State diagrams in Mermaid, drawn from the transition tables; `python tests/support/diagrams.py` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from iceagent.core.ice import AGENT_TRANSITIONS, PAIR_TRANSITIONS

S = TypeVar("S", bound=Enum)


def draw(table: Mapping[S, frozenset[S]]) -> str:
    """Return a Mermaid state diagram: the first state is where one begins, states without an exit are the end."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {_name(next(iter(table)))}"]
    order = list(table)
    for state, following in table.items():
        lines += [f"    {_name(state)} --> {_name(other)}" for other in sorted(following, key=order.index)]
        if not following:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join([*lines, "```"])


def _name(state: Enum) -> str:
    return state.name


DIAGRAMS = {"agent": draw(AGENT_TRANSITIONS), "pair": draw(PAIR_TRANSITIONS)}

if __name__ == "__main__":
    for diagram in DIAGRAMS.values():
        print(diagram, end="\n\n")
