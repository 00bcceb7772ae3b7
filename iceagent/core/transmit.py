"""What a state machine of the core asks the shell to send."""

from __future__ import annotations

from dataclasses import dataclass

from iceagent.core.address import TransportAddress


@dataclass(frozen=True, slots=True)
class Transmit:
    """One datagram: send `data` from the socket bound to `local` to `remote`."""

    local: TransportAddress
    remote: TransportAddress
    data: bytes
