"""What a TURN server does for well-behaved clients, and what it answers the others. RFC 8656."""

from __future__ import annotations

import pytest
from turn_bench import CLIENT, PEER, PEER_6, RELAY_4, RELAY_6, Bench, Client, allocated, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import CloseRelay, OpenRelay, SharedSecretUsers, TurnLimits
from iceagent.core.turn.server.limits import OPEN_ATTEMPTS


@pytest.mark.parametrize("algorithm", [None, stun.MD5, stun.SHA256])
def test_allocation_is_granted_with_every_kind_of_key(algorithm: stun.Algorithm | None) -> None:
    """Old clients know MD5 and SHA-1 only; new ones choose, and the answer is signed the way the request was."""
    client = Client(Bench(), algorithm=algorithm)
    answer = client.allocate()
    assert error_of(answer) is None
    assert answer.verify_integrity(client.key)
    assert answer.integrity is (stun.Integrity.SHA1 if algorithm is None else stun.Integrity.SHA256)
    assert answer.get(stun.XorMappedAddress) == stun.XorMappedAddress(CLIENT)
    relayed = answer.get(stun.XorRelayedAddress)
    assert relayed is not None
    assert relayed.address.host == RELAY_4
    assert answer.get(stun.Lifetime) == stun.Lifetime(600)


def test_user_may_stay_anonymous() -> None:
    """USERHASH instead of USERNAME hides who relays from whoever watches. RFC 8489 section 9.2.3."""
    client = Client(Bench(), algorithm=stun.SHA256)
    client.request(stun.Method.ALLOCATE, stun.RequestedTransport(17))
    fresh = Client(client.bench, TransportAddress("192.0.2.1", 7001), algorithm=stun.SHA256)
    fresh.request(stun.Method.REFRESH)
    attributes = (
        stun.RequestedTransport(17),
        stun.Userhash(stun.userhash("george", "example.org")),
        stun.Realm("example.org"),
        stun.Nonce(fresh.nonce),
        stun.PasswordAlgorithms((stun.SHA256, stun.MD5)),
        stun.PasswordAlgorithm(stun.SHA256),
    )
    message = stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, b"anonymous...", attributes)
    data = stun.encode(message, key=fresh.key, integrity=stun.Integrity.SHA256, fingerprint=False)
    answer = fresh.bench.give(fresh.path, data)
    assert answer is not None
    assert error_of(stun.decode(answer)) is None


def test_retransmitted_allocate_gets_the_same_answer_and_a_new_one_437() -> None:
    """A lost answer must not cost the client its allocation; a second allocation on one 5-tuple is a mistake."""
    bench = Bench()
    client = Client(bench)
    client.request(stun.Method.REFRESH)
    data = client.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17))
    first, again = bench.give(client.path, data), bench.give(client.path, data)
    assert first == again is not None
    assert len(bench.server.allocations) == 1
    assert error_of(client.allocate()) == 437


def test_both_families_in_one_allocation() -> None:
    """ADDITIONAL-ADDRESS-FAMILY saves the dual-stack client a second allocation. RFC 8656 section 7.2."""
    client = Client(Bench())
    answer = client.allocate(stun.AdditionalAddressFamily(stun.FAMILY_IPV6))
    assert [one.address.host for one in answer.get_all(stun.XorRelayedAddress)] == [RELAY_4, RELAY_6]
    assert error_of(client.permit(PEER, PEER_6)) is None
    assert client.indicate(PEER_6, b"six") is not None
    assert client.indicate(PEER, b"four") is not None


def test_one_family_can_be_released_alone() -> None:
    """A client that needs only one of its two addresses gives the other back. RFC 8656 section 8.2."""
    client = Client(Bench())
    client.allocate(stun.AdditionalAddressFamily(stun.FAMILY_IPV6))
    client.bind(0x4000, PEER)
    client.bind(0x4001, PEER_6)
    family = stun.RequestedAddressFamily(stun.FAMILY_IPV6)
    assert error_of(client.request(stun.Method.REFRESH, stun.Lifetime(0), family)) is None
    assert client.bench.server.pools[RELAY_6].used == 0
    assert client.channel_data(b"\x40\x01\x00\x01x") == []
    assert client.channel_data(b"\x40\x00\x00\x01x") != []
    assert error_of(client.permit(PEER_6)) == 443
    assert error_of(client.request(stun.Method.REFRESH, family)) == 443
    assert error_of(client.refresh(0)) is None
    assert client.bench.server.pools[RELAY_4].used == 0


