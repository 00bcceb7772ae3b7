"""What a state machine of the core asks the shell to send."""

from __future__ import annotations

from msgspec import Struct

from iceagent.core.address import TransportAddress


class Transmit(Struct, frozen=True):
    """One datagram: send `data` from the socket bound to `local` to `remote`."""

    local: TransportAddress
    remote: TransportAddress
    data: bytes
