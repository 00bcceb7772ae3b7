"""Why an agent is in its state: one typed verdict, its evidence, and what to do about it.

`verdict` has the kinds of verdicts and what each means; `facts` reads an agent; `nats` draws conclusions about NATs.
`judge` looks for causes in this order: this machine, signaling, the network, a connection that was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.explain.judge import explain, relayed_because
    from iceagent.agent.explain.verdict import RelayReason, Verdict, VerdictKind
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "judge": "explain relayed_because",
            "verdict": "RelayReason Verdict VerdictKind",
        },
    )

__all__ = ["RelayReason", "Verdict", "VerdictKind", "explain", "relayed_because"]
