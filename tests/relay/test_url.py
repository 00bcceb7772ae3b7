"""A relay's URL: every part is used, or refused in a sentence that shows no secret."""

from __future__ import annotations

import base64

import icesignal
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icesignal.code import parse_code
from icesignal.url import parse_relay_url


@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("ws://relay.example", "relay.example", 80, "/", "relay.example"),
        ("ws://relay.example:80", "relay.example", 80, "/", "relay.example"),
        ("wss://relay.example:443/", "relay.example", 443, "/", "relay.example"),
        ("wss://relay.example:80", "relay.example", 80, "/", "relay.example:80"),
        ("ws://relay.example:443", "relay.example", 443, "/", "relay.example:443"),
        ("ws://relay.example:", "relay.example", 80, "/", "relay.example"),
        ("WSS://Relay.EXAMPLE", "relay.example", 443, "/", "relay.example"),
        ("wss://relay.example.", "relay.example.", 443, "/", "relay.example"),
        ("ws://192.0.2.1.:8080", "192.0.2.1", 8080, "/", "192.0.2.1:8080"),
        ("ws://[2001:DB8:0::1]:8080/v1", "2001:db8::1", 8080, "/v1", "[2001:db8::1]:8080"),
        ("wss://[2001:db8::1]", "2001:db8::1", 443, "/", "[2001:db8::1]"),
        ("ws://[fe80::1%25eth0]:8080", "fe80::1%eth0", 8080, "/", "[fe80::1]:8080"),
        ("ws://[fe80::1%eth0]:8080", "fe80::1%eth0", 8080, "/", "[fe80::1]:8080"),
        ("[::1]:8080", "::1", 8080, "/", "[::1]:8080"),
        ("localhost:8080", "localhost", 8080, "/", "localhost:8080"),
        ("relay.example", "relay.example", 80, "/", "relay.example"),
        ("wss://b\u00fccher.example", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
        ("wss://stra\u00dfe.example", "xn--strae-oqa.example", 443, "/", "xn--strae-oqa.example"),
        ("wss://relay.example/a/b?token=x&y=z", "relay.example", 443, "/a/b?token=x&y=z", "relay.example"),
        ("wss://relay.example?token=x", "relay.example", 443, "/?token=x", "relay.example"),
        ("wss://relay.example/\u00e4?\u00f6=%20", "relay.example", 443, "/%C3%A4?%C3%B6=%20", "relay.example"),
        (" ws://relay.example:8080\n", "relay.example", 8080, "/", "relay.example:8080"),
        ("ws://my_relay:8080", "my_relay", 8080, "/", "my_relay:8080"),
    ],
)
def test_every_part_of_a_url_is_used(text: str, host: str, port: int, target: str, authority: str) -> None:
    """`Host` has no default port, no zone and no final dot: some gateways answer 404 to those."""
    url = parse_relay_url(text)
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)
    assert url.authorization is None


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("wss://me:secret@relay.example", "me:secret"),
        ("me:secret@relay.example:8080", "me:secret"),
        ("wss://me@relay.example", "me:"),
        ("wss://:secret@relay.example", ":secret"),
        ("wss://me:p%40ss%2Fword%23@relay.example", "me:p@ss/word#"),
        ("wss://me:p@ss@relay.example", "me:p@ss"),
        ("wss://me:a:b@relay.example", "me:a:b"),
        ("wss://m\u00fcller:\u20ac@relay.example", "m\u00fcller:\u20ac"),
    ],
)
def test_user_and_password_are_sent_and_never_shown(text: str, credentials: str) -> None:
    """They were dropped in silence, and printed in messages."""
    url = parse_relay_url(text)
    assert url.host == "relay.example"
    assert url.authorization == "Basic " + base64.b64encode(credentials.encode()).decode()
    assert "secret" not in url.shown + repr(url)
    assert url.shown == ("ws://relay.example:8080" if "8080" in text else "wss://relay.example")


