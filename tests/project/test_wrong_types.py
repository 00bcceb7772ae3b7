"""Every public function and value refuses what is of a wrong type: at the call, in a sentence, without the value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import icesignal
import pytest
import trio
from icesignal import MemberKey, RoomKey

import iceagent
import iceagent.link
from iceagent.link import LinkConfig, LinkIdentity, LinkRole
from iceagent.session.connect import Invitation

SECRET = "a-secret-that-no-message-shows"
IDENTITY = LinkIdentity(b"", b"", bytes(32))


class Transport:
    """What a link runs over, and what carries nothing."""

    max_datagram_size = 1200
    is_answering = True

    async def send_many(self, datagrams: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_batches(self) -> Any:
        await trio.sleep_forever()


def link_with(**wrong: Any) -> Any:
    good: dict[str, Any] = {"role": LinkRole.CLIENT, "identity": IDENTITY}
    good |= {"peer_fingerprint": bytes(32), "session_key": bytes(32)}
    transport = wrong.pop("transport", Transport())
    return iceagent.link.open_link(transport, **good | wrong)


CREDENTIALS = iceagent.Credentials("ufrag", "aPasswordOf22Characters")
CONFIG: dict[str, Any] = {
    "servers": "stun:stun.example.org",
    "transport_policy": 1,
    "interfaces": "eth0",
    "deny_interfaces": [1],
    "prefixes": "10.0.0.0/8",
    "deny_prefixes": 1,
    "candidate_types": "host",
    "remote_prefixes": [b"10.0.0.0/8"],
    "deny_remote_prefixes": "10.0.0.0/8",
    "remote_filter": "all",
    "families": ("4",),
    "port_range": 5000,
    "include_loopback": "no",
    "ta_s": "20",
    "gather_budget_s": "5",
    "full_trickle": "yes",
    "receive_queue_bytes": 1e6,
    "credentials": ("ufrag", SECRET),
    "proxy": b"http://proxy",
    "tls_ca_file": 1,
    "port_mapping": "off",
    "streams": 2,
    "mdns": True,
    "ice_lite": 1,
    "auto_restart": "no",
    "outage_s": "long",
    "controller": object(),
    "tcp_candidates": "yes",
    "shared_port": 4000,
    "hard_nat": 3,
    "network": object(),
    "randbytes": b"1234",
}
LINK_CONFIG = dict.fromkeys(inspect.signature(LinkConfig).parameters, "1")
HARD_NAT = dict.fromkeys(inspect.signature(iceagent.HardNat).parameters, "1")

# What is called, with what, and the argument that the sentence names.
VALUES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    *((iceagent.AgentConfig, (), {name: value}, name) for name, value in CONFIG.items()),
    *((LinkConfig, (), {name: value}, name) for name, value in LINK_CONFIG.items()),
    *((iceagent.HardNat, (), {name: value}, name) for name, value in HARD_NAT.items()),
    (iceagent.AgentConfig, (), {"servers": [1]}, "servers"),
    (iceagent.AgentConfig, (), {"families": (True,)}, "families"),
    (iceagent.IceServer, (1,), {}, "url"),
    (iceagent.IceServer, ("turn:a", 1, SECRET), {}, "username"),
    (iceagent.IceServer, ("turn:a", "a", 1), {}, "credential"),
    (iceagent.IceServer, ("turn:a",), {"credentials": SECRET}, "credentials"),
    (iceagent.Credentials, (1, SECRET), {}, "ufrag"),
    (iceagent.Credentials, ("ufrag", SECRET.encode()), {}, "pwd"),
    (iceagent.Candidate.from_sdp, (b"candidate:1",), {}, "text"),
    (iceagent.Description, (CREDENTIALS,), {}, "streams"),
    (iceagent.Description, ((CREDENTIALS,),), {}, "streams"),
    (iceagent.Description, ((),), {"options": "trickle"}, "options"),
    (iceagent.Description, ((),), {"pacing_s": "20"}, "pacing_s"),
    (iceagent.Description.from_json, (1,), {}, "description"),
    (iceagent.Description.from_sdp, (b"",), {}, "SDP"),
    (iceagent.Description(()).chunks, ("1",), {}, "candidates"),
    (iceagent.open_agent, (), {"role": "controlling"}, "role must be Role, not str; write Role.CONTROLLING"),
    (iceagent.open_agent, ({},), {"role": iceagent.Role.CONTROLLED}, "config"),
    (iceagent.open_shared_port, ("4000",), {}, "port"),
    (iceagent.open_shared_port, (), {"hosts": "127.0.0.1"}, "hosts"),
    (iceagent.open_shared_port, (), {"interfaces": "eth0"}, "interfaces"),
    (iceagent.open_shared_port, (), {"families": 4}, "families"),
    (iceagent.open_shared_port, (), {"network": 1}, "network"),
    (iceagent.invite, (), {"relay": 1}, "relay"),
    (iceagent.invite, (), {"config": {}}, "config"),
    (iceagent.listen, (1,), {}, "peer"),
    (iceagent.listen, ("office",), {"identity": "file"}, "identity"),
    (iceagent.serve_joiners, (print,), {"most_peers": "2"}, "most_peers"),
    (iceagent.serve_joiners, (print,), {"identity": "file"}, "identity"),
    (iceagent.join, (), {"peer": 1}, "peer"),
    (iceagent.pair, (7,), {}, "code"),
    (iceagent.pair, (), {"name": 1}, "name"),
    (iceagent.pair, (), {"store": "file"}, "store"),
    (iceagent.Identity, ("x",), {}, "seed"),
    (iceagent.PeerStore, (1,), {}, "path"),
    (iceagent.join, (7,), {}, "code"),
    (iceagent.join, ("7-guitar-ozone",), {"relay": b"ws://a"}, "relay"),
    (iceagent.join, ("7-guitar-ozone",), {"config": {"servers": []}}, "config"),
    (iceagent.join, ("7-guitar-ozone",), {"progress": print}, "progress"),
    (link_with, (), {"transport": object()}, "transport"),
    (link_with, (), {"role": "client"}, "write LinkRole.CLIENT"),
    (link_with, (), {"identity": b""}, "identity"),
    (link_with, (), {"peer_fingerprint": "ab" * 16}, "peer_fingerprint"),
    (link_with, (), {"session_key": SECRET}, "session_key"),
    (link_with, (), {"config": {}}, "config"),
    (link_with, (), {"backend": 1}, "backend"),
    (link_with, (), {"ledger": 1}, "ledger"),
    (iceagent.link.Ledger, ("1",), {}, "ceiling"),
    (LinkIdentity, ("", b"", b""), {}, "certificate_pem"),
    (LinkIdentity, (b"", SECRET, b""), {}, "private_key_pem"),
    (icesignal.parse_code, (7,), {}, "text"),
    (icesignal.parse_relay_url, (None,), {}, "url"),
    (icesignal.parse_relay_urls, (1,), {}, "relays"),
    (icesignal.parse_relay_urls, ([1],), {}, "relays"),
    (icesignal.open_client, (1,), {}, "relays"),
    (icesignal.open_client, ("ws://a",), {"timeout_s": "1"}, "timeout_s"),
    (icesignal.open_client, ("ws://a",), {"ssl_context": True}, "ssl_context"),
    (icesignal.open_client, ("ws://a",), {"on_state": 1}, "on_state"),
    (icesignal.open_client, ("ws://a",), {"open_stream": 1}, "open_stream"),
    (icesignal.open_invitation, (1,), {}, "relay"),
    (icesignal.open_invitation, ("ws://a",), {"address": 1}, "address"),
    (icesignal.open_join, ("ws://a", 7), {}, "code"),
    (icesignal.open_rendezvous, ("ws://a", "b"), {}, "rendezvous"),
    (icesignal.open_room, ("ws://a", "ticket", MemberKey.generate()), {}, "ticket"),
    (icesignal.open_room, ("ws://a", b"ticket", SECRET), {}, "member_key"),
    (icesignal.open_room, ("ws://a", b"ticket", MemberKey.generate()), {"removals": b"a"}, "removals"),
    (icesignal.accept_invitation, ("ws://a", "7-guitar-ozone", SECRET), {}, "member_key"),
    (icesignal.admit, (SECRET, None), {"relays": ["ws://a"]}, "channel"),
    (icesignal.ask_admission, (SECRET, MemberKey.generate()), {}, "channel"),
    (MemberKey.from_private_bytes, (SECRET,), {}, "private"),
    (RoomKey.from_private_bytes, (SECRET,), {}, "private"),
    (RoomKey.generate().ticket, ("key",), {}, "member"),
    (RoomKey.generate().ticket, (b"key",), {"role": 1}, "role"),
    (RoomKey.generate().ticket, (b"key",), {"life_s": "1"}, "life_s"),
    (RoomKey.generate().ticket, (b"key",), {"member_id": "1"}, "member_id"),
    (icesignal.serve, (), {"port": "80"}, "port"),
    (icesignal.serve, (), {"host": 1}, "host"),
    (icesignal.serve, (), {"limits": 1}, "limits"),
    (icesignal.serve, (), {"ssl_context": "a.pem"}, "ssl_context"),
    (icesignal.serve, (), {"trusted_proxies": "127.0.0.1"}, "trusted_proxies"),
    (icesignal.serve, (), {"allow_origins": [1]}, "allow_origins"),
    (icesignal.serve, (), {"owner_password": SECRET.encode()}, "owner_password"),
    (icesignal.MemoryEngine, (), {"limits": 1}, "limits"),
    (icesignal.MemoryEngine, (), {"randbytes": 1}, "randbytes"),
    (icesignal.Rate, ("1", 1), {}, "burst"),
    *((icesignal.Limits, (), {name: "1"}, name) for name in inspect.signature(icesignal.Limits).parameters),
    *((icesignal.RoomLimits, (), {name: "1"}, name) for name in inspect.signature(icesignal.RoomLimits).parameters),
]
# Names without arguments of the user's, and those whose objects `METHODS` and the other tests below call.
NOTHING_TO_PASS = {
    *("AgentState", "CandidateType", "Role", "LinkRole", "LinkCode", "StreamCode", "RelayState", "OWNER", "BACK_S"),
    *("FileOffer", "FileProgress", "Transferred"),
    *("__version__", "generate_identity", "gather_entropy", "preload"),
    *(
        "Candidate",
        "CandidatePair",
        "LinkStatistics",
        "SharedPort",
        "Server",
        "Code",
        "RelayUrl",
        "Rendezvous",
        "Admission",
        *("MemberAway", "MemberBack", "MemberCame", "MemberRemoved", "MemberWent", "MessagesMissed"),
        *("RoomEnded", "RoomEvent", "RoomMember", "RoomMessage", "RoomKey", "MemberKey"),
    ),  # come from us
    *("DatagramTransport", "OpenStream"),  # protocols
}
HELD = {"Agent", "Link", "QuicLink", "Pairing", "LinkStream", "Invitation", "Client", "SealedChannel", "Room"}


def named(case: Any) -> str:
    function, _, keywords, what = case
    return f"{getattr(function, '__qualname__', function)}-{next(iter(keywords), what)}"


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call, and enter or await what comes of it, as a user does at once."""
    found = function(*args, **kwargs)
    if inspect.isawaitable(found):
        await found
    elif hasattr(found, "__aenter__"):
        async with found:
            pass


