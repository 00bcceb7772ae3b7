"""The published test vectors: RFC 5769, and RFC 8489 appendix B.1 as printed and as erratum 6268 corrects it."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from iceagent.core import stun
from iceagent.core.address import TransportAddress

ICE_KEY = stun.short_term_key("VOkJxbRl1RmTxUk/WvJxBt")
ICE_TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
USERNAME = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"
REALM = "example.org"
PASSWORD = "TheMatrIX"
UNPREPARED_PASSWORD = "The\u00adM\u00aatr\u2168"
LONG_TERM_TRANSACTION = bytes.fromhex("78ad3433c6ad72c029da412e")

# RFC 5769 section 2.1; its USERNAME is padded with blanks, ours with zeros.
REQUEST = bytes.fromhex(
    "00010058 2112a442 b7e7a701bc34d686fa87dfae"
    "80220010 5354554e207465737420636c69656e74"
    "00240004 6e0001ff"
    "80290008 932ff9b151263b36"
    "00060009 6576746a3a68367659202020"
    "00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004 e57a3bcf"
)
# RFC 5769 section 2.2
IPV4_RESPONSE = bytes.fromhex(
    "0101003c 2112a442 b7e7a701bc34d686fa87dfae"
    "8022000b 7465737420766563746f7220"
    "00200008 0001a147e112a643"
    "00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004 c07d4c96"
)
# RFC 5769 section 2.3
IPV6_RESPONSE = bytes.fromhex(
    "01010048 2112a442 b7e7a701bc34d686fa87dfae"
    "8022000b 7465737420766563746f7220"
    "00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014 a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004 c8fb0b4c"
)
# RFC 5769 section 2.4
LONG_TERM_REQUEST = bytes.fromhex(
    "00010060 2112a442 78ad3433c6ad72c029da412e"
    "00060012 e3839ee38388e383aae38383e382afe382b90000"
    "0015001c 662f2f3439396b39353464364f4c33346f4c394653547679363473 41"
    "0014000b 6578616d706c652e6f726700"
    "00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666"
)

B1_USERHASH = "4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
B1_NONCE = "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"
_B1_COMMON = f"001e0020 {B1_USERHASH} 00150029 {B1_NONCE.encode().hex()}000000 0014000b 6578616d706c652e6f726700"
# RFC 8489 appendix B.1 as printed
B1_PRINTED = bytes.fromhex(
    f"0001009c 2112a442 78ad3433c6ad72c029da412e {_B1_COMMON}"
    "001c0020 e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01"
)
# The same with erratum 6268
B1_CORRECTED = bytes.fromhex(
    f"00010090 2112a442 78ad3433c6ad72c029da412e {_B1_COMMON} 001d0004 00020000"
    "001c0020 b5c7bf005b6c52a21c51c5e892f819241362 96cb927c43149309278cc6518e65"
)


def test_rfc_5769_request_decodes_and_verifies() -> None:
    """The one vector that looks like a connectivity check."""
    message = stun.decode(REQUEST)
    assert message == stun.binding_request(
        ICE_TRANSACTION,
        stun.Software("STUN test client"),
        stun.Priority(0x6E0001FF),
        stun.IceControlled(0x932FF9B151263B36),
        stun.Username("evtj:h6vY"),
    )
    assert message.verify_integrity(ICE_KEY)
    assert message.verify_fingerprint() is True


@pytest.mark.parametrize(
    ("vector", "address"),
    [
        (IPV4_RESPONSE, TransportAddress("192.0.2.1", 32853)),
        (IPV6_RESPONSE, TransportAddress("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
)
def test_rfc_5769_responses_decode_and_verify(vector: bytes, address: TransportAddress) -> None:
    """XOR-MAPPED-ADDRESS is XORed differently per family."""
    message = stun.decode(vector)
    assert message.message_class is stun.MessageClass.SUCCESS
    assert message.get(stun.Software) == stun.Software("test vector")
    assert message.get(stun.XorMappedAddress) == stun.XorMappedAddress(address)
    assert message.verify_integrity(ICE_KEY)
    assert message.verify_fingerprint() is True


@pytest.mark.parametrize("vector", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_rfc_5769_vectors_encode_to_themselves_but_for_the_padding(vector: bytes) -> None:
    """The vectors pad with blanks, which RFC 8489 section 14 has since forbidden; with zeros all else is equal."""
    message = stun.decode(vector)
    ours = stun.encode(message, key=ICE_KEY)
    assert stun.decode(ours) == message
    assert [len(ours), ours[:20]] == [len(vector), vector[:20]]


def test_rfc_5769_long_term_request_is_reproduced_to_the_byte() -> None:
    """This vector pads with zeros, so that encoding must give exactly it."""
    message = stun.Message(
        stun.MessageClass.REQUEST,
        stun.Method.BINDING,
        LONG_TERM_TRANSACTION,
        (stun.Username(USERNAME), stun.Nonce("f//499k954d6OL34oL9FSTvy64sA"), stun.Realm(REALM)),
    )
    key = stun.long_term_key(USERNAME, REALM, PASSWORD)
    assert stun.encode(message, key=key, fingerprint=False) == LONG_TERM_REQUEST
    assert stun.decode(LONG_TERM_REQUEST).verify_integrity(key)


def test_the_vectors_password_is_prepared_by_saslprep_and_refused_by_opaque_string() -> None:
    """RFC 8489 says that OpaqueString turns it into `TheMatrIX`; RFC 8265 maps nothing and forbids the soft hyphen."""
    assert stun.saslprep(UNPREPARED_PASSWORD) == PASSWORD
    with pytest.raises(ValueError, match="U\\+00AD"):
        stun.opaque_string(UNPREPARED_PASSWORD)


def test_rfc_8489_b1_with_erratum_6268_is_reproduced_to_the_byte() -> None:
    """USERHASH, PASSWORD-ALGORITHM and MESSAGE-INTEGRITY-SHA256 with a SHA-256 key, all in one message."""
    message = stun.Message(
        stun.MessageClass.REQUEST,
        stun.Method.BINDING,
        LONG_TERM_TRANSACTION,
        (
            stun.Userhash(stun.userhash(USERNAME, REALM)),
            stun.Nonce(B1_NONCE),
            stun.Realm(REALM),
            stun.PasswordAlgorithm(stun.SHA256),
        ),
    )
    assert stun.userhash(USERNAME, REALM).hex() == B1_USERHASH
    key = stun.long_term_key(USERNAME, REALM, PASSWORD, stun.SHA256)
    assert stun.encode(message, key=key, integrity=stun.Integrity.SHA256, fingerprint=False) == B1_CORRECTED
    decoded = stun.decode(B1_CORRECTED)
    assert decoded == message
    assert decoded.verify_integrity(key)
    assert not decoded.verify_integrity(stun.long_term_key(USERNAME, REALM, PASSWORD, stun.MD5))


def test_rfc_8489_b1_as_printed_is_refused_because_its_length_is_wrong() -> None:
    """What the erratum corrects, by computation.

    The printed length, 0x9c, is 156 bytes: the attributes' 136 and the header's 20, which do not belong there. The
    printed HMAC is right for the SHA-256 key and for that wrong length; and PASSWORD-ALGORITHM, without which no key
    but the MD5 one may be used (RFC 8489 section 9.2.2), is missing. The erratum adds its 8 bytes: 144 is 0x90.
    """
    with pytest.raises(stun.StunError) as refused:
        stun.decode(B1_PRINTED)
    assert refused.value.reason is stun.StunErrorReason.LENGTH
    assert len(B1_PRINTED) == 0x9C
    key = hashlib.sha256(f"{USERNAME}:{REALM}:{PASSWORD}".encode()).digest()
    assert hmac.digest(key, B1_PRINTED[:-36], "sha256") == B1_PRINTED[-32:]
    assert not stun.decode(B1_PRINTED[:2] + b"\x00\x88" + B1_PRINTED[4:]).verify_integrity(key)


def test_the_vectors_nonce_counts_security_feature_bits_from_the_right() -> None:
    """`AAAC` has bit 22 of 24 set, counted as RFC 8489 section 18.1 counts: no assigned feature.

    Its authors meant username anonymity, bit 1, and counted from the other end. We follow the section, which is
    normative, and not the example.
    """
    features = stun.security_features(B1_NONCE)
    assert features is not None
    assert int(features) == 2
    assert not features & stun.SecurityFeature.USERNAME_ANONYMITY
    assert stun.make_nonce(stun.SecurityFeature.USERNAME_ANONYMITY, "x") == "obMatJos2QAAAx"