def test_missing_family_is_reported_beside_the_other() -> None:
    """A server without IPv6 still serves the IPv4 half, and says why the rest is missing."""
    bench = Bench(config(relay_hosts={RELAY_4: RELAY_4}))
    answer = Client(bench).allocate(stun.AdditionalAddressFamily(stun.FAMILY_IPV6))
    refusal = answer.get(stun.AddressErrorCode)
    assert refusal is not None
    assert (refusal.family, refusal.code) == (stun.FAMILY_IPV6, 440)
    assert error_of(Client(bench, TransportAddress("192.0.2.1", 1)).allocate(stun.RequestedAddressFamily(2))) == 440


def test_even_port_and_its_reserved_neighbour() -> None:
    """RTP wants an even port and the next one; the token brings the second allocation to it, once, for its user."""
    bench = Bench()
    answer = Client(bench).allocate(stun.EvenPort(reserve=True))
    relayed, token = answer.get(stun.XorRelayedAddress), answer.get(stun.ReservationToken)
    assert relayed is not None
    assert token is not None
    assert relayed.address.port % 2 == 0
    stranger = Client(bench, TransportAddress("192.0.2.1", 1), "ringo", "drums")
    assert error_of(stranger.allocate(token)) == 508
    second = Client(bench, TransportAddress("192.0.2.1", 2)).allocate(token)
    neighbour = second.get(stun.XorRelayedAddress)
    assert neighbour is not None
    assert neighbour.address.port == relayed.address.port + 1
    assert error_of(Client(bench, TransportAddress("192.0.2.1", 3)).allocate(token)) == 508


def test_unused_reservation_ends_after_thirty_seconds() -> None:
    """A reserved port that nobody fetches goes back to the pool."""
    bench = Bench()
    Client(bench).allocate(stun.EvenPort(reserve=True))
    assert (bench.server.reservations, bench.server.pools[RELAY_4].used) == (1, 2)
    bench.wait(31)
    assert (bench.server.reservations, bench.server.pools[RELAY_4].used) == (0, 1)


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ((), 400),
        ((stun.RequestedTransport(17), stun.RequestedAddressFamily(9)), 440),
        ((stun.RequestedTransport(17), stun.RequestedAddressFamily(1), stun.AdditionalAddressFamily(2)), 400),
        ((stun.RequestedTransport(17), stun.AdditionalAddressFamily(1)), 400),
        ((stun.RequestedTransport(17), stun.EvenPort(), stun.ReservationToken(bytes(8))), 400),
        ((stun.RequestedTransport(17), stun.RequestedAddressFamily(1), stun.ReservationToken(bytes(8))), 400),
        ((stun.RequestedTransport(17), stun.EvenPort(reserve=True), stun.AdditionalAddressFamily(2)), 400),
        ((stun.RequestedTransport(17), stun.ReservationToken(bytes(8))), 508),
        ((stun.RequestedTransport(6),), 442),
        ((stun.RequestedTransport(1),), 442),
        ((stun.RequestedTransport(17), stun.RawAttribute(0x7FFF, b"")), 420),
    ],
)
def test_impossible_allocations_are_refused(attributes: tuple[stun.Attribute, ...], code: int) -> None:
    """Each with the code that RFC 8656 section 7.2 names, signed, and without anything left behind."""
    client = Client(Bench())
    answer = client.request(stun.Method.ALLOCATE, *attributes)
    assert error_of(answer) == code
    assert answer.verify_integrity(client.key)
    assert not client.bench.server.allocations
    assert all(pool.used == 0 for pool in client.bench.server.pools.values())


