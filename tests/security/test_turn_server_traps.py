"""What others' TURN servers were caught doing: traps 33 to 37, each under its number."""

from __future__ import annotations

import secrets

import pytest
from turn_bench import CLIENT, OWN, PEER, RELAY_4, Bench, Client, allocated, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.turn.server import ConnectPeer, PeerPolicy, PolicyError, TurnLimits
from iceagent.core.turn.server import server as server_module
from iceagent.core.turn.server.limits import IN_FLIGHT_S
from iceagent.errors import LocalError
from iceagent.servers import TurnOptions

INNER_LOOPBACK = [
    "127.0.0.1",
    "::ffff:127.0.0.1",  # mapped: what coturn 4.6.1 lets through
    "::ffff:7f00:1",
    "::127.0.0.1",  # compatible
    "::ffff:0:127.0.0.1",  # translated
    "2002:7f00:1::",  # 6to4
    "2002:7f00:1:1:2:3:4:5",
    "2001:0:808:808:0:0:80ff:fffe",  # Teredo: the client's address is inverted
    "2001:0:7f00:1::f7f7:f7f7",  # Teredo: the server's address
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::7f00:1",  # NAT64 of local use
    "2606:4700::5efe:127.0.0.1",  # ISATAP
]
NEVER_PEERS = [
    *INNER_LOOPBACK,
    *("0.0.0.0", "0.1.2.3", "::", "::1", "255.255.255.255"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "fe80::1"),
    *("fc00::1", "fd00::1", "fec0::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1"),
    *("224.0.0.1", "239.1.2.3", "240.0.0.1", "ff02::1", "ff0e::1"),
    *("192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:c0a8:101::1"),
    *("64:ff9b::e000:1", "2002:e000:1::", "::ffff:0.0.0.0", "::0.0.0.2"),
    *OWN,
    "::ffff:192.0.2.15",
    "64:ff9b::c000:20f",  # the server itself, through NAT64
]
PEERS = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "192.169.0.1", "2606:4700::1111", "2002:808:808::1", "64:ff9b::808:808"]


def dual(**changes: object) -> Client:
    client = Client(Bench(), **changes)  # type: ignore[arg-type]
    transport = stun.TRANSPORT_TCP if changes.get("transport") == "tcp" else stun.TRANSPORT_UDP
    assert error_of(client.allocate(stun.AdditionalAddressFamily(2), transport=transport)) is None
    return client


@pytest.mark.parametrize("host", NEVER_PEERS)
def test_trap_33_denied_peers_are_denied_in_every_method(host: str) -> None:
    """CreatePermission, ChannelBind, Send and Connect ask one policy, and it sees through every wrapping of IPv4."""
    peer = make_address(host, 80)
    client, tcp = dual(), dual(transport="tcp")
    assert error_of(client.permit(peer)) == 403
    assert error_of(client.bind(0x4000, peer)) == 403
    assert client.indicate(peer, b"x") is None
    # Send asks the policy itself, also where a permission should have been impossible.
    client.bench.server.allocations[client.path].permissions[peer.host] = client.bench.now + 1
    assert client.indicate(peer, b"x") is None
    tcp.connect(peer)
    assert error_of(stun.decode(tcp.bench.sent[-1].data)) == 403
    assert not tcp.bench.of(ConnectPeer)
    assert not client.bench.to_peers


@pytest.mark.parametrize("host", PEERS)
def test_trap_33_hosts_of_the_internet_are_peers(host: str) -> None:
    """A deny list that denies everything would pass the test above; wrapped public addresses stay reachable."""
    client = dual()
    assert error_of(client.permit(make_address(host, 80))) is None
    assert error_of(client.bind(0x4000, make_address(host, 80))) is None
    assert client.indicate(make_address(host, 80), b"x") is not None


def test_trap_33_mapped_addresses_on_the_wire_are_unwrapped_first() -> None:
    """The bytes of ::ffff:127.0.0.1 in XOR-PEER-ADDRESS, not just its text."""
    client = dual()
    packed = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
    for method, more in (
        (stun.Method.CREATE_PERMISSION, ()),
        (stun.Method.CHANNEL_BIND, (stun.ChannelNumber(0x4000),)),
    ):
        transaction = client.transaction()
        mask = bytes.fromhex("2112a442") + transaction
        value = b"\x00\x02" + (80 ^ 0x2112).to_bytes(2, "big") + bytes(a ^ b for a, b in zip(packed, mask, strict=True))
        answer = client.request(method, stun.RawAttribute(0x0012, value), *more, transaction=transaction)
        assert error_of(answer) == 403