def test_what_may_be_a_token_is_never_shown() -> None:
    """A gateway's token is often in the query."""
    url = parse_relay_url("wss://relay.example/v1?token=secret")
    assert url.shown == "wss://relay.example/v1?\u2026"
    assert "secret" not in repr(url)
    assert parse_relay_url("ws://[fe80::1%25eth0]:1").shown == "ws://[fe80::1%eth0]:1"


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"http://me:{SECRET}@relay.example", "write ws://"),
        (f"https://me:{SECRET}@relay.example", "write wss://"),
        (f"ftp://me:{SECRET}@relay.example", "neither ws:// nor wss://"),
        (f"wss://me:{SECRET}@", "no host"),
        (f"wss://me:{SECRET}@relay.example:0", "1 to 65535"),
        (f"wss://me:{SECRET}@relay.example:65536", "1 to 65535"),
        (f"wss://me:{SECRET}@relay.example:8o80", "1 to 65535"),
        (f"wss://me:{SECRET}@relay.example:-1", "1 to 65535"),
        (f"wss://me:{SECRET}@relay.example:\u0668\u0660", "1 to 65535"),
        (f"wss://me:{SECRET}/x@relay.example", "%2F"),
        (f"wss://me:{SECRET}?x@relay.example", "%2F"),
        (f"wss://me:{SECRET}#x@relay.example", "%23"),
        (f"wss://relay.example/#{SECRET}", "fragment"),
        (f"wss://me:{SECRET}@2001:db8::1", "brackets"),
        (f"wss://me:{SECRET}@[2001:db8::1", "brackets"),
        (f"wss://me:{SECRET}@[192.0.2.1]", "no IPv6 address"),
        (f"wss://me:{SECRET}@[fe80::1%]", "zone"),
        (f"wss://me:{SECRET}@[fe80::1%25e/th0]", "host cannot be read"),
        (f"wss://me:{SECRET}@[fe80::1%25e@th0]x", "host cannot be read"),
        (f"wss://me:{SECRET}@192.0.2.300", "no IPv4 address"),
        (f"wss://me:{SECRET}@0x7f000001", "no IPv4 address"),
        (f"wss://me:{SECRET}@relay..example", "neither an address nor a name"),
        (f"wss://me:{SECRET}@.", "neither an address nor a name"),
        (f"wss://me:{SECRET}@-relay.example", "neither an address nor a name"),
        (f"wss://me:{SECRET}@{'x' * 64}.example", "neither an address nor a name"),
        (f"wss://me:{SECRET}@re lay.example", "spaces"),
        (f"wss://me:{SECRET}\r\nX: y@relay.example", "spaces"),
        (f"wss:\\\\me:{SECRET}@relay.example", "backslashes"),
        (f"wss://me%3A:{SECRET}@relay.example", "RFC 7617"),
        (f"wss://me:{SECRET}%0A@relay.example", "RFC 7617"),
        (f"wss://me:{SECRET}%FF@relay.example", "UTF-8"),
        (f"wss://{SECRET * 400}", "2048"),
        (f"wss://relay.example:80:{SECRET}", "brackets"),
        (f"relay.example:{SECRET}", "1 to 65535"),
        (f"wss:relay.example/{SECRET}", "1 to 65535"),
        (f"wss:/relay.example/{SECRET}", "1 to 65535"),
        ("", "no host"),
        ("ws:///path", "no host"),
    ],
)
def test_what_cannot_be_used_is_refused_without_repeating_it(text: str, says: str) -> None:
    """The sentence says which part, and a right one to copy; whatever may be a password it does not say."""
    with pytest.raises(ValueError) as caught:
        parse_relay_url(text)
    assert says in str(caught.value)
    assert "ws://192.0.2.1:8080" in str(caught.value)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=40), st.sampled_from(["", "ws://", "wss://u:p@", "ws://[", "wss://x:1/"]))
@settings(deadline=None)
def test_any_text_is_a_url_or_a_value_error(text: str, start: str) -> None:
    """And what is accepted is ASCII on the wire and reads the same once written."""
    try:
        url = parse_relay_url(start + text)
    except ValueError:
        return
    for part in (url.host, url.target, url.authority, (url.authorization or "").removeprefix("Basic ")):
        assert part.isascii()
        assert not any(character <= " " or character == "\x7f" for character in part)
    scheme = "wss" if url.is_tls else "ws"
    literal = f"[{url.host}]" if ":" in url.host else url.host
    again = parse_relay_url(f"{scheme}://{literal}:{url.port}{url.target}")
    assert (again.host, again.port, again.target) == (url.host, url.port, url.target)


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("[fe80::1%25eth0]:8080", "[fe80::1%eth0]:8080"),
        ("[fe80::1%Eth0]:8080", "[fe80::1%Eth0]:8080"),
        ("relay.example.:8080", "relay.example.:8080"),
        ("B\u00fccher.example:8080", "xn--bcher-kva.example:8080"),
        ("192.0.2.1:08080", "192.0.2.1:8080"),
    ],
)
def test_the_address_in_a_code_is_read_as_that_of_a_url(address: str, canonical: str) -> None:
    """A code that carries a relay leads where the same address as a URL leads."""
    code = parse_code(f"7-guitar-ozone@{address}")
    assert code.address == canonical
    assert code.relay_url is not None
    assert parse_relay_url(code.relay_url).host == canonical.rpartition(":")[0].strip("[]")


@pytest.mark.parametrize("address", ["me:hunter2@host:80", "host/hunter2:80", "host:hunter2", "192.0.2.300:80"])
def test_a_code_with_a_malformed_address_is_refused_without_repeating_it(address: str) -> None:
    """The same rule for what stands behind the @."""
    with pytest.raises(icesignal.CodeMalformed) as caught:
        parse_code(f"7-guitar-ozone@{address}")
    assert SECRET not in str(caught.value)
