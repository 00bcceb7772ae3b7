"""Which class reads which attribute type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iceagent.core.stun.attributes import (
    AlternateDomain,
    AlternateServer,
    Attribute,
    IceControlled,
    IceControlling,
    MappedAddress,
    Nomination,
    Nonce,
    Priority,
    Realm,
    Software,
    UseCandidate,
    Username,
    XorMappedAddress,
)
from iceagent.core.stun.auth_attributes import PasswordAlgorithm, PasswordAlgorithms, Userhash
from iceagent.core.stun.behaviour_attributes import (
    CacheTimeout,
    ChangeRequest,
    OtherAddress,
    Padding,
    ResponseOrigin,
    ResponsePort,
)
from iceagent.core.stun.error_attributes import ErrorCode, UnknownAttributes
from iceagent.core.stun.turn_attributes import (
    AdditionalAddressFamily,
    AddressErrorCode,
    ChannelNumber,
    ConnectionId,
    Data,
    DontFragment,
    EvenPort,
    Icmp,
    Lifetime,
    MobilityTicket,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    XorPeerAddress,
    XorRelayedAddress,
)

KNOWN_ATTRIBUTES: Final[tuple[type[Attribute], ...]] = (
    *(MappedAddress, XorMappedAddress, AlternateServer, AlternateDomain),
    *(Username, Realm, Nonce, Software, Userhash, PasswordAlgorithm, PasswordAlgorithms),
    *(ErrorCode, UnknownAttributes),
    *(Priority, UseCandidate, IceControlled, IceControlling, Nomination),
    *(ChannelNumber, Lifetime, XorPeerAddress, Data, XorRelayedAddress, RequestedAddressFamily),
    *(AdditionalAddressFamily, AddressErrorCode, EvenPort, RequestedTransport, DontFragment),
    *(ReservationToken, Icmp, ConnectionId, MobilityTicket),
    *(ChangeRequest, ResponseOrigin, OtherAddress, Padding, ResponsePort, CacheTimeout),
)

DECODERS: Final[dict[int, Callable[[bytes, bytes], Attribute]]] = {
    kind.TYPE: kind.decode_value for kind in KNOWN_ATTRIBUTES
}
