"""What holds for all messages, keys and bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from stun_strategies import ATTRIBUTES, DETERMINISTIC, keys, messages

from iceagent.core import stun
from iceagent.core.stun.registry import KNOWN_ATTRIBUTES

integrities = st.sampled_from(stun.Integrity)


def test_the_strategies_know_every_attribute() -> None:
    """Else the properties below would quietly leave the newest one out."""
    assert set(ATTRIBUTES) == set(KNOWN_ATTRIBUTES)


@DETERMINISTIC
@given(messages, st.none() | keys, integrities, st.booleans())
def test_any_message_encodes_and_decodes_to_itself(
    message: stun.Message,
    key: bytes | None,
    integrity: stun.Integrity,
    fingerprint: bool,
) -> None:
    """With and without what closes a message."""
    data = stun.encode(message, key=key, integrity=integrity, fingerprint=fingerprint)
    decoded = stun.decode(data)
    assert decoded == message
    assert decoded.raw == data
    assert stun.looks_like_stun(data)
    assert decoded.integrity is (None if key is None else integrity)
    assert decoded.verify_integrity(key or b"") is (key is not None)
    assert decoded.verify_fingerprint() is (True if fingerprint else None)


@DETERMINISTIC
@given(messages, keys, integrities)
def test_a_decoded_message_encodes_to_the_same_bytes(
    message: stun.Message, key: bytes, integrity: stun.Integrity
) -> None:
    """Encoding is canonical: there is one way to write each message."""
    data = stun.encode(message, key=key, integrity=integrity)
    assert stun.encode(stun.decode(data), key=key, integrity=integrity) == data


@DETERMINISTIC
@given(messages, keys, st.sampled_from([stun.Integrity.SHA1, stun.Integrity.SHA256]), st.data())
def test_one_flipped_bit_never_passes_verify_integrity(
    message: stun.Message, key: bytes, integrity: stun.Integrity, data: st.DataObject
) -> None:
    """Header, padding and the integrity attribute included."""
    original = stun.encode(message, key=key, integrity=integrity, fingerprint=False)
    assert not _verifies(_flip(original, data.draw(st.integers(0, len(original) * 8 - 1))), key)


@DETERMINISTIC
@given(messages, keys, integrities, st.data())
def test_one_flipped_bit_anywhere_never_changes_what_an_authentic_message_says(
    message: stun.Message, key: bytes, integrity: stun.Integrity, data: st.DataObject
) -> None:
    """Behind MESSAGE-INTEGRITY bits are free to flip, as they do not count; the fingerprint then notices."""
    original = stun.encode(message, key=key, integrity=integrity)
    flipped = _flip(original, data.draw(st.integers(0, len(original) * 8 - 1)))
    if _verifies(flipped, key):
        assert stun.decode(flipped) == message
        assert stun.decode(flipped).verify_fingerprint() is not True


@DETERMINISTIC
@given(messages, keys, keys)
def test_another_key_never_verifies(message: stun.Message, key: bytes, other: bytes) -> None:
    """HMAC pads keys with zeros, so keys that differ in trailing zeros only are the same key."""
    decoded = stun.decode(stun.encode(message, key=key))
    assert decoded.verify_integrity(other) is (key.rstrip(b"\0") == other.rstrip(b"\0"))


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def _verifies(data: bytes, key: bytes) -> bool:
    try:
        return stun.decode(data).verify_integrity(key)
    except stun.StunError:
        return False
