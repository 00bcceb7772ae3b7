"""What programs say to `-D`: every form, in pieces of any size, and bytes of any kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.tunnel.dynamic import split_datagram_untrusted
from iceagent.tunnel.proxy_protocol import ProxyProtocol, Reply, Wanted, write_address
from iceagent.tunnel.spec import UdpTarget

NAMED = b"\x05\x01\x00" + b"\x05\x01\x00\x03\x0bexample.com\x01\xbb"
FORMS = [
    (NAMED, Wanted("connect", "example.com", 443), b"\x05\x00"),
    (b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16", Wanted("connect", "127.0.0.1", 22), b"\x05\x00"),
    (b"\x05\x01\x00\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50", Wanted("connect", "::1", 80), b"\x05\x00"),
    (b"\x05\x01\x00\x05\x01\x00\x03\x0710.0.1.\x00\x50", Wanted("connect", "10.0.0.1", 80), b"\x05\x00"),
    (b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6), Wanted("udp", "0.0.0.0", 0), b"\x05\x00"),
    (b"\x04\x01\x00\x50\x0a\x00\x00\x01me\0", Wanted("connect", "10.0.0.1", 80), b""),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01\0example.com\0", Wanted("connect", "example.com", 80), b""),
    (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", Wanted("connect", "example.com", 443), b""),
    (b"CONNECT [::1]:443 HTTP/1.0\r\n\r\n", Wanted("connect", "::1", 443), b""),
]


def fed(data: bytes, sizes: list[int]) -> tuple[ProxyProtocol, bytes]:
    protocol, answer = ProxyProtocol(), b""
    while data:
        size = sizes.pop() if sizes else len(data)
        answer += protocol.receive(data[:size])
        data = data[size:]
        if protocol.wanted is not None:
            protocol.rest += data
            break
    return protocol, answer


@pytest.mark.parametrize(("said", "wanted", "answered"), FORMS, ids=lambda one: repr(one)[:30])
@given(sizes=st.lists(st.integers(1, 9), max_size=60), rest=st.binary(max_size=40))
def test_every_form_in_pieces_of_any_size(said, wanted, answered, sizes, rest) -> None:
    """Nothing of what follows, which is for the target, is lost or taken for a part of the request."""
    protocol, answer = fed(said + rest, sizes)
    assert (protocol.wanted, answer, protocol.refusal) == (wanted, answered, None)
    assert protocol.rest == rest


@given(
    pieces=st.lists(st.binary(max_size=300), max_size=20), first=st.sampled_from([b"", b"\x05", b"\x04", b"CONNECT "])
)
def test_bytes_of_any_kind_never_raise_and_are_not_kept(pieces: list[bytes], first: bytes) -> None:
    protocol = ProxyProtocol()
    for piece in [first, *pieces]:
        if protocol.wanted is None:
            protocol.receive(piece)
    assert len(protocol._data) <= 600


@pytest.mark.parametrize(
    "begin",
    [
        b"\x05\x01",
        b"\x05\x01\x00\x05\x01\x00\x03\xff",
        b"\x04\x01\x00\x50\x00\x00\x00\x01",
        b"CONNECT h:1 HTTP/1.1\r\nA: ",
    ],
)
def test_a_request_without_an_end_is_bounded(begin: bytes) -> None:
    protocol = ProxyProtocol()
    protocol.receive(begin)
    for _ in range(100):
        protocol.receive(b"x" * 1000)
    assert protocol.refusal is not None or protocol.wanted is not None
    assert len(protocol._data) == 0


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),  # a password, and nothing else
        (b"\x05\x01\x00\x05\x02\x00\x01" + bytes(6), b"\x05\x00\x05\x07\x00\x01" + bytes(6)),  # BIND
        (b"\x05\x01\x00\x05\x01\x00\x09" + bytes(6), b"\x05\x00\x05\x08\x00\x01" + bytes(6)),
        (b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00\x05\x01\x00\x01" + bytes(6)),  # no host
        (b"\x05\x01\x00\x05\x01\x00\x01" + bytes(6), b"\x05\x00\x05\x01\x00\x01" + bytes(6)),  # port 0
        (b"\x04\x02\x00\x50\x0a\x00\x00\x01\0", b"\x00\x5b" + bytes(6)),
        (b"\x16\x03\x01", b""),  # TLS
    ],
)
def test_what_there_is_not_is_refused_with_its_code(said: bytes, answer: bytes) -> None:
    protocol = ProxyProtocol()
    assert protocol.receive(said) == answer
    assert protocol.refusal is not None
    assert protocol.wanted is None


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n", 405),
        (b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT example.com HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT example.com:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"CONNECT \xff:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nA: " + b"x" * 20000, 431),
        (b"CONNECT a:1\r\n\r\n", 400),
    ],
)
def test_http_that_is_no_connect_is_refused(said: bytes, status: int) -> None:
    protocol = ProxyProtocol()
    answer = protocol.receive(said)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer.lower()
    assert protocol.refusal is not None
    assert protocol.wanted is None
    assert protocol.receive(NAMED) == b""
    assert protocol.wanted is None


def test_answers_of_each_protocol() -> None:
    socks5, _ = fed(NAMED, [])
    assert socks5.answer(Reply.REFUSED) == b"\x05\x05\x00\x01" + bytes(6)
    assert socks5.answer(Reply.GRANTED, host="::1", port=258) == b"\x05\x00\x00\x04" + bytes(15) + b"\x01\x01\x02"
    socks4, _ = fed(FORMS[5][0], [])
    assert socks4.answer(Reply.GRANTED) == b"\x00\x5a" + bytes(6)
    for reply, status in [(Reply.GRANTED, 200), (Reply.NOT_ALLOWED, 403), (Reply.REFUSED, 502), (Reply.TOO_SLOW, 504)]:
        http, _ = fed(FORMS[7][0], [])
        answer = http.answer(reply, reason="it allows only tcp:a:1")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (b"tcp:a:1" in answer) is (status != 200)
        assert status != 200 or (answer.endswith(b"\r\n\r\n") and b"ength" not in answer and b"hunked" not in answer)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com"])
def test_datagrams_name_where_they_go(host: str) -> None:
    data = b"\0\0\0" + write_address(host, 53)
    assert split_datagram_untrusted(data + b"hello") == (UdpTarget(host, 53), b"hello")
    assert split_datagram_untrusted(data) == (UdpTarget(host, 53), b"")
    assert split_datagram_untrusted(data[:-1]) is None
    assert split_datagram_untrusted(b"\0\0\1" + data[3:]) is None, "a fragment"


@given(st.binary(max_size=300))
def test_datagrams_of_any_kind_never_raise(data: bytes) -> None:
    split_datagram_untrusted(data)
    split_datagram_untrusted(b"\0\0\0\3" + data)