@pytest.mark.parametrize("rule", ["", "10.0.0.0/33", "10.0.0.1/8", "ten", "10.0.0.0-10.0.0.9", "::ffff:10.0.0.0/104"])
def test_trap_33_malformed_rule_stops_the_start(rule: str) -> None:
    """coturn warned and went on without the rule; an operator who believes in it is worse off than without any."""
    with pytest.raises(PolicyError):
        PeerPolicy(deny=[rule])
    with pytest.raises(PolicyError):
        PeerPolicy(allow=[rule])
    with pytest.raises(PolicyError):
        PeerPolicy(nat64=[rule])


def test_trap_33_loopback_peers_need_a_flag_and_a_loopback_server() -> None:
    """No allow rule opens loopback, not even one for everything; the flag works at loopback only."""
    everything = PeerPolicy(allow=["0.0.0.0/0", "::/0"])
    nobody = lambda _address: False  # noqa: E731
    for host in INNER_LOOPBACK:
        assert not everything.allows(make_address(host, 80), nobody), host
    with pytest.raises(PolicyError):
        PeerPolicy(allow=["127.0.0.0/8"])
    with pytest.raises(LocalError, match=r"127\.0\.0\.1"):
        TurnOptions([TransportAddress("0.0.0.0", 3478)], users={"a": "b"}, loopback=True)
    with pytest.raises(LocalError):
        TurnOptions(
            [TransportAddress("127.0.0.1", 3478)],
            users={"a": "b"},
            loopback=True,
            tls_listen=[TransportAddress("0.0.0.0", 5349)],
        )
    assert PeerPolicy(loopback=True, own=["127.0.0.1"]).allows(TransportAddress("127.0.0.1", 80), nobody)


def test_trap_33_private_peers_can_be_allowed_and_denied_again() -> None:
    """For laboratories and companies: a rule opens one network, a deny rule closes part of it."""
    policy = PeerPolicy(allow=["10.0.0.0/8", "203.0.113.0/24"], deny=["10.9.0.0/16"], own=["203.0.113.1"])
    allowed = {
        host
        for host in ("10.1.2.3", "10.9.0.1", "203.0.113.7", "203.0.113.1", "192.168.0.1", "64:ff9b::a01:203")
        if policy.allows(make_address(host, 80), lambda _address: False)
    }
    assert allowed == {"10.1.2.3", "203.0.113.7", "64:ff9b::a01:203"}


def test_trap_33_own_address_is_a_peer_only_as_a_relay() -> None:
    """Two clients may meet relay to relay; nothing else of the machine is reached that way, nor later."""
    bench = Bench()
    one, two = allocated(bench), allocated(bench, remote=TransportAddress("192.0.2.2", 1))
    relay = bench.server.allocations[two.path].relays[0].address
    assert error_of(one.bind(0x4000, relay)) is None
    assert one.channel_data(b"\x40\x00\x00\x01x")
    assert one.indicate(relay, b"x") is not None
    assert one.indicate(TransportAddress(RELAY_4, 22), b"x") is None
    assert error_of(one.permit(TransportAddress(RELAY_4, 0))) is None
    assert one.from_peer(relay, b"x")
    assert one.from_peer(TransportAddress(RELAY_4, 53), b"x") == []
    assert error_of(one.permit(TransportAddress(RELAY_4, 53))) == 403
    two.refresh(0)
    assert one.from_peer(relay, b"x")  # sent before the end, read after it: for a moment they are still on their way
    bench.now += IN_FLIGHT_S
    assert one.from_peer(relay, b"x") == []
    assert not one.channel_data(b"\x40\x00\x00\x01x")
    assert one.indicate(relay, b"x") is None


def test_trap_33_permission_for_an_own_address_needs_no_port() -> None:
    """CreatePermission's port means nothing (RFC 8656 section 10.1): clients send 0. What is sent must still fit."""
    bench = Bench()
    one, two = allocated(bench), allocated(bench, remote=TransportAddress("192.0.2.2", 1))
    relay = bench.server.allocations[two.path].relays[0].address
    assert error_of(one.permit(TransportAddress(relay.host, 0))) is None
    assert one.indicate(relay, b"x") is not None
    assert one.indicate(TransportAddress(relay.host, 22), b"x") is None


