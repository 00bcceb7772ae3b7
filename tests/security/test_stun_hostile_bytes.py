"""What an attacker can put into a datagram: trap 6, and bytes of all kinds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stun_strategies import DETERMINISTIC, keys, messages

from iceagent.core import stun
from iceagent.core.address import TransportAddress

ID = bytes(range(12))
KEY = b"the right key"
FORGED = bytes.fromhex("00250000")  # USE-CANDIDATE, which would nominate the attacker's pair
AUTHENTIC = stun.binding_request(ID, stun.Username("a:b"), stun.Priority(7))


def append(data: bytes, *attributes: bytes) -> bytes:
    """Return a message with attributes appended and its length adjusted, as an attacker without the key would."""
    body = data[20:] + b"".join(attributes)
    return data[:2] + len(body).to_bytes(2, "big") + data[4:20] + body


@pytest.mark.parametrize("integrity", list(stun.Integrity))
def test_trap_06_attributes_after_message_integrity_are_ignored(integrity: stun.Integrity) -> None:
    """They are not covered by the HMAC: whoever is on the path could add them to an authentic check."""
    data = stun.encode(AUTHENTIC, key=KEY, integrity=integrity, fingerprint=False)
    message = stun.decode(append(data, FORGED, b"\x80\x22\x00\x01x\x00\x00\x00"))
    assert message.verify_integrity(KEY)
    assert message == AUTHENTIC
    assert message.get(stun.UseCandidate) is None
    assert message.get_all(stun.UseCandidate) == ()


def test_trap_06_unknown_attributes_after_message_integrity_are_ignored() -> None:
    """Else anybody on the path could turn each check into a 420."""
    data = stun.encode(AUTHENTIC, key=KEY, fingerprint=False)
    message = stun.decode(append(data, b"\x7f\xff\x00\x00"))
    assert message.unknown_comprehension_required == ()
    assert message.verify_integrity(KEY)


def test_trap_06_malformed_attributes_after_message_integrity_are_ignored() -> None:
    """Their values are never read, so that they cannot make an authentic message unreadable."""
    data = stun.encode(AUTHENTIC, key=KEY, fingerprint=False)
    message = stun.decode(append(data, b"\x00\x24\x00\x01x\x00\x00\x00"))
    assert message == AUTHENTIC
    assert message.verify_integrity(KEY)


def test_trap_06_sha256_and_fingerprint_after_message_integrity_count() -> None:
    """The two exceptions, and they still count behind an attribute that does not."""
    data = stun.encode(AUTHENTIC, key=KEY, integrity=stun.Integrity.BOTH)
    message = stun.decode(data)
    assert message.integrity is stun.Integrity.BOTH
    assert message.verify_fingerprint() is True


def test_trap_06_a_second_message_integrity_is_ignored() -> None:
    """Else an attacker's own, appended, would replace the one that fails."""
    forged = stun.encode(stun.binding_request(ID, stun.UseCandidate()), key=b"wrong", fingerprint=False)
    attacked = append(forged, stun.encode(AUTHENTIC, key=KEY, fingerprint=False)[-24:])
    message = stun.decode(attacked)
    assert not message.verify_integrity(KEY)
    assert message.layout.integrity_at == len(forged) - 24


def test_trap_06_message_integrity_after_sha256_is_ignored() -> None:
    """The order is fixed, and the stronger one came first."""
    data = stun.encode(AUTHENTIC, key=KEY, integrity=stun.Integrity.SHA256, fingerprint=False)
    message = stun.decode(append(data, b"\x00\x08\x00\x14" + bytes(20)))
    assert message.integrity is stun.Integrity.SHA256
    assert message.verify_integrity(KEY)


def test_trap_06_attributes_between_the_two_integrities_are_ignored() -> None:
    """MESSAGE-INTEGRITY-SHA256 covers them; RFC 8489 section 14.5 ignores them all the same."""
    inner = append(stun.encode(AUTHENTIC, key=KEY, fingerprint=False), FORGED)
    with_both = inner + _sha256(inner)
    message = stun.decode(with_both[:2] + (len(with_both) - 20).to_bytes(2, "big") + with_both[4:])
    assert message == AUTHENTIC
    assert message.integrity is stun.Integrity.BOTH
    assert message.verify_integrity(KEY)


def _sha256(data: bytes) -> bytes:
    from iceagent.core.stun.raw import MESSAGE_INTEGRITY_SHA256, integrity_attribute

    return integrity_attribute(MESSAGE_INTEGRITY_SHA256, data, KEY, 32)


bodies = st.lists(
    st.tuples(st.integers(0, 0x30) | st.integers(0x7FF0, 0x8040) | st.integers(0, 0xFFFF), st.binary(max_size=40)),
    max_size=8,
)


def decodes_or_refuses(data: bytes) -> None:
    """Decode, and use everything that the result offers."""
    try:
        message = stun.decode(data)
    except stun.StunError:
        return
    assert stun.looks_like_stun(data)
    assert message.verify_integrity(KEY, allow_truncated=True) in (True, False)
    assert message.verify_fingerprint() in (True, False, None)
    assert message.unknown_comprehension_required is not None
    assert repr(message)


@DETERMINISTIC
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_stun_error_only(data: bytes) -> None:
    """Malformed STUN never raises anything a caller does not expect."""
    decodes_or_refuses(data)


@DETERMINISTIC
@given(st.integers(0, 0x3FFF), bodies)
def test_any_attributes_decode_or_raise_stun_error_only(kind: int, body: list[tuple[int, bytes]]) -> None:
    """The same behind a valid header, where random bytes hardly ever get."""
    encoded = b"".join(
        number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for number, value in body
    )
    header = kind.to_bytes(2, "big") + len(encoded).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + ID
    decodes_or_refuses(header + encoded)


@DETERMINISTIC
@given(messages, keys, st.data())
def test_any_mutated_message_decodes_or_raises_stun_error_only(
    message: stun.Message, key: bytes, data: st.DataObject
) -> None:
    """Valid messages with a few bytes replaced, and their length made to fit again."""
    mutated = bytearray(stun.encode(message, key=key, integrity=stun.Integrity.BOTH))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_refuses(bytes(mutated))
    mutated[2:4] = (len(mutated) - 20).to_bytes(2, "big")
    decodes_or_refuses(bytes(mutated))


@DETERMINISTIC
@given(st.binary(max_size=120) | st.builds(stun.encode, messages), st.integers(0, 65535))
def test_any_datagram_leaves_a_binding_server_standing(data: bytes, port: int) -> None:
    """And no answer is ever much larger than the question: the server amplifies nothing."""
    server = stun.BindingServer()
    answer = server.handle_datagram(0.0, TransportAddress("192.0.2.1", 3478), TransportAddress("::1", port), data)
    assert server.counters.total() == 1
    if answer is not None:
        assert len(answer) <= len(data) + 72
        assert stun.decode(answer).transaction_id == data[8:20]


@DETERMINISTIC
@given(messages, st.booleans())
def test_any_message_leaves_a_client_standing(message: stun.Message, right_source: bool) -> None:
    """It ends the transaction, or it is counted and the transaction goes on."""
    local, server, other = (TransportAddress("192.0.2.1", port) for port in (1, 2, 3))
    client = stun.StunClient()
    client.start(0.0, local, server, stun.binding_request(message.transaction_id))
    client.handle_message(0.1, local, server if right_source else other, stun.decode(stun.encode(message)))
    event = client.poll_event()
    assert (event is None) == (client.next_timeout() is not None)
    assert right_source or event is None
