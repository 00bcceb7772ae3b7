"""MESSAGE-INTEGRITY, its SHA-256 twin, truncation, and FINGERPRINT."""

from __future__ import annotations

import pytest

from iceagent.core import stun

ID = bytes(range(12))
KEY = b"key"
REQUEST = stun.binding_request(ID, stun.Username("a:b"), stun.Priority(7))


@pytest.mark.parametrize("integrity", list(stun.Integrity))
def test_the_right_key_verifies_and_another_does_not(integrity: stun.Integrity) -> None:
    """For one attribute or both."""
    message = stun.decode(stun.encode(REQUEST, key=KEY, integrity=integrity))
    assert message.has_integrity
    assert message.integrity is integrity
    assert message.verify_integrity(KEY)
    assert not message.verify_integrity(b"other")


def test_a_message_without_integrity_verifies_with_no_key() -> None:
    """Absence is not authenticity."""
    message = stun.decode(stun.encode(REQUEST))
    assert not message.has_integrity
    assert not message.verify_integrity(KEY)
    assert not message.verify_integrity(b"")
    assert not REQUEST.verify_integrity(KEY)


def test_of_two_integrity_attributes_the_stronger_decides() -> None:
    """RFC 8489 section 9.1.3: with MESSAGE-INTEGRITY-SHA256 there, MESSAGE-INTEGRITY is not looked at."""
    data = bytearray(stun.encode(REQUEST, key=KEY, integrity=stun.Integrity.BOTH, fingerprint=False))
    data[-1] ^= 1
    assert not stun.decode(bytes(data)).verify_integrity(KEY)


@pytest.mark.parametrize("length", [16, 20, 24, 28])
def test_a_truncated_sha256_counts_only_where_the_usage_allows_it(length: int) -> None:
    """RFC 8489 section 14.6: the full 32 bytes, unless the usage explicitly says otherwise."""
    data = stun.encode(REQUEST, key=KEY, integrity=stun.Integrity.SHA256, sha256_length=length)
    message = stun.decode(data)
    assert not message.verify_integrity(KEY)
    assert message.verify_integrity(KEY, allow_truncated=True)
    assert not message.verify_integrity(b"other", allow_truncated=True)


@pytest.mark.parametrize("length", [0, 12, 15, 18, 36])
def test_no_other_truncation_can_be_written(length: int) -> None:
    """16 to 32 bytes in steps of 4."""
    with pytest.raises(ValueError):
        stun.encode(REQUEST, key=KEY, integrity=stun.Integrity.SHA256, sha256_length=length)


def test_the_fingerprint_tells_stun_from_what_looks_like_it() -> None:
    """Right, wrong or absent are three answers."""
    data = stun.encode(REQUEST)
    assert stun.decode(data).verify_fingerprint() is True
    assert stun.decode(data[:-1] + bytes([data[-1] ^ 1])).verify_fingerprint() is False
    assert stun.decode(stun.encode(REQUEST, fingerprint=False)).verify_fingerprint() is None
    assert stun.decode(data).has_fingerprint


def test_integrity_is_independent_of_a_fingerprint_behind_it() -> None:
    """RFC 8489 section 14.5: the HMAC sees the length as if the message ended with it."""
    with_it = stun.encode(REQUEST, key=KEY)
    without = stun.encode(REQUEST, key=KEY, fingerprint=False)
    assert with_it[20 : len(without)] == without[20:]
    assert with_it[2:4] != without[2:4]
