"""The path a session uses now, as a value that prints as the one line users want to see."""

from __future__ import annotations

from msgspec import Struct

from iceagent.agent import Agent, CandidateType
from iceagent.core.address import TransportAddress


class Path(Struct, frozen=True):
    """How the two sides reach each other now.

    `local` is the address here, before any NAT; `remote` is where datagrams are sent. `rtt_s` is the round trip in
    seconds as the connectivity checks measured it, None before the first answer. `because` is why a path that is not
    direct is not, in words for people.
    """

    direct: bool
    transport: str
    local: TransportAddress
    remote: TransportAddress
    rtt_s: float | None = None
    because: str | None = None

    def same_route(self, other: Path | None) -> bool:
        """Return whether only the round trip time differs."""
        return other is not None and (self.direct, self.transport, self.local, self.remote) == (
            other.direct,
            other.transport,
            other.local,
            other.remote,
        )

    def __str__(self) -> str:
        kind = "direct" if self.direct else "relayed"
        rtt = "" if self.rtt_s is None else f" rtt {format_ms(self.rtt_s)} ms"
        because = f" ({self.because})" if self.because else ""
        return f"{kind} {self.transport} {self.remote}{rtt}{because}"


def path_of(agent: Agent) -> Path | None:
    """Return the path that an agent uses; None while it has none."""
    pair = agent.selected_pair
    if pair is None:
        return None
    is_relayed = CandidateType.RELAY in (pair.local.type, pair.remote.type)
    transport = f"turn-{agent.relay_transport or 'udp'}" if is_relayed else pair.local.transport
    route = (not is_relayed, transport, pair.local.path_base, pair.remote.address)
    return Path(*route, rtt_s=pair.rtt_s, because=agent.relayed_because)


def format_ms(seconds: float) -> str:
    """Return milliseconds with as many digits as mean something: `0.4`, `3.1`, `18`."""
    ms = seconds * 1000
    return f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}"
