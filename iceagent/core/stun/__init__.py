"""STUN: messages as values, and the machines that exchange them. RFC 8489 and the families built upon it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand
from iceagent.core.stun.attributes import (
    FAMILY_IPV4,
    FAMILY_IPV6,
    AlternateDomain,
    AlternateServer,
    Attribute,
    IceControlled,
    IceControlling,
    MappedAddress,
    Nomination,
    Nonce,
    Priority,
    RawAttribute,
    Realm,
    Software,
    UseCandidate,
    Username,
    XorMappedAddress,
)
from iceagent.core.stun.auth_attributes import (
    MD5,
    SHA256,
    Algorithm,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Userhash,
)
from iceagent.core.stun.behaviour_attributes import (
    CacheTimeout,
    ChangeRequest,
    OtherAddress,
    Padding,
    ResponseOrigin,
    ResponsePort,
)
from iceagent.core.stun.client import Response, StunClient, TimedOut
from iceagent.core.stun.credentials import (
    SecurityFeature,
    long_term_key,
    make_nonce,
    opaque_string,
    saslprep,
    security_features,
    short_term_key,
    userhash,
)
from iceagent.core.stun.error_attributes import Code, ErrorCode, UnknownAttributes
from iceagent.core.stun.errors import StunError, StunErrorReason
from iceagent.core.stun.header import MAGIC_COOKIE, MessageClass, Method, attributes_of, looks_like_stun
from iceagent.core.stun.integrity import Integrity
from iceagent.core.stun.message import (
    Message,
    Template,
    binding_indication,
    binding_request,
    decode,
    encode,
    error,
    success,
)
from iceagent.core.stun.transaction import DEFAULT_SCHEDULE, ClientTransaction, FailureReason, RetransmissionSchedule
from iceagent.core.stun.turn_attributes import (
    TRANSPORT_TCP,
    TRANSPORT_UDP,
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

if TYPE_CHECKING:
    from iceagent.core.stun.behaviour_server import BehaviourServer, Reply
    from iceagent.core.stun.rate_limit import RateLimiter
    from iceagent.core.stun.server import BindingLimits, BindingServer
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "behaviour_server": "BehaviourServer Reply",
            "rate_limit": "RateLimiter",
            "server": "BindingLimits BindingServer",
        },
    )

__all__ = [
    "DEFAULT_SCHEDULE",
    "FAMILY_IPV4",
    "FAMILY_IPV6",
    "MAGIC_COOKIE",
    "MD5",
    "SHA256",
    "TRANSPORT_TCP",
    "TRANSPORT_UDP",
    "AdditionalAddressFamily",
    "AddressErrorCode",
    "Algorithm",
    "AlternateDomain",
    "AlternateServer",
    "Attribute",
    "BehaviourServer",
    "BindingLimits",
    "BindingServer",
    "CacheTimeout",
    "ChangeRequest",
    "ChannelNumber",
    "ClientTransaction",
    "Code",
    "ConnectionId",
    "Data",
    "DontFragment",
    "ErrorCode",
    "EvenPort",
    "FailureReason",
    "IceControlled",
    "IceControlling",
    "Icmp",
    "Integrity",
    "Lifetime",
    "MappedAddress",
    "Message",
    "MessageClass",
    "Method",
    "MobilityTicket",
    "Nomination",
    "Nonce",
    "OtherAddress",
    "Padding",
    "PasswordAlgorithm",
    "PasswordAlgorithms",
    "Priority",
    "RateLimiter",
    "RawAttribute",
    "Realm",
    "Reply",
    "RequestedAddressFamily",
    "RequestedTransport",
    "ReservationToken",
    "Response",
    "ResponseOrigin",
    "ResponsePort",
    "RetransmissionSchedule",
    "SecurityFeature",
    "Software",
    "StunClient",
    "StunError",
    "StunErrorReason",
    "Template",
    "TimedOut",
    "UnknownAttributes",
    "UseCandidate",
    "Userhash",
    "Username",
    "XorMappedAddress",
    "XorPeerAddress",
    "XorRelayedAddress",
    "attributes_of",
    "binding_indication",
    "binding_request",
    "decode",
    "encode",
    "error",
    "long_term_key",
    "looks_like_stun",
    "make_nonce",
    "opaque_string",
    "saslprep",
    "security_features",
    "short_term_key",
    "success",
    "userhash",
]