def test_lifetime_is_kept_within_bounds_and_ends_the_allocation() -> None:
    """Less than the default is no saving, more than the maximum is a leak; without a Refresh all is given back."""
    client = allocated()
    assert client.refresh(10).get(stun.Lifetime) == stun.Lifetime(600)
    assert client.refresh(10**6).get(stun.Lifetime) == stun.Lifetime(3600)
    client.bench.wait(3599)
    assert client.bench.server.allocations
    client.bench.wait(2)
    assert not client.bench.server.allocations
    assert any(isinstance(event, CloseRelay) for event in client.bench.events)
    assert error_of(client.refresh()) == 437


def test_shorter_refresh_wins_over_a_longer_one() -> None:
    """A client that says it needs less gets less."""
    client = allocated()
    client.refresh(3600)
    client.refresh(600)
    client.bench.wait(601)
    assert not client.bench.server.allocations


def test_zero_lifetime_releases_and_may_be_repeated() -> None:
    """The answer to the first release may be lost; the second must not look like a failure."""
    client = allocated()
    assert client.refresh(0).get(stun.Lifetime) == stun.Lifetime(0)
    assert not client.bench.server.allocations
    assert client.refresh(0).get(stun.Lifetime) == stun.Lifetime(0)


def test_another_user_cannot_use_an_allocation() -> None:
    """441: credentials are right, but not those the allocation belongs to."""
    client = allocated()
    other = Client(client.bench, username="ringo", password="drums", nonce=client.nonce)
    assert error_of(other.refresh(0)) == 441
    assert error_of(other.permit(PEER)) == 441
    assert client.bench.server.allocations


def test_permission_lets_data_through_both_ways_for_five_minutes() -> None:
    """By host, not by port; refreshed only by the client's requests, never by data."""
    client = allocated()
    assert client.indicate(PEER, b"too early") is None
    assert client.from_peer(PEER, b"too early") == []
    assert error_of(client.permit(PEER)) is None
    sent = client.indicate(PEER, b"out", stun.DontFragment())
    assert sent is not None
    assert (sent.peer, sent.data, sent.dont_fragment) == (PEER, b"out", True)
    other_port = TransportAddress(PEER.host, 1)
    (data,) = client.from_peer(other_port, b"in")
    indication = stun.decode(data)
    assert indication.method == stun.Method.DATA
    assert indication.get(stun.XorPeerAddress) == stun.XorPeerAddress(other_port)
    assert indication.get(stun.Data) == stun.Data(b"in")
    client.bench.wait(301)
    assert client.from_peer(PEER, b"late") == []
    assert client.indicate(PEER, b"late") is None


def test_permissions_are_all_or_none() -> None:
    """One denied peer in the list denies the list. RFC 8656 section 10.2."""
    client = allocated()
    assert error_of(client.permit(PEER, TransportAddress("127.0.0.1", 1))) == 403
    assert client.from_peer(PEER, b"x") == []
    assert error_of(client.permit()) == 400
    assert error_of(client.permit(PEER_6)) == 443


def test_channel_carries_data_both_ways() -> None:
    """Four bytes of header instead of 36, and it installs the permission, too."""
    client = allocated()
    assert error_of(client.bind(0x4000, PEER)) is None
    (forward,) = client.channel_data(b"\x40\x00\x00\x05hello")
    assert (forward.peer, forward.datagrams) == (PEER, [b"hello"])
    assert client.from_peer(PEER, b"world") == [b"\x40\x00\x00\x05world"]
    assert client.channel_data(b"\x40\x01\x00\x05hello") == []
    client.bench.wait(601)
    assert not client.bench.server.allocations


def test_channel_lasts_ten_minutes_and_its_permission_five() -> None:
    """The shorter one decides what peers may send; binding again prolongs both."""
    client = allocated()
    client.refresh(3600)
    client.bind(0x4000, PEER)
    client.bench.wait(301)
    assert client.from_peer(PEER, b"x") == []
    assert client.channel_data(b"\x40\x00\x00\x01x") != []
    client.bind(0x4000, PEER)
    assert client.from_peer(PEER, b"x") != []
    client.bench.wait(601)
    assert client.channel_data(b"\x40\x00\x00\x01x") == []


