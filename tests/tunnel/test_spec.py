"""The grammar of forwards and allow rules."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.errors import LocalError
from iceagent.tunnel.allow import is_allowed, parse_allow, parse_rules
from iceagent.tunnel.errors import SpecError
from iceagent.tunnel.spec import (
    AnyTarget,
    ForwardSpec,
    PipeTarget,
    PortBind,
    TcpTarget,
    UdpTarget,
    UnixBind,
    UnixTarget,
    parse_forward,
)


@pytest.mark.parametrize(
    ("text", "bind", "target"),
    [
        ("2222:localhost:22", PortBind("127.0.0.1", 2222), TcpTarget("localhost", 22)),
        ("2222:22", PortBind("127.0.0.1", 2222), TcpTarget("localhost", 22)),
        ("5353:53/udp", PortBind("127.0.0.1", 5353), UdpTarget("localhost", 53)),
        ("0:h:1", PortBind("127.0.0.1", 0), TcpTarget("h", 1)),
        (":80:h:1", PortBind("", 80), TcpTarget("h", 1)),
        ("*:80:h:1", PortBind("", 80), TcpTarget("h", 1)),
        ("192.0.2.7:80:h:1", PortBind("192.0.2.7", 80), TcpTarget("h", 1)),
        ("[::1]:2222:[fe80::1]:22", PortBind("::1", 2222), TcpTarget("fe80::1", 22)),
        ("5353:192.0.2.1:53/udp", PortBind("127.0.0.1", 5353), UdpTarget("192.0.2.1", 53)),
        ("5353:[2001:db8::1]:53/udp", PortBind("127.0.0.1", 5353), UdpTarget("2001:db8::1", 53)),
        ("22:h:22/tcp", PortBind("127.0.0.1", 22), TcpTarget("h", 22)),
        ("8080:unix:/run/x.sock", PortBind("127.0.0.1", 8080), UnixTarget("/run/x.sock")),
        ("[::1]:8080:unix:/run/a:b", PortBind("::1", 8080), UnixTarget("/run/a:b")),
        ("unix:/tmp/a.sock:unix:/tmp/b.sock", UnixBind("/tmp/a.sock"), UnixTarget("/tmp/b.sock")),
        ("unix:/tmp/d:localhost:5432", UnixBind("/tmp/d"), TcpTarget("localhost", 5432)),
        ("unix:/tmp/d:[::1]:5432", UnixBind("/tmp/d"), TcpTarget("::1", 5432)),
    ],
)
def test_forwards_read_as_with_ssh(text, bind, target):
    """Users bring ssh's grammar with them; /udp and unix: are the only additions."""
    assert parse_forward(text) == ForwardSpec(bind, target)


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", "1:b", "a:2", "a:b:c", "1:::2", "::1:80:h:1", "80:h:0", "80:h:65536", "80:h:80/sctp"),
        *("80:h h:1", "unix:", "unix:/a", "unix:/a:h:1/udp", "unix:/a:unix:", "8080:unix:", "1:h:²", "80:h:1:2:3"),
        *("unix:/a\0:h:1", f"80:unix:/{'x' * 200}", "80:[::1:1", "80:::1]:1", "80:[zz]:1"),
    ],
)
def test_a_malformed_forward_shows_a_right_one(text):
    """The message must be enough to write it right the second time."""
    with pytest.raises(SpecError, match="2222:localhost:22") as caught:
        parse_forward(text)
    assert isinstance(caught.value, LocalError)


@given(st.text())
def test_no_text_does_more_than_raise_spec_error(text):
    """Whatever is typed, the user sees a sentence and not a traceback."""
    for parse in (parse_forward, parse_allow):
        with contextlib.suppress(SpecError):
            parse(text)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("22", [TcpTarget("localhost", 22)], [TcpTarget("127.0.0.1", 22), UdpTarget("localhost", 22), AnyTarget()]),
        ("53/udp", [UdpTarget("localhost", 53)], [TcpTarget("localhost", 53)]),
        ("tcp:localhost:22", [TcpTarget("LOCALHOST", 22)], [TcpTarget("localhost", 23), UdpTarget("localhost", 22)]),
        ("tcp:localhost:22", [TcpTarget("localhost.", 22)], [TcpTarget("127.0.0.1", 22), UnixTarget("localhost")]),
        ("tcp:127.0.0.1:*", [TcpTarget("127.0.0.1", 1)], [TcpTarget("127.0.0.2", 1), TcpTarget("localhost", 1)]),
        ("tcp:[2001:DB8::1]:22", [TcpTarget("2001:db8:0::1", 22)], [TcpTarget("2001:db8::2", 22)]),
        ("udp:*:53", [UdpTarget("192.0.2.1", 53)], [UdpTarget("192.0.2.1", 54), TcpTarget("192.0.2.1", 53)]),
        ("unix:/run/x", [UnixTarget("/run/x")], [UnixTarget("/run/../run/x"), UnixTarget("/run/x/")]),
        ("any", [TcpTarget("h", 1), UdpTarget("h", 1), UnixTarget("/x")], [PipeTarget(), AnyTarget()]),
    ],
)
def test_trap_43_a_rule_allows_what_it_names_and_nothing_else(rule, allowed, refused):
    """The listening side's `--allow` is all that stands between the peer and this machine's network."""
    rules = parse_rules([rule])
    assert [is_allowed(rules, target) for target in allowed] == [True] * len(allowed)
    assert [is_allowed(rules, target) for target in refused] == [False] * len(refused)


@pytest.mark.parametrize("text", ["2222:localhost:22", "5353:192.0.2.1:53/udp", "0:unix:/run/x"])
def test_trap_43_loopback_is_where_ports_are_bound_by_default(text):
    """A forward opens the other machine's network to whoever reaches the port: by default that is this machine."""
    bind = parse_forward(text).bind
    assert isinstance(bind, PortBind)
    assert bind.host == "127.0.0.1"


def test_no_rule_allows_nothing():
    """An empty list must fail closed."""
    assert not is_allowed((), TcpTarget("localhost", 22))


@pytest.mark.parametrize(
    "text", ["", "x", "tcp", "tcp:22", "tcp:h:0", "tcp:h:p", "unix:", "all", "sctp:h:1", "tcp:a:b:c", "0", "22/sctp"]
)
def test_a_malformed_rule_shows_a_right_one(text):
    """A rule that is misread could allow too much; one that is refused must say how to write it."""
    with pytest.raises(SpecError, match="tcp:localhost:22"):
        parse_allow(text)


@pytest.mark.parametrize("text", ["tcp:h:22", "udp:[::1]:53", "tcp:[::1]:*", "udp:*:*", "unix:/a", "any"])
def test_a_rule_prints_as_it_is_written(text):
    """The refusal shows the other side's rules; they must be usable as they stand."""
    assert str(parse_allow(text)) == text


def test_bytes_that_are_no_utf_8_are_refused_in_words():
    """Python reads them as surrogates, which neither the resolver nor the other side can take."""
    for text in ("0:lo\udcffcal:22", "0:unix:/tmp/\udcff", "lo\udcff:0:h:1"):
        with pytest.raises(SpecError, match=r"is not a host|must be UTF-8"):
            parse_forward(text)


def test_half_a_unix_forward_is_told_what_is_missing():
    """The path must not be taken for a `/udp` that is misspelt."""
    with pytest.raises(SpecError, match="after unix:PATH there must be HOST:PORT or unix:PATH"):
        parse_forward("unix:/tmp/a.sock")
