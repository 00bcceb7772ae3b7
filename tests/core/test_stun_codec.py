"""The codec's edges: limits, padding, unknown attributes, what is refused and why."""

from __future__ import annotations

import pytest

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_MAX_ATTRIBUTES
from iceagent.core.stun.message import MAX_BODY

ID = bytes(range(12))
V4 = TransportAddress("192.0.2.1", 3478)


def raw_message(*attributes: tuple[int, bytes], kind: int = 0x0001) -> bytes:
    """Return a message with attributes written by hand, padded with zeros."""
    body = b"".join(
        number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + ID + body


def refusal(data: bytes) -> stun.StunErrorReason:
    """Return why `data` is refused."""
    with pytest.raises(stun.StunError) as refused:
        stun.decode(data)
    assert refused.value.text
    return refused.value.reason


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 19, b"\x40" + raw_message()[1:], raw_message()[:4] + b"\x21\x12\xa4\x43" + ID, b"\x80" * 40],
)
def test_what_is_not_stun_is_refused_as_such(data: bytes) -> None:
    """Media, QUIC and RFC 3489 messages share the socket; they are not malformed STUN."""
    assert not stun.looks_like_stun(data)
    assert refusal(data) is stun.StunErrorReason.NOT_STUN


@pytest.mark.parametrize("length", [1, 2, 3, 4, 0xFFFC])
def test_a_length_that_does_not_fit_is_refused(length: int) -> None:
    """A datagram holds one message exactly."""
    data = raw_message()
    assert refusal(data[:2] + length.to_bytes(2, "big") + data[4:]) is stun.StunErrorReason.LENGTH


def test_an_attribute_that_reaches_past_the_end_is_refused() -> None:
    """Before and after MESSAGE-INTEGRITY alike."""
    data = raw_message((0x8022, b"abcd"))
    too_long = data[:22] + b"\x00\x05" + data[24:]
    assert refusal(too_long) is stun.StunErrorReason.TRUNCATED_ATTRIBUTE
    data = raw_message((0x0008, bytes(20)), (0x8022, b"abcd"))
    assert refusal(data[:-6] + b"\xff\xff" + data[-4:]) is stun.StunErrorReason.TRUNCATED_ATTRIBUTE


def test_the_number_of_attributes_is_bounded() -> None:
    """64 KiB of empty attributes would be 16,000 objects."""
    assert len(stun.decode(raw_message(*[(0xFFFF, b"")] * STUN_MAX_ATTRIBUTES)).attributes) == STUN_MAX_ATTRIBUTES
    flood = raw_message(*[(0xFFFF, b"")] * (STUN_MAX_ATTRIBUTES + 1))
    assert refusal(flood) is stun.StunErrorReason.TOO_MANY_ATTRIBUTES


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0x0001, b"\x00\x01\x00\x00\x7f\x00\x00"),  # MAPPED-ADDRESS cut off
        (0x0001, b"\x00\x02\x00\x00\x7f\x00\x00\x01"),  # IPv6 in four bytes
        (0x0020, b"\x00\x03" + bytes(6)),  # a family nobody knows
        (0x0020, b"\x00\x01" + bytes(18)),
        (0x0006, b"\xff"),  # not UTF-8
        (0x0006, b"a" * 509),
        (0x0014, b"a" * 764),
        (0x8022, b"\xed\xa0\x80"),  # a surrogate
        (0x8003, "b\u00fccher.example".encode()),
        (0x0009, b"\x00\x00\x04"),
        (0x0009, b"\x00\x00\x02\x00"),  # class 2
        (0x0009, b"\x00\x00\x07\x00"),
        (0x0009, b"\x00\x00\x04\x64"),  # number 100
        (0x0009, b"\x00\x00\x04\x00\xff"),
        (0x000A, b"\x00\x01\x00"),
        (0x0024, b"\x00\x00\x00"),
        (0x0025, b"\x00"),
        (0x8029, bytes(7)),
        (0x001E, bytes(31)),
        (0x001D, b"\x00\x01\x00\x04\x00"),
        (0x001D, b""),
        (0x001D, b"\x00\x01\x00\x00\x00\x02\x00\x00"),
        (0x8002, b"\x00\x01\x00"),
        (0x8002, b"\x00\x01\x00\x00" * 17),
        (0x000C, bytes(2)),
        (0x0018, b""),
        (0x0022, bytes(7)),
        (0x8001, bytes(3)),
        (0x8004, bytes(7)),
        (0x0003, bytes(3)),
        (0x0027, bytes(3)),
    ],
)
def test_a_malformed_value_is_refused(kind: int, value: bytes) -> None:
    """Each attribute guards its own form."""
    assert refusal(raw_message((kind, value))) is stun.StunErrorReason.BAD_ATTRIBUTE


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ((0x0008, bytes(19)), stun.StunErrorReason.BAD_INTEGRITY_LENGTH),
        ((0x001C, bytes(12)), stun.StunErrorReason.BAD_INTEGRITY_LENGTH),
        ((0x001C, bytes(18)), stun.StunErrorReason.BAD_INTEGRITY_LENGTH),
        ((0x001C, bytes(36)), stun.StunErrorReason.BAD_INTEGRITY_LENGTH),
        ((0x8028, bytes(5)), stun.StunErrorReason.BAD_FINGERPRINT_LENGTH),
    ],
)
def test_closing_attributes_of_a_wrong_length_are_refused(
    attribute: tuple[int, bytes], reason: stun.StunErrorReason
) -> None:
    """An HMAC cut to nothing would match every message."""
    assert refusal(raw_message(attribute)) is reason


