"""Hypothesis strategies of STUN messages: every attribute, every value it can carry."""

from __future__ import annotations

from amount import examples
from hypothesis import strategies as st

from iceagent.core import stun
from iceagent.core.address import make_address
from iceagent.core.stun.attributes import Attribute
from iceagent.core.stun.registry import DECODERS

DETERMINISTIC = examples(300, 60, derandomize=True, deadline=None, database=None)
CLOSING = (0x0008, 0x001C, 0x8028)  # MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256, FINGERPRINT

keys = st.binary(min_size=1, max_size=32)
transaction_ids = st.binary(min_size=12, max_size=12)
addresses = st.builds(make_address, st.ip_addresses().map(str), st.integers(0, 65535))


def text(characters: int, max_bytes: int) -> st.SearchStrategy[str]:
    """Return text of at most so many characters and bytes."""
    return st.text(max_size=characters).filter(lambda value: len(value.encode()) <= max_bytes)


def uints(bits: int) -> st.SearchStrategy[int]:
    """Return unsigned numbers of so many bits."""
    return st.integers(0, 2**bits - 1)


codes = st.integers(300, 699)
reasons = text(127, 509)
algorithms = st.builds(stun.Algorithm, uints(16), st.binary(max_size=9))

ATTRIBUTES: dict[type[Attribute], st.SearchStrategy[Attribute]] = {
    **{
        kind: st.builds(kind, addresses)
        for kind in (
            *(stun.MappedAddress, stun.XorMappedAddress, stun.AlternateServer, stun.XorPeerAddress),
            *(stun.XorRelayedAddress, stun.ResponseOrigin, stun.OtherAddress),
        )
    },
    **{kind: st.builds(kind, text(127, 509)) for kind in (stun.Realm, stun.Nonce, stun.Software)},
    **{kind: st.just(kind()) for kind in (stun.UseCandidate, stun.DontFragment)},
    **{kind: st.builds(kind, uints(64)) for kind in (stun.IceControlled, stun.IceControlling)},
    **{kind: st.builds(kind, uints(32)) for kind in (stun.Priority, stun.Nomination, stun.Lifetime)},
    **{kind: st.builds(kind, uints(32)) for kind in (stun.ConnectionId, stun.CacheTimeout)},
    **{kind: st.builds(kind, uints(16)) for kind in (stun.ChannelNumber, stun.ResponsePort)},
    **{
        kind: st.builds(kind, uints(8))
        for kind in (stun.RequestedAddressFamily, stun.AdditionalAddressFamily, stun.RequestedTransport)
    },
    **{kind: st.builds(kind, st.binary(max_size=40)) for kind in (stun.Data, stun.Padding, stun.MobilityTicket)},
    stun.Username: st.builds(stun.Username, text(508, 508)),
    stun.AlternateDomain: st.builds(stun.AlternateDomain, st.from_regex(r"[a-z0-9.-]{0,255}", fullmatch=True)),
    stun.Userhash: st.builds(stun.Userhash, st.binary(min_size=32, max_size=32)),
    stun.ReservationToken: st.builds(stun.ReservationToken, st.binary(min_size=8, max_size=8)),
    stun.PasswordAlgorithm: st.builds(stun.PasswordAlgorithm, algorithms),
    stun.PasswordAlgorithms: st.builds(stun.PasswordAlgorithms, st.lists(algorithms, max_size=4).map(tuple)),
    stun.ErrorCode: st.builds(stun.ErrorCode, codes, reasons),
    stun.AddressErrorCode: st.builds(stun.AddressErrorCode, uints(8), codes, reasons),
    stun.UnknownAttributes: st.builds(stun.UnknownAttributes, st.lists(uints(16), max_size=9).map(tuple)),
    stun.EvenPort: st.builds(stun.EvenPort, st.booleans()),
    stun.ChangeRequest: st.builds(stun.ChangeRequest, st.booleans(), st.booleans()),
    stun.Icmp: st.builds(stun.Icmp, uints(7), uints(9), st.binary(min_size=4, max_size=4)),
}
raw_attributes = st.builds(
    stun.RawAttribute,
    uints(16).filter(lambda kind: kind not in DECODERS and kind not in CLOSING),
    st.binary(max_size=40),
)
attributes = st.one_of(*ATTRIBUTES.values(), raw_attributes)
messages = st.builds(
    stun.Message,
    st.sampled_from(stun.MessageClass),
    st.sampled_from(stun.Method) | uints(12),
    transaction_ids,
    st.lists(attributes, max_size=6).map(tuple),
)