def test_channel_is_never_bound_to_something_else() -> None:
    """Neither number nor peer may change while the binding lives: late data would reach the wrong one."""
    client = allocated()
    client.bind(0x4000, PEER)
    assert error_of(client.bind(0x4000, TransportAddress(PEER.host, 1))) == 400
    assert error_of(client.bind(0x4001, PEER)) == 400
    assert error_of(client.bind(0x3FFF, PEER)) == 400
    assert error_of(client.bind(0x7FFF, TransportAddress(PEER.host, 2))) == 400


def test_old_channel_numbers_are_for_old_clients() -> None:
    """RFC 8656 ends at 0x4FFF; clients of RFC 5766 choose up to 0x7FFE, and turnutils_uclient does."""
    old, new = allocated(), allocated(algorithm=stun.SHA256)
    assert error_of(old.bind(0x7000, PEER)) is None
    (forward,) = old.channel_data(b"\x70\x00\x00\x01x")
    assert forward.datagrams == [b"x"]
    assert error_of(new.bind(0x5000, PEER)) == 400


@pytest.mark.parametrize("count", [1, 2, 50])
def test_whole_buffers_cross_the_relay(count: int) -> None:
    """What GRO merged leaves as one run for GSO, headers stripped or added, a shorter last datagram included."""
    client = allocated()
    client.bind(0x4000, PEER)
    payloads = [bytes([number]) * 1200 for number in range(count)] + [b"last"]
    messages = [b"\x40\x00" + len(payload).to_bytes(2, "big") + payload for payload in payloads]
    (forward,) = client.channel_data(b"".join(messages), 1204)
    assert forward.datagrams == payloads
    assert client.from_peer(PEER, b"".join(payloads), 1200) == messages


def test_mixed_buffer_keeps_order_per_peer() -> None:
    """Two channels of one client may share a buffer; each datagram finds its peer."""
    client = allocated()
    other = TransportAddress("9.9.9.9", 9)
    client.bind(0x4000, PEER)
    client.bind(0x4001, other)
    forwards = client.channel_data(b"\x40\x00\x00\x01a\x40\x00\x00\x01b\x40\x01\x00\x01c\x40\x00\x00\x09", 5)
    assert [(one.peer, one.datagrams) for one in forwards] == [(PEER, [b"a", b"b"]), (other, [b"c"])]


def test_streams_get_padded_channel_data() -> None:
    """Over TCP a message ends at a multiple of four, or the next one is not found. RFC 8656 section 12.5."""
    client = allocated(transport="tcp")
    client.bind(0x4000, PEER)
    assert client.from_peer(PEER, b"abcde") == [b"\x40\x00\x00\x05abcde\x00\x00\x00"]


def test_relay_that_cannot_be_bound_gets_another_port() -> None:
    """Other programs hold ports, too; a client hears of it only when eight in a row are taken."""
    bench = Bench(config(ports=(50000, 50009)), refused_ports=set(range(50000, 50005)))
    assert error_of(Client(bench).allocate()) is None
    opened = [event for event in bench.events if isinstance(event, OpenRelay)]
    assert opened[-1].relay.address.port >= 50005
    full = Bench(config(ports=(50000, 50009)), refused_ports=set(range(50000, 50010)))
    assert error_of(Client(full).allocate()) == 508
    assert len(full.events) <= 2 * OPEN_ATTEMPTS + 4
    assert full.server.pools[RELAY_4].used == 0


def test_allocation_waits_for_the_shell_and_ends_if_its_client_goes() -> None:
    """Binding may take time; retransmissions in between must not bind twice, and a closed connection ends it."""
    bench = Bench(opens=False)
    client = Client(bench, transport="tcp")
    client.request(stun.Method.REFRESH)
    data = client.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17))
    assert bench.give(client.path, data) is None
    assert bench.give(client.path, data) is None
    assert error_of(client.permit(PEER)) == 437
    (opening,) = [event for event in bench.events if isinstance(event, OpenRelay)]
    bench.server.handle_client_gone(bench.now, client.path)
    assert not bench.server.relay_opened(bench.now, opening.relay)
    assert bench.server.pools[RELAY_4].used == 0


