"""STUN: messages as values, and the machines that exchange them. RFC 8489 and the families built upon it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand
from iceagent.core.stun.address_attributes import (
    FAMILY_IPV4,
    FAMILY_IPV6,
    AlternateServer,
    MappedAddress,
    XorMappedAddress,
)
from iceagent.core.stun.attribute import Attribute, RawAttribute
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
from iceagent.core.stun.codec import decode, encode
from iceagent.core.stun.credentials import long_term_key, short_term_key, userhash
from iceagent.core.stun.error_attributes import Code, ErrorCode, UnknownAttributes
from iceagent.core.stun.errors import StunError, StunErrorReason
from iceagent.core.stun.header import MAGIC_COOKIE, MessageClass, Method, attributes_of, looks_like_stun
from iceagent.core.stun.ice_attributes import IceControlled, IceControlling, Nomination, Priority, UseCandidate
from iceagent.core.stun.integrity import Integrity
from iceagent.core.stun.message import Message, binding_indication, binding_request, error, success
from iceagent.core.stun.preparation import opaque_string, saslprep
from iceagent.core.stun.schedule import DEFAULT_SCHEDULE, RetransmissionSchedule
from iceagent.core.stun.template import Template
from iceagent.core.stun.text_attributes import AlternateDomain, Nonce, Realm, Software, Username
from iceagent.core.stun.transaction import ClientTransaction, FailureReason
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
    from iceagent.core.stun.nonce_cookie import SecurityFeature, make_nonce, security_features
    from iceagent.core.stun.rate_limit import RateLimiter
    from iceagent.core.stun.server import BindingLimits, BindingServer
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "behaviour_server": "BehaviourServer Reply",
            "nonce_cookie": "SecurityFeature make_nonce security_features",
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