def sentence_of(error: BaseException, what: str) -> None:
    text = str(error)
    assert what in text
    assert SECRET not in text
    assert "object has no attribute" not in text
    assert len(text.split()) > 4


async def refused(case: Any) -> None:
    function, args, kwargs, what = case
    with pytest.raises((TypeError, iceagent.IceError)) as caught:
        await call(function, *args, **kwargs)
    assert not isinstance(caught.value, iceagent.NetworkError)
    sentence_of(caught.value, what)


@pytest.mark.parametrize("case", VALUES, ids=map(named, VALUES))
async def test_what_is_made_or_opened_refuses_wrong_types(case: Any) -> None:
    await refused(case)


def test_every_field_of_the_configuration_is_in_the_table() -> None:
    assert set(CONFIG) == set(inspect.signature(iceagent.AgentConfig).parameters)


def test_every_public_name_is_in_a_table_or_has_nothing_to_pass() -> None:
    called = {getattr(function, "__name__", "") for function, *_ in VALUES} | {"open_link"}
    left = []
    for module in (iceagent, iceagent.link, icesignal):
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) and issubclass(value, BaseException)):
                left += [name] if name not in called | NOTHING_TO_PASS | HELD else []
    assert left == []


@asynccontextmanager
async def agents() -> Any:
    config = iceagent.AgentConfig(interfaces=["lo"], families=(4,), mdns="off")
    async with iceagent.open_agent(config, role=iceagent.Role.CONTROLLED) as agent:
        yield agent


