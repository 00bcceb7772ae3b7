"""Slips of one side that must not cost the other side its code: each is found before anything is dialled."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from iceagent.cli import main
from iceagent.tunnel.allow import doubt_about, parse_allow

CODE = "7-guitar-ozone"


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands in this process add handlers and set levels."""
    monkeypatch.delenv("ICEAGENT_CODE", raising=False)
    monkeypatch.delenv("ICEAGENT_RELAY", raising=False)
    loggers = [logging.getLogger(name) for name in ("iceagent", "icesignal", "")]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def relay() -> Iterator[socket.socket]:
    """What listens where the relay is said to be: a slip never gets as far."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def url_of(relay: socket.socket) -> str:
    return f"ws://127.0.0.1:{relay.getsockname()[1]}"


def was_dialled(relay: socket.socket) -> bool:
    try:
        relay.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("forward", "-L", "0:h:1", "7-gitar-ozone"), 4, "did you mean 'guitar'"),
        (("connect", "7-guitar-ozoned"), 4, "did you mean 'ozone'"),
        (("netcheck", "--no-upnp", "--peer", "7-guitar-oz"), 4, "no word"),
        (("forward", "-L", "0:h:1", "guitar-ozone"), 4, "number"),
        (("forward", "-L", "0:h:1", " "), 4, "empty"),
        (("forward", "-L", "2222:h:22", "-L", "2222:h:80", CODE), 2, "two forwards want 127.0.0.1:2222"),
        (("forward", "-L", "2222:h:22", "-L", "*:2222:h:80", CODE), 2, "two forwards want *:2222"),
        (("forward", "-L", "2222:h:22", "-L", "localhost:2222:h:80", CODE), 2, "two forwards want localhost:2222"),
        (("forward", "-L", "[::1]:2222:h:22", "-L", "localhost:2222:h:80", CODE), 2, "two forwards want localhost"),
        (("forward", "-L", "unix:/tmp/../tmp/x:h:22", "-L", "unix:/tmp/x:h:80", CODE), 2, "two forwards want unix:"),
        (("forward", "-L", "2222:h", CODE), 2, "2222:localhost:22"),
        (("forward", CODE), 2, "nothing is to be forwarded"),
        (("forward", "-D", "x", CODE), 2, "1080"),
        (("forward", "-L", "1080:22", "-D", "1080", CODE), 2, "two forwards want 127.0.0.1:1080 here"),
        (("forward", "-R", "8080:22", "-R", "localhost:8080:h:1", CODE), 2, "two forwards want localhost:8080 there"),
        (("forward", "-R", "8080:h", CODE), 2, "2222:localhost:22"),
        (("nc", CODE, "localhost"), 2, "localhost:22"),
        (("nc", "7-gitar-ozone", "22"), 4, "did you mean 'guitar'"),
        (("listen", "--allow-remote-listen", "h:p"), 2, "listen:8080"),
        (("forward", "-L", "0:010.0.0.1:22", CODE), 2, "leading zeros"),
        (("forward", "-L", "192.0.2.1:0:h:22", CODE), 9, "no interface"),
        (("forward", "-L", "unix:/nowhere/x:h:22", CODE), 9, "the folder does not exist"),
        (("forward", "-L", "a..b:0:h:22", CODE), 9, "does not resolve"),
        (("forward", "-L", "[fe80::1%nowhere0]:0:h:22", CODE), 9, "cannot open"),
        (("forward", "-L", "0:h:1", "--interface", "nowhere0", CODE), 2, "nowhere0"),
        (("forward", "-L", "0:h:1", "--timeline", "/nowhere/x", CODE), 9, "timeline"),
        (("connect", "--timeline", "/dev/stdout", CODE), 9, "no plain file"),
        (("connect", "--deny-remote", "10.0.0.1/8", CODE), 2, "host bits"),
        (("netcheck", "--invite", "--peer", CODE), 2, "leave out one"),
        (("netcheck", "--peer", CODE, "--timeout", "5"), 2, "--invite"),
        (("netcheck", "--invite", "--timeout", "nan"), 2, "seconds"),
        (("netcheck", "--peer", CODE, "--stun", "stun://x"), 2, "stun:"),
        (("listen", "--allow", "tcp:h"), 2, "tcp:localhost:22"),
    ],
)
def test_a_slip_is_found_before_anything_is_dialled(relay, capsys, arguments, exit_code, says):
    """A code is good for one try, and whoever read it out would have to read out another."""
    assert main([*arguments, "--relay", url_of(relay)]) == exit_code
    assert says in capsys.readouterr().err
    assert not was_dialled(relay)


def test_a_taken_port_is_found_before_anything_is_dialled(relay, capsys):
    """And the forwards before it are closed again."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [server.getsockname()[1] for server in (other, taken)]
        other.close()
        specs = [option for port in ports for option in ("-L", f"{port}:h:1")]
        assert main(["forward", *specs, "--relay", url_of(relay), CODE]) == 9
        assert "already in use" in capsys.readouterr().err
        socket.create_server(("127.0.0.1", ports[0])).close()
    assert not was_dialled(relay)


def test_a_code_may_be_typed_in_several_words(relay, capsys):
    """As it is read out; the relay is asked for it, which here says nothing."""
    url = url_of(relay)
    relay.close()
    assert main(["connect", "--relay", url, "7", "guitar", "ozone"]) == 3
    assert url in capsys.readouterr().err


async def test_what_is_allowed_and_not_there_is_said_at_once(tmp_path: Path):
    """The listener's user can still mend it; once the other side finds out, the code is used."""
    path = tmp_path / "socket"
    assert await doubt_about(parse_allow(f"unix:{path}")) == "there is no such socket"
    path.write_text("")
    assert await doubt_about(parse_allow(f"unix:{path}")) == "it is not a socket"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert await doubt_about(parse_allow(f"unix:{path}")) is None
    assert await doubt_about(parse_allow("tcp:a..b:22")) == "the name does not resolve"
    for rule in ("any", "tcp:*:22", "udp:192.0.2.1:53", "tcp:localhost:*"):
        assert await doubt_about(parse_allow(rule)) is None
    await trio.lowlevel.checkpoint()