def test_trap_33_relay_only_server_has_no_other_peers() -> None:
    """`relay-only`: peers only among its own relayed addresses."""
    bench = Bench(config(policy=PeerPolicy(own=OWN, relay_only=True)))
    one, two = allocated(bench), allocated(bench, remote=TransportAddress("192.0.2.2", 1))
    for port in (0, PEER.port):
        assert error_of(one.permit(TransportAddress(PEER.host, port))) == 403
    assert error_of(one.permit(bench.server.allocations[two.path].relays[0].address)) is None


def test_trap_34_stolen_nonce_is_refused_from_another_address() -> None:
    """Same nonce, same right password: from another host or another port it is worth a challenge and no more."""
    client = allocated()
    for thief in (TransportAddress("198.51.100.9", CLIENT.port), TransportAddress(CLIENT.host, 7001)):
        stolen = Client(client.bench, thief, nonce=client.nonce)
        answer = stolen.send(stun.Method.ALLOCATE, stun.RequestedTransport(17))
        assert error_of(answer) == 438
        nonce = answer.get(stun.Nonce)
        assert nonce is not None
        assert nonce.value != client.nonce
    assert len(client.bench.server.allocations) == 1


@pytest.mark.parametrize(
    "change", [lambda nonce: nonce[:-1] + "AB"[nonce[-1] == "A"], lambda _: "x" * 30, lambda _: ""]
)
def test_trap_34_made_up_nonces_are_refused(change) -> None:
    """A nonce says who made it; no table has to be asked, and none can be filled."""
    client = allocated()
    forged = Client(client.bench, nonce=change(client.nonce) or "obMatJos2wAAA")
    assert error_of(forged.send(stun.Method.REFRESH)) == 438


def test_trap_34_nonces_of_before_a_restart_are_stale_not_fatal() -> None:
    """A restarted server has another key; clients learn it by 438 and 437 and allocate anew."""
    client = allocated()
    client.bench = Bench(seed=2)
    assert error_of(client.refresh()) == 437
    assert error_of(client.allocate()) is None


def test_trap_34_challenges_are_small() -> None:
    """Without reason phrase, SOFTWARE and fingerprint; what RFC 8489 demands is all there."""
    client = Client(Bench(config(software="iceagent " + "x" * 100)))
    answer = client.bench.give(client.path, client.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17)))
    assert answer is not None
    assert len(answer) <= 96
    assert {type(one) for one in stun.decode(answer).attributes} == {
        stun.ErrorCode,
        stun.Realm,
        stun.Nonce,
        stun.PasswordAlgorithms,
    }


def test_trap_34_bidding_down_is_noticed() -> None:
    """Whoever strips SHA-256 from the list, or the list from the choice, gets 400, not MD5."""
    client = allocated(algorithm=stun.SHA256)
    key = stun.long_term_key("george", "example.org", "secret", stun.MD5)
    base = (stun.Username("george"), stun.Realm("example.org"), stun.Nonce(client.nonce))
    for more in (
        (stun.PasswordAlgorithms((stun.MD5,)), stun.PasswordAlgorithm(stun.MD5)),
        (stun.PasswordAlgorithm(stun.MD5),),
        (stun.PasswordAlgorithms((stun.SHA256, stun.MD5)),),
    ):
        message = stun.Message(stun.MessageClass.REQUEST, stun.Method.REFRESH, client.transaction(), (*base, *more))
        answer = client.bench.give(client.path, stun.encode(message, key=key, fingerprint=False))
        assert answer is not None
        assert error_of(stun.decode(answer)) == 400


def test_trap_35_ports_nonces_and_tokens_come_from_the_injected_source() -> None:
    """And the shell injects `secrets`: nobody can foretell where the next relay will be."""
    from iceagent.servers.turn import open_turn_server

    defaults = open_turn_server.__wrapped__.__kwdefaults__  # type: ignore[attr-defined]
    assert defaults["randbytes"] is secrets.token_bytes
    ports = set()
    for seed in range(50):
        bench = Bench(seed=seed)
        Client(bench).allocate()
        ports.add(next(iter(bench.server.allocations.values())).relays[0].address.port)
    assert len(ports) > 45
    assert max(ports) - min(ports) > 8000