def test_nothing_follows_the_fingerprint() -> None:
    """RFC 8489 section 14.7: it is the last attribute."""
    assert refusal(raw_message((0x8028, bytes(4)), (0x8022, b""))) is stun.StunErrorReason.AFTER_FINGERPRINT


@pytest.mark.parametrize(
    "attribute",
    [
        stun.Username("a" * 509),
        stun.Username("\u00e9" * 255),
        stun.Realm("a" * 128),
        stun.Nonce("\U0001f512" * 128),
        stun.Software("\ud800"),
        stun.AlternateDomain("a" * 256),
        stun.AlternateDomain("b\u00fccher.example"),
        stun.ErrorCode(299),
        stun.ErrorCode(700),
        stun.ErrorCode(400, "a" * 128),
        stun.AddressErrorCode(256, 440),
        stun.Priority(2**32),
        stun.Priority(-1),
        stun.IceControlling(2**64),
        stun.ChannelNumber(65536),
        stun.Userhash(bytes(31)),
        stun.ReservationToken(bytes(9)),
        stun.UnknownAttributes((65536,)),
        stun.Icmp(128, 0),
        stun.Icmp(0, 512),
        stun.ResponsePort(65536),
        stun.XorMappedAddress(TransportAddress("not-an-address", 1)),
        stun.MappedAddress(TransportAddress("192.0.2.1", 65536)),
        stun.XorMappedAddress(TransportAddress("2001:db8::1", 65536)),
        stun.PasswordAlgorithms((stun.MD5,) * 17),
        stun.RawAttribute(65536, b""),
        stun.Data(bytes(65536)),
    ],
)
def test_what_cannot_be_written_is_a_value_error(attribute: stun.Attribute) -> None:
    """The caller's mistake, found where it is made and not at the peer's."""
    with pytest.raises(ValueError):
        stun.encode(stun.binding_request(ID, attribute))


def test_a_message_that_is_too_large_or_has_a_bad_header_is_a_value_error() -> None:
    """64 KiB in all, 12 bytes of transaction id, 12 bits of method."""
    for message in (
        stun.binding_request(ID, *[stun.Data(bytes(40000))] * 2),
        stun.binding_request(bytes(11)),
        stun.Message(stun.MessageClass.REQUEST, 0x1000, ID),
    ):
        with pytest.raises(ValueError):
            stun.encode(message)
    full = stun.binding_request(ID, stun.Data(bytes(MAX_BODY - 4)))
    assert stun.decode(stun.encode(full, key=b"k", integrity=stun.Integrity.BOTH)) == full