def test_draining_server_refuses_new_allocations_and_serves_old_ones() -> None:
    """So that an operator can restart without cutting calls."""
    client = allocated()
    client.bench.server.drain()
    assert error_of(client.refresh()) is None
    assert error_of(client.permit(PEER)) is None
    assert error_of(Client(client.bench, TransportAddress("192.0.2.1", 1)).allocate()) == 508


def test_announced_address_differs_behind_a_one_to_one_nat() -> None:
    """Bound to the machine's own address, told under the public one."""
    bench = Bench(config(relay_hosts={"10.0.0.5": "192.0.2.15"}))
    answer = Client(bench).allocate()
    relayed = answer.get(stun.XorRelayedAddress)
    (opened,) = [event for event in bench.events if isinstance(event, OpenRelay)]
    assert relayed is not None
    assert relayed.address == TransportAddress("192.0.2.15", opened.relay.bind.port)
    assert opened.relay.bind.host == "10.0.0.5"


def secret_client(bench: Bench, users: SharedSecretUsers, lifetime_s: float, **changes: object) -> Client:
    username, password = users.make("alice", lifetime_s)
    return Client(bench, username=username, password=password, **changes)  # type: ignore[arg-type]


def test_short_lived_credentials_allocate_until_they_expire() -> None:
    """After that they keep what they made, so that a call does not end with its credential, and make nothing new."""
    time = 1_700_000_000.0
    users = SharedSecretUsers(["the first secret", "the old secret"], lambda: time)
    bench = Bench(config(users=users))
    client = secret_client(bench, users, 60)
    assert error_of(client.allocate()) is None
    time += 61
    assert error_of(client.refresh()) is None
    late = Client(bench, TransportAddress("192.0.2.1", 2), client.username, client.password)
    assert error_of(late.allocate()) == 401


def test_renewed_credentials_of_the_same_user_go_on() -> None:
    """`expiry:id` changes with every renewal; the allocation belongs to the id. Another id gets 441."""
    time = 1_700_000_000.0
    users = SharedSecretUsers(["the first secret"], lambda: time)
    bench = Bench(config(users=users))
    client = secret_client(bench, users, 60)
    client.allocate()
    time += 50
    renewed = secret_client(bench, users, 60, nonce=client.nonce)
    assert renewed.username != client.username
    assert error_of(renewed.refresh()) is None
    username, password = users.make("mallory", 60)
    assert error_of(Client(bench, username=username, password=password, nonce=client.nonce).refresh()) == 441


def test_old_secret_is_good_while_it_is_replaced() -> None:
    """Two lines in the secret file let relay and TURN server change it one after the other."""
    old = SharedSecretUsers(["the old secret"], lambda: 0.0)
    bench = Bench(config(users=SharedSecretUsers(["the new secret", "the old secret"], lambda: 0.0)))
    assert error_of(secret_client(bench, old, 60).allocate()) is None


def test_icmp_errors_reach_the_client() -> None:
    """RFC 8656 section 11.5: a Data indication with ICMP, and only for peers that have a permission."""
    client = allocated()
    (relay,) = client.bench.server.allocations[client.path].relays
    client.bench.server.report_icmp(client.bench.now, relay, PEER, 3, 3)
    client.bench.settle()
    assert client.permit(PEER) is not None
    client.bench.sent.clear()
    client.bench.server.report_icmp(client.bench.now, relay, PEER, 3, 3)
    client.bench.settle()
    (told,) = client.bench.sent
    assert stun.decode(told.data).get(stun.Icmp) == stun.Icmp(3, 3)


def test_limits_and_realms_that_serve_nobody_are_refused_at_the_start() -> None:
    """A server that starts and then refuses everybody is harder to understand than one that does not start."""
    with pytest.raises(ValueError, match="serves nobody"):
        TurnLimits(allocations=0)
    with pytest.raises(ValueError, match="below the default"):
        TurnLimits(max_lifetime_s=10)
    with pytest.raises(ValueError, match="one IPv4 address"):
        config(relay_hosts={})
    with pytest.raises(ValueError, match="127"):
        config(realm="x" * 200)
