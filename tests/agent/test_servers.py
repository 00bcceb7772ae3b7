"""Servers at the door: what a user or a relay names is used, or refused in a sentence that shows no secret."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from iceagent.agent import AgentConfig, IceServer
from iceagent.agent.gather.servers import MAX_SERVERS, offered_servers
from iceagent.core import stun, turn
from iceagent.core.turn.client_auth import Challenge, ClientAuthenticator
from iceagent.errors import LocalError
from iceagent.net import SystemNetwork

BAD_TEXTS = ["p\n", "p\r", "a\tb", "soft\u00adhyphen", "\x00", "\x7f", "\ud800", "\u200b", "\ue000", " \n "]


@pytest.mark.parametrize("text", BAD_TEXTS)
@pytest.mark.parametrize("which", ["username", "credential"])
def test_credentials_turn_cannot_carry_are_refused_at_once(text: str, which: str) -> None:
    """A password read with its line end used to end the agent at the server's first challenge."""
    login: dict[str, Any] = {"username": "u", "credential": "hunter2", which: "hunter2" + text}
    with pytest.raises(LocalError, match="line break") as caught:
        IceServer("turn:turn.example", **login)
    assert "hunter2" not in str(caught.value)


def test_a_user_name_longer_than_its_attribute_is_refused() -> None:
    """508 bytes fit, counted as UTF-8; a password may be as long as it likes."""
    IceServer("turn:t", username="u" * 508, credential="p" * 600)
    for name in ("u" * 509, "é" * 255):
        with pytest.raises(LocalError, match="508"):
            IceServer("turn:t", username=name, credential="p")


@pytest.mark.parametrize("value", [5, b"bytes", ["list"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    """A configuration file has numbers where somebody forgot quotes."""
    with pytest.raises(LocalError):
        IceServer("turn:t", username=value, credential=value)
    with pytest.raises(LocalError):
        IceServer(value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("turn:me:hunter2@turn.example", "user name or password"),
        ("turn:turn.example?secret=hunter2", "must end in"),
        ("turn:turn.example?transport=udp&x=hunter2", "must end in"),
        ("turn:turn.example/path", "nothing after the port"),
        ("turn:turn.example#x", "nothing after the port"),
        ("stun:a..b", "single dots"),
        ("stun:-a.example", "single dots"),
        ("stun:a b", "single dots"),
        ("stun:a\nb", "single dots"),
        ("stun:" + "a" * 64, "too long"),
        ("stun:" + "a." * 130 + "b", "too long"),
        ("stun:" + "a" * 5000, "is not an ICE server"),
        ("stun:x:" + "9" * 300, "1 to 65535"),
        ("stun:x:+1", "1 to 65535"),
        ("stun:x:٣", "1 to 65535"),
        ("stun:[192.0.2.1]", "IPv6"),
        ("stun:[example.org]", "IPv6"),
        ("stun:[::1]x", "is not an ICE server"),
        ("stun:[fe80::1%eth0;x]", "interface"),
        ("stun:\u2028", "name"),
        ("stun:", "no host"),
    ],
)
def test_each_part_of_a_servers_url_is_used_or_refused(url: str, words: str) -> None:
    """What is dropped in silence looks like a dead server later."""
    with pytest.raises(LocalError, match=words) as caught:
        IceServer(url)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("stun:stun.example.org.", ("stun.example.org.", 3478)),
        ("stun:[fe80::1%eth0]:3479", ("fe80::1%eth0", 3479)),
        ("stun:[fe80::1%25eth0]", ("fe80::1%eth0", 3478)),
        ("turn:bücher.example", ("xn--bcher-kva.example", 3478)),
        ("turns:x_y.example?transport=UDP", ("x_y.example", 5349)),
        ("stun:stun.example.org:", ("stun.example.org", 3478)),
    ],
)
def test_zones_final_dots_and_other_alphabets_are_hosts(url: str, endpoint: tuple[str, int]) -> None:
    """RFC 6874 writes the zone's sign as %25; users write what `ip address` shows them."""
    assert IceServer(url).endpoint() == endpoint


def test_of_more_servers_than_fit_the_first_are_taken_and_the_rest_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A user's nine and a relay's eight together used to be an error that neither could mend."""
    servers = [IceServer(f"stun:{number}.example") for number in range(MAX_SERVERS + 2)]
    with caplog.at_level(logging.WARNING):
        assert list(AgentConfig(servers=servers).servers) == servers[:MAX_SERVERS]
    assert "stun:16.example" in caplog.text
    assert "stun:17.example" in caplog.text


def test_what_a_relay_names_and_nobody_can_use_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Its members would all fail with it."""
    entries: list[dict[str, Any]] = [
        {"urls": ["turn:good.example"], "username": "u", "credential": "hunter2"},
        {"urls": ["turn:bad.example"], "username": "u", "credential": "hunter2\n"},
        {"urls": ["turn:half.example"], "username": "u"},
        {"urls": ["stun:ok.example", "stun:", "http:x", 5, None, "stuns:tls.example"]},
        {"urls": "stun:alone.example"},
        {},
    ]
    with caplog.at_level(logging.INFO):
        found = offered_servers(entries, "relay.example", SystemNetwork())
    assert [one.url for one in found] == ["turn:good.example", "stun:ok.example", "stun:alone.example"]
    assert not any(one.may_be_here for one in found)
    assert "bad.example" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "LOCALHOST."])
def test_a_relay_in_this_machine_may_name_servers_in_it(host: str) -> None:
    """`listen` with its own relay, and every test on one machine."""
    (server,) = offered_servers([{"urls": ["stun:127.0.0.1:3478"]}], host, SystemNetwork())
    assert server.may_be_here


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_credentials_of_a_users_function_end_nothing_at_the_challenge(text: str) -> None:
    """The core itself takes what it is given; a challenge it cannot answer is a refusal."""
    for credentials in (turn.TurnCredentials("u" + text, "p"), turn.TurnCredentials("u", "p" + text)):
        auth = ClientAuthenticator(credentials)
        request = stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, bytes(12), ())
        answer = stun.error(request, 401, "", stun.Realm("r"), stun.Nonce("n"))
        assert auth.handle_challenge(answer, "") is Challenge.REFUSED
    auth = ClientAuthenticator(turn.TurnCredentials("u" * 600, "p"))
    assert auth.handle_challenge(answer, "") is Challenge.REFUSED


@pytest.mark.parametrize("nonce", ["", "x" * 128, "x" * 700])
def test_a_nonce_of_a_success_that_cannot_be_sent_back_is_not_kept(nonce: str) -> None:
    """The next refresh could not be encoded, and would end the agent an hour into a call."""
    auth = ClientAuthenticator(turn.TurnCredentials("u", "p"))
    request = stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, bytes(12), ())
    assert auth.handle_challenge(stun.error(request, 401, "", stun.Realm("r"), stun.Nonce("n")), "") is Challenge.RETRY
    success = stun.Message(stun.MessageClass.SUCCESS, stun.Method.REFRESH, bytes(12), (stun.Nonce(nonce),))
    auth.handle_success(success)
    assert auth.nonce == "n"