def test_text_is_read_longer_than_it_is_written() -> None:
    """RFC 8489 section 14.9: 509 bytes when encoding, 763 when decoding."""
    message = stun.decode(raw_message((0x0014, b"a" * 763)))
    assert message.get(stun.Realm) == stun.Realm("a" * 763)


def test_padding_is_ignored_whatever_it_holds() -> None:
    """RFC 8489 section 14: the padding bits may be any value on receipt."""
    zeros = raw_message((0x8022, b"a"))
    assert stun.decode(zeros[:-3] + b"\xff\xff\xff") == stun.decode(zeros)


def test_the_first_of_several_attributes_counts() -> None:
    """RFC 8489 section 14: others of the same type are ignored, unless an extension says otherwise."""
    message = stun.binding_request(ID, stun.Priority(1), stun.Priority(2))
    assert message.get(stun.Priority) == stun.Priority(1)
    assert message.get_all(stun.Priority) == (stun.Priority(1), stun.Priority(2))
    assert message.get(stun.UseCandidate) is None


def test_unknown_comprehension_required_attributes_are_named_once_each() -> None:
    """They go into UNKNOWN-ATTRIBUTES; optional ones (0x8000 and above) never do."""
    message = stun.decode(raw_message((0x7FFF, b""), (0x8005, b"x"), (0x0030, b""), (0x7FFF, b"y")))
    assert message.unknown_comprehension_required == (0x7FFF, 0x0030)
    assert stun.binding_request(ID, stun.Priority(1)).unknown_comprehension_required == ()


def test_an_unknown_method_keeps_its_number() -> None:
    """So that a server can say what it was asked."""
    message = stun.Message(stun.MessageClass.INDICATION, 0xABC, ID)
    decoded = stun.decode(stun.encode(message))
    assert (decoded.message_class, decoded.method) == (stun.MessageClass.INDICATION, 0xABC)


def test_a_known_method_comes_as_an_enumerator() -> None:
    """For logs that say BINDING."""
    assert stun.decode(raw_message()).method is stun.Method.BINDING


def test_an_ipv4_mapped_address_is_read_as_ipv4() -> None:
    """A dual-stack server may see us so; everywhere in iceagent there is one form of an address."""
    value = b"\x00\x02\x0d\x96" + bytes(10) + b"\xff\xff\xc0\x00\x02\x01"
    assert stun.decode(raw_message((0x0001, value))).get(stun.MappedAddress) == stun.MappedAddress(V4)


def test_the_zone_of_a_link_local_address_is_not_sent() -> None:
    """It names an interface of ours."""
    request = stun.binding_request(ID, stun.XorMappedAddress(TransportAddress("fe80::1%eth0", 9)))
    decoded = stun.decode(stun.encode(request)).get(stun.XorMappedAddress)
    assert decoded == stun.XorMappedAddress(TransportAddress("fe80::1", 9))


def test_response_port_is_read_in_both_lengths() -> None:
    """RFC 5780 section 7.5 can be read either way, and servers do."""
    for value in (b"\x0d\x96", b"\x0d\x96\x00\x00"):
        assert stun.decode(raw_message((0x0027, value))).get(stun.ResponsePort) == stun.ResponsePort(3478)


def test_responses_mirror_method_and_transaction() -> None:
    """The builders leave nothing to forget."""
    request = stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, ID)
    granted = stun.success(request, stun.Lifetime(600))
    refused = stun.error(request, stun.Code.ROLE_CONFLICT)
    assert (granted.method, granted.transaction_id) == (stun.Method.ALLOCATE, ID)
    assert refused.get(stun.ErrorCode) == stun.ErrorCode(487, "Role Conflict")
    assert stun.error(request, 499, "Because").get(stun.ErrorCode) == stun.ErrorCode(499, "Because")


def test_decode_takes_any_bytes_like_object() -> None:
    """A shell may hand over slices of its receive buffer."""
    data = stun.encode(stun.binding_request(ID))
    assert stun.decode(memoryview(data)) == stun.decode(bytearray(data)) == stun.decode(data)  # type: ignore[arg-type]