@pytest.mark.parametrize(
    ("method", "arguments", "what"),
    [
        ("send", ["text"], "encode text first"),
        ("send", [1], "must be bytes, not int"),
        ("send_many", ["text"], "datagrams"),
        ("send_many", [b"one datagram"], "datagrams"),
        ("send_many", [["text"]], "must be bytes, not str"),
        ("stream", ["0"], "index"),
        ("local_candidates", ["0"], "stream"),
        ("late_candidates", [None], "stream"),
        ("wait_gathered", ["0"], "stream"),
        ("accept", ["{}"], "Description.from_json"),
        ("set_remote_credentials", [("ufrag", SECRET)], "credentials"),
        ("set_remote_credentials", [SECRET], "credentials"),
        ("add_remote_candidate", [1], "candidate"),
        ("restart", [], "stream"),
        ("set_servers", ["stun:stun.example.org"], "servers"),
        ("set_servers", [[1]], "servers"),
    ],
)
async def test_an_agent_refuses_wrong_types(method: str, arguments: list[Any], what: str) -> None:
    async with agents() as agent:
        keywords: dict[str, Any] = {"stream": "0"} if method == "restart" else {}
        await refused((getattr(agent, method), arguments, keywords, what))
        assert agent.state is iceagent.AgentState.NEW
    for name, value in (("options", "trickle"), ("lite", "no"), ("pacing_s", "20"), ("stream", "0")):
        await refused((agent.set_remote_credentials, [CREDENTIALS], {name: value}, name))
    for each in (agent.streams[0].component, agent.streams[0].set_remote_credentials):
        await refused((each, [SECRET], {}, "must be"))
    await refused((agent.streams[0].components[0].send, ["text"], {}, "bytes"))