def test_trap_36_quotas_hold_per_user_and_per_source() -> None:
    """One user with many addresses and one address with many users are both bounded."""
    bench = Bench(config(limits=TurnLimits(allocations_per_user=3, allocations_per_source=4)))
    george = [Client(bench, TransportAddress(f"192.0.2.{n}", 1)) for n in range(100, 105)]
    assert [error_of(one.allocate()) for one in george] == [None, None, None, 486, 486]
    george[0].refresh(0)
    assert error_of(george[3].allocate()) is None
    other = Bench(config(limits=TurnLimits(allocations_per_source=4)))
    crowd = [
        Client(other, TransportAddress("192.0.2.9", n), *who)
        for n, who in enumerate([("george", "secret"), ("ringo", "drums")] * 3, 1)
    ]
    assert [error_of(one.allocate()) for one in crowd] == [None] * 4 + [486] * 2


def test_trap_36_ipv6_sources_count_by_their_64() -> None:
    """A subscriber has 2^64 addresses; they are one source."""
    bench = Bench(config(limits=TurnLimits(allocations_per_source=2)))
    crowd = [Client(bench, make_address(f"2606:4700::{n}", 1)) for n in range(1, 5)]
    assert [error_of(one.allocate()) for one in crowd] == [None, None, 486, 486]


def test_trap_36_bandwidth_is_of_a_user_and_survives_its_allocations() -> None:
    """Two allocations share one bucket, and closing them does not fill it."""
    bench = Bench(config(limits=TurnLimits(bytes_per_s=1000)))
    one, two = allocated(bench), allocated(bench, remote=TransportAddress("192.0.2.2", 1))
    for client in (one, two):
        client.bind(0x4000, PEER)
    (forward,) = one.channel_data(b"\x40\x00\x00\x64" + bytes(100) + b"", None)
    assert forward.datagrams
    passed = sum(len(forward.datagrams) for forward in one.channel_data((b"\x40\x00\x00\x64" + bytes(100)) * 20, 104))
    assert passed == 9
    assert two.from_peer(PEER, bytes(100)) == []
    two.refresh(0)
    assert error_of(two.allocate()) is None
    two.bind(0x4000, PEER)
    assert two.from_peer(PEER, bytes(100)) == []
    bench.wait(0.5)
    assert len(two.from_peer(PEER, bytes(1000), 100)) == 5


def test_trap_36_permissions_and_channels_are_bounded() -> None:
    """Expired ones make room; live ones do not."""
    client = allocated(Bench(config(limits=TurnLimits(permissions=2, channels=2))))
    first, second, third = (TransportAddress(f"8.8.8.{n}", 1) for n in (1, 2, 3))
    assert error_of(client.permit(first, second)) is None
    assert error_of(client.permit(third)) == 508
    assert error_of(client.bind(0x4000, third)) == 508
    client.refresh(3600)
    client.bench.wait(301)
    assert error_of(client.permit(third)) is None
    for number, peer in enumerate((third, TransportAddress(third.host, 2)), 0x4000):
        assert error_of(client.bind(number, peer)) is None
    assert error_of(client.bind(0x4002, TransportAddress(third.host, 3))) == 508


def test_trap_37_nothing_is_decoded_before_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's malformed attribute gets 401, as everything of a stranger's does; an authentic one gets 400."""
    decoded: list[bytes] = []
    original = stun.decode

    def spy(data: bytes) -> stun.Message:
        decoded.append(data)
        return original(data)

    monkeypatch.setattr(server_module.stun, "decode", spy)
    client = Client(Bench())
    broken = stun.RawAttribute(0x0019, b"too long for REQUESTED-TRANSPORT")
    for nonce in ("", "obMatJos2wAAAnever made here.."):
        client.nonce = nonce
        data = client.encode(stun.Method.ALLOCATE, broken)
        answer = client.bench.give(client.path, data)
        assert answer is not None
        assert error_of(original(answer)) in (401, 438)
    assert decoded == []
    client.nonce = ""
    monkeypatch.setattr(server_module.stun, "decode", original)
    client.request(stun.Method.REFRESH)
    assert error_of(client.send(stun.Method.ALLOCATE, broken)) == 400


def test_trap_37_wrong_password_learns_nothing_about_users() -> None:
    """An unknown user and a wrong password get the same answer."""
    sizes = set()
    for username in ("george", "nobody"):
        client = Client(Bench(), username=username, password="wrong")
        answer = client.allocate()
        assert error_of(answer) == 401
        sizes.add(len(answer.raw))
    assert len(sizes) == 1
