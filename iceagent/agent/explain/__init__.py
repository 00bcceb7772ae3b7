"""Why an agent is where it is: one typed verdict, its evidence, and what to do about it.

`verdict` has the kinds of verdicts and what each means; `facts` reads an agent; `nats` draws conclusions on NATs; the
causes are asked in the order of `judge`: what is here, what signaling brought, what the network does, what was lost.
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