async def test_buffers_are_datagrams_too() -> None:
    """What another library hands over need not be `bytes`; what is sent is a copy, so that it may be used again."""
    from iceagent.core.checked import check_datagrams

    buffers: list[Any] = [b"a", bytearray(b"b"), memoryview(b"c")]
    assert check_datagrams(buffers) == [b"a", b"b", b"c"]


def test_a_url_is_a_server() -> None:
    config = iceagent.AgentConfig(servers=["stun:stun.example.org", iceagent.IceServer("stun:192.0.2.1")])
    assert [server.url for server in config.ice_servers] == ["stun:stun.example.org", "stun:192.0.2.1"]
    assert config.servers == config.ice_servers
    with pytest.raises(iceagent.LocalError, match="is not an ICE server"):
        iceagent.AgentConfig(servers=["stun.example.org"])


async def test_a_link_and_its_streams_refuse_wrong_types() -> None:
    link = iceagent.link.QuicLink.__new__(iceagent.link.QuicLink)
    stream = iceagent.link.LinkStream.__new__(iceagent.link.LinkStream)
    link._protocol = stream._protocol = stream._state = None  # type: ignore[assignment]
    await refused((link.open_stream, [1], {}, "name"))
    await refused((link.send_datagram, ["text"], {}, "bytes"))
    await refused((stream.send_all, ["text"], {}, "bytes"))
    await refused((stream.receive_some, ["1"], {}, "max_bytes"))
    await refused((stream.reset, ["1"], {}, "code"))


async def test_a_session_refuses_wrong_types() -> None:
    session = iceagent.Link.__new__(iceagent.Link)
    await refused((session.open_stream, [1], {}, "name"))
    await refused((session.send_datagram, ["text"], {}, "bytes"))
    await refused((session.forward_local, [8080], {}, "spec"))
    await refused((session.serve_forwards, ["tcp:localhost:22"], {}, "allow"))
    await refused((session.serve_forwards, [[1]], {}, "allow"))
    await refused((session.send_files, ["path"], {}, "paths"))
    await refused((session.receive_files, [1], {}, "into"))
    invitation = Invitation.__new__(Invitation)
    await refused((invitation.accept, [], {"timeout_s": "1"}, "timeout_s"))


async def test_the_client_of_a_relay_refuses_wrong_types() -> None:
    client = icesignal.Client.__new__(icesignal.Client)
    for method in (client.send, client.send_nowait):
        await refused((method, ["text"], {}, "payload"))
    await refused((client.allocate, ["text"], {}, "opening"))
    await refused((client.join, [7], {}, "nameplate"))
    await refused((client.meet, ["name", "inviter"], {}, "name"))
    channel = icesignal.SealedChannel.__new__(icesignal.SealedChannel)
    await refused((channel.send, ["text"], {}, "message"))
    await refused((channel.key, [b"purpose"], {}, "purpose"))
    await refused((channel.key, ["purpose", "32"], {}, "length"))


async def test_what_is_right_passes() -> None:
    """Values that are None, subclasses, duck-typed protocols and functions are what annotations say."""

    class Duck(iceagent.AgentConfig):
        pass

    config = Duck(controller=None, remote_filter=lambda _: True, credentials=CREDENTIALS, families=[4], ta_s=1)
    with suppress(KeyboardInterrupt):
        async with iceagent.open_agent(config, role=iceagent.Role.CONTROLLED) as agent:
            agent.set_remote_credentials(CREDENTIALS, options=frozenset(("trickle",)), pacing_s=0)
