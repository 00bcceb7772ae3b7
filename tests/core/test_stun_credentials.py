"""Keys, string preparation and the nonce cookie."""

from __future__ import annotations

import pytest

from iceagent.core import stun


def test_the_long_term_key_is_the_rfcs_example() -> None:
    """RFC 8489 section 9.2.2 prints it."""
    assert stun.long_term_key("user", "realm", "pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"


def test_the_long_term_key_has_the_algorithms_length() -> None:
    """RFC 8489 sections 18.5.1.1 and 18.5.1.2."""
    assert len(stun.long_term_key("user", "realm", "pass", stun.MD5)) == 16
    assert len(stun.long_term_key("user", "realm", "pass", stun.SHA256)) == 32
    assert stun.long_term_key("user", "realm", "pass", 2) == stun.long_term_key("user", "realm", "pass", stun.SHA256)
    with pytest.raises(ValueError, match="neither"):
        stun.long_term_key("user", "realm", "pass", 3)


def test_the_short_term_key_is_the_password() -> None:
    """RFC 8489 section 9.1.1; ICE passwords are ASCII."""
    assert stun.short_term_key("VOkJxbRl1RmTxUk/WvJxBt") == b"VOkJxbRl1RmTxUk/WvJxBt"


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        # RFC 8265 section 4.3, table 3
        ("correct horse battery staple", "correct horse battery staple"),
        ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
        ("\u03c0\u00df\u00e5", "\u03c0\u00df\u00e5"),
        ("Jack of \u2666s", "Jack of \u2666s"),
        ("foo\u1680bar", "foo bar"),
        ("A\u030a", "\u00c5"),  # NFC
        ("\u216b", "\u216b"),  # no compatibility mapping
        ("\u0915\u094d\u200d", "\u0915\u094d\u200d"),  # a joiner after a virama
    ],
)
def test_opaque_string_prepares_what_it_allows(text: str, prepared: str) -> None:
    """Both sides must derive the same key from what their users typed."""
    assert stun.opaque_string(text) == prepared
    assert stun.opaque_string(prepared) == prepared


@pytest.mark.parametrize(
    "text",
    # RFC 8265 section 4.3, table 4, and one of each kind of RFC 8264 section 9
    [
        "",
        "my cat is a \tby",
        "a\u00adb",
        "a\u200db",
        "\u1100",
        "\u034f",
        "\ufe0f",
        "\ue000",
        "\ud800",
        "\u0378",
        "\u0640",
        "a\u00b7b",  # CONTEXTO: between two l only
    ],
)
def test_opaque_string_refuses_what_it_disallows(text: str) -> None:
    """A password that cannot be typed twice in the same way is better refused than never matched."""
    with pytest.raises(ValueError):
        stun.opaque_string(text)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX")],
)
def test_saslprep_prepares_the_rfcs_examples(text: str, prepared: str) -> None:
    """RFC 4013 section 3, for keys shared with servers of RFC 5389's time."""
    assert stun.saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "a\u0627"])
def test_saslprep_refuses_the_rfcs_counterexamples(text: str) -> None:
    """A control character, and mixed directions."""
    with pytest.raises(ValueError):
        stun.saslprep(text)


def test_security_features_survive_in_the_nonce() -> None:
    """RFC 8489 section 9.2.1: an attacker who strips PASSWORD-ALGORITHMS cannot strip this."""
    both = stun.SecurityFeature.PASSWORD_ALGORITHMS | stun.SecurityFeature.USERNAME_ANONYMITY
    nonce = stun.make_nonce(both, "0123456789abcdef")
    assert nonce == "obMatJos2wAAA0123456789abcdef"
    assert stun.security_features(nonce) == both
    assert stun.security_features(stun.make_nonce(stun.SecurityFeature(0), "")) == stun.SecurityFeature(0)


@pytest.mark.parametrize(
    "nonce", ["", "0123456789", "obMatJos2", "obMatJos2AAA", "obMatJos2A=AA", "obMatJos2\u00e9\u00e9\u00e9\u00e9"]
)
def test_a_nonce_without_a_cookie_announces_nothing(nonce: str) -> None:
    """Servers of RFC 5389's time, and garbage."""
    assert stun.security_features(nonce) is None


def test_a_nonce_stays_within_its_limit() -> None:
    """NONCE takes fewer than 128 characters."""
    with pytest.raises(ValueError, match="127"):
        stun.make_nonce(stun.SecurityFeature(0), "a" * 115)
