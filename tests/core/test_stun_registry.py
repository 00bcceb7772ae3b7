"""Our constants against the IANA registry "STUN Parameters", transcribed here from its CSV files."""

from __future__ import annotations

import re

from iceagent.core import stun
from iceagent.core.stun import raw
from iceagent.core.stun.auth_attributes import ALGORITHM_MD5, ALGORITHM_SHA256
from iceagent.core.stun.error_attributes import REASONS
from iceagent.core.stun.registry import DECODERS, KNOWN_ATTRIBUTES

IANA_ATTRIBUTES = {
    name: int(value, 16)
    for value, name in re.findall(
        r"^(0x[0-9A-F]{4}) (\S+)$",
        """
0x0001 MAPPED-ADDRESS
0x0003 CHANGE-REQUEST
0x0006 USERNAME
0x0008 MESSAGE-INTEGRITY
0x0009 ERROR-CODE
0x000A UNKNOWN-ATTRIBUTES
0x000C CHANNEL-NUMBER
0x000D LIFETIME
0x0012 XOR-PEER-ADDRESS
0x0013 DATA
0x0014 REALM
0x0015 NONCE
0x0016 XOR-RELAYED-ADDRESS
0x0017 REQUESTED-ADDRESS-FAMILY
0x0018 EVEN-PORT
0x0019 REQUESTED-TRANSPORT
0x001A DONT-FRAGMENT
0x001B ACCESS-TOKEN
0x001C MESSAGE-INTEGRITY-SHA256
0x001D PASSWORD-ALGORITHM
0x001E USERHASH
0x0020 XOR-MAPPED-ADDRESS
0x0022 RESERVATION-TOKEN
0x0024 PRIORITY
0x0025 USE-CANDIDATE
0x0026 PADDING
0x0027 RESPONSE-PORT
0x002A CONNECTION-ID
0x8000 ADDITIONAL-ADDRESS-FAMILY
0x8001 ADDRESS-ERROR-CODE
0x8002 PASSWORD-ALGORITHMS
0x8003 ALTERNATE-DOMAIN
0x8004 ICMP
0x8022 SOFTWARE
0x8023 ALTERNATE-SERVER
0x8025 TRANSACTION_TRANSMIT_COUNTER
0x8027 CACHE-TIMEOUT
0x8028 FINGERPRINT
0x8029 ICE-CONTROLLED
0x802A ICE-CONTROLLING
0x802B RESPONSE-ORIGIN
0x802C OTHER-ADDRESS
0x802D ECN-CHECK
0x802E THIRD-PARTY-AUTHORIZATION
0x8030 MOBILITY-TICKET
""",
        re.MULTILINE,
    )
}
IANA_METHODS = {
    "BINDING": 0x001,
    "ALLOCATE": 0x003,
    "REFRESH": 0x004,
    "SEND": 0x006,
    "DATA": 0x007,
    "CREATE_PERMISSION": 0x008,
    "CHANNEL_BIND": 0x009,
    "CONNECT": 0x00A,
    "CONNECTION_BIND": 0x00B,
    "CONNECTION_ATTEMPT": 0x00C,
}
IANA_CODES = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",  # "Unauthorized" before RFC 8489
    403: "Forbidden",
    405: "Mobility Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    446: "Connection Already Exists",
    447: "Connection Timeout or Failure",
    486: "Allocation Quota Reached",
    487: "Role Conflict",
    500: "Server Error",
    508: "Insufficient Capacity",
}


def registered_name(kind: type[stun.Attribute]) -> str:
    """Return `XOR-MAPPED-ADDRESS` for `XorMappedAddress`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).upper()


def test_attribute_types_are_those_of_the_registry() -> None:
    """A wrong number works between two copies of the same library, and with nobody else."""
    ours = {registered_name(kind): kind.TYPE for kind in KNOWN_ATTRIBUTES}
    assert ours.pop("NOMINATION") == 0xC001  # deployed, never registered
    assert ours == {name: IANA_ATTRIBUTES[name] for name in ours}


def test_closing_attribute_types_are_those_of_the_registry() -> None:
    """These three are no classes: they are computed, not said."""
    assert IANA_ATTRIBUTES["MESSAGE-INTEGRITY"] == raw.MESSAGE_INTEGRITY
    assert IANA_ATTRIBUTES["MESSAGE-INTEGRITY-SHA256"] == raw.MESSAGE_INTEGRITY_SHA256
    assert IANA_ATTRIBUTES["FINGERPRINT"] == raw.FINGERPRINT


def test_every_registered_comprehension_required_attribute_is_known() -> None:
    """All but ACCESS-TOKEN (RFC 7635), which nobody we talk to may send without our having offered it."""
    required = {name for name, value in IANA_ATTRIBUTES.items() if value < 0x8000}
    known = {registered_name(kind) for kind in KNOWN_ATTRIBUTES} | {"MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256"}
    assert required - known == {"ACCESS-TOKEN"}


def test_no_two_attributes_share_a_type() -> None:
    """One would silently read the other's values."""
    assert len(DECODERS) == len(KNOWN_ATTRIBUTES)


def test_methods_are_those_of_the_registry() -> None:
    """As for attributes."""
    assert {method.name: method.value for method in stun.Method} == IANA_METHODS


def test_error_codes_and_their_reasons_are_those_of_the_registry() -> None:
    """The reason is for people, who will search for it."""
    assert {code.value for code in stun.Code} == set(IANA_CODES)
    assert REASONS == IANA_CODES


def test_password_algorithms_are_those_of_the_registry() -> None:
    """RFC 8489 section 18.5."""
    assert (ALGORITHM_MD5, ALGORITHM_SHA256) == (1, 2)


def test_header_constants_are_those_of_the_rfc() -> None:
    """The cookie, and the class bits within the type: 0x0001, 0x0011, 0x0101, 0x0111 for Binding."""
    assert stun.MAGIC_COOKIE == 0x2112A442
    types = [
        stun.encode(stun.Message(message_class, stun.Method.BINDING, bytes(12)))[:2].hex()
        for message_class in stun.MessageClass
    ]
    assert types == ["0001", "0011", "0101", "0111"]
