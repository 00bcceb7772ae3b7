"""The TURN client against a scripted server: traps 29 to 32 and what servers may answer."""

from __future__ import annotations

import pytest
from amount import examples
from hypothesis import given
from hypothesis import strategies as st
from turn_script import CLIENT, OTHER, PEER, RELAYED, RELAYED6, SERVER, USER, Duo, Script, deterministic

from iceagent.core import stun, turn
from iceagent.core.address import make_address
from iceagent.errors import LocalError

METHOD = stun.Method


def bound(duo: Duo) -> Duo:
    """Allocate, permit and bind a channel to PEER."""
    duo.allocate()
    duo.permit()
    duo.send(b"data")
    assert any(isinstance(event, turn.ChannelBound) for event in duo.events)
    return duo


def times(duo: Duo, method: stun.Method) -> int:
    return duo.server.asked[method]


# Trap 29


@pytest.mark.parametrize("data_flows", [False, True])
def test_trap_29_everything_is_refreshed_whether_or_not_data_flows(data_flows):
    """An idle tunnel must still be there after lunch: 300 s for permissions, 600 s for channels and allocation."""
    duo = bound(Duo())
    before = {method: times(duo, method) for method in (METHOD.CREATE_PERMISSION, METHOD.CHANNEL_BIND, METHOD.REFRESH)}
    for step in range(1, 121):
        if data_flows:
            duo.send(b"data")
            duo.client.unwrap(duo.now, turn.encode_channel_data(0x4000, b"back"))
        duo.run_until(step * 30.0)
    hour = {method: times(duo, method) - before[method] for method in before}
    assert hour[METHOD.CREATE_PERMISSION] == 15  # every 240 s
    assert 6 <= hour[METHOD.CHANNEL_BIND] <= 7  # every 540 s
    assert hour[METHOD.REFRESH] >= 6
    assert duo.client.state is turn.ClientState.ALLOCATED
    assert duo.send(b"data") == [turn.encode_channel_data(0x4000, b"data")]


def test_a_refresh_that_is_lost_is_tried_again_before_the_allocation_runs_out():
    """One lost packet, or one lost transaction, must not cost the address."""
    duo = Duo()
    duo.allocate()
    duo.server.answers[METHOD.REFRESH] = None
    duo.run_until(585.0)
    duo.server.answers.clear()
    duo.run_until(1200.0)
    assert duo.ended() is None


def test_an_allocation_that_cannot_be_refreshed_ends_when_it_has_expired():
    """The shell must learn that the address is gone, to get another."""
    duo = Duo()
    duo.allocate()
    duo.server.answers[METHOD.REFRESH] = None
    duo.run_until(700.0)
    assert duo.end().reason is turn.EndReason.EXPIRED
    assert duo.client.next_timeout() is None


# Trap 30


def test_trap_30_a_channel_is_not_bound_anew_after_an_ambiguous_failure():
    """The server may have bound it: another number, or that number for another peer, would cross two peers' data."""
    duo = Duo()
    duo.allocate()
    duo.permit()
    duo.permit(OTHER)
    duo.server.answers[METHOD.CHANNEL_BIND] = None
    duo.send(b"data")
    duo.run_until(60.0)
    assert turn.ChannelFailed(PEER, None) in duo.events
    duo.server.answers.clear()
    asked = times(duo, METHOD.CHANNEL_BIND)
    assert len(duo.send(b"data")) == 1
    assert times(duo, METHOD.CHANNEL_BIND) == asked
    duo.send(b"data", peer=OTHER)
    assert turn.ChannelBound(OTHER, 0x4001) in duo.events
    # What the server sends on the number whose binding it answered in vain is still the first peer's.
    assert duo.client.unwrap(duo.now, turn.encode_channel_data(0x4000, b"late")) == (PEER, b"late")


def test_trap_30_a_failed_bind_leaves_data_flowing_by_indication():
    """Whoever waits for a channel that never comes waits for ever; so nobody waits."""
    duo = Duo(Script(answers={METHOD.CHANNEL_BIND: 400}))
    duo.allocate()
    duo.permit()
    (message,) = duo.send(b"data")
    assert stun.decode(message).method == METHOD.SEND
    assert turn.ChannelFailed(PEER, 400) in duo.events
    (message,) = duo.send(b"more")
    assert stun.decode(message).get(stun.Data) == stun.Data(b"more")


def bindings(duo: Duo) -> set[tuple[int, object]]:
    """The number and the peer of every ChannelBind request sent so far."""
    requests = [stun.decode(data) for data in duo.sent if stun.looks_like_stun(data)]
    found: set[tuple[int, object]] = set()
    for request in requests:
        if request.method == METHOD.CHANNEL_BIND:
            number, peer = request.get(stun.ChannelNumber), request.get(stun.XorPeerAddress)
            assert number is not None
            assert peer is not None
            found.add((number.value, peer.address))
    return found


def test_trap_30_a_refresh_that_nobody_answered_is_repeated_with_the_same_number_for_the_same_peer():
    """That is a refresh whether or not the last one arrived; to give the channel up would slow what works."""
    duo = bound(Duo())
    duo.run_until(539.0)
    before = times(duo, METHOD.CHANNEL_BIND)
    duo.server.answers[METHOD.CHANNEL_BIND] = None
    duo.run_until(582.0)
    assert times(duo, METHOD.CHANNEL_BIND) > before, "the refresh was lost"
    assert duo.send(b"data") == [turn.encode_channel_data(0x4000, b"data")], "it stands for as long as it was granted"
    duo.server.answers.clear()
    duo.run_until(1100.0)
    assert not any(isinstance(event, turn.ChannelFailed) for event in duo.events)
    assert duo.send(b"data") == [turn.encode_channel_data(0x4000, b"data")]
    assert bindings(duo) == {(0x4000, PEER)}


def test_trap_30_a_channel_that_ran_out_unanswered_is_not_bound_anew():
    """When its time is over nobody knows what the server holds; data goes by indication, for good."""
    duo = bound(Duo())
    duo.server.answers[METHOD.CHANNEL_BIND] = None
    duo.run_until(601.0)
    assert turn.ChannelFailed(PEER, None) in duo.events
    duo.server.answers.clear()
    asked = times(duo, METHOD.CHANNEL_BIND)
    for step in range(10):
        duo.run_until(602.0 + step)
        (message,) = duo.send(b"data")
        assert stun.decode(message).method == METHOD.SEND
    duo.permit(OTHER)
    duo.send(b"data", peer=OTHER)
    assert times(duo, METHOD.CHANNEL_BIND) == asked + 1
    assert bindings(duo) == {(0x4000, PEER), (0x4001, OTHER)}, "no number ever changes hands"


def test_trap_30_a_refused_refresh_ends_the_channel_and_is_not_repeated():
    """A refusal is no ambiguity: the server has spoken."""
    duo = bound(Duo())
    duo.server.answers[METHOD.CHANNEL_BIND] = 400
    before = times(duo, METHOD.CHANNEL_BIND)
    duo.run_until(599.0)
    assert times(duo, METHOD.CHANNEL_BIND) == before + 1
    assert turn.ChannelFailed(PEER, 400) in duo.events
    (message,) = duo.send(b"data")
    assert stun.decode(message).method == METHOD.SEND


# Trap 31


@pytest.mark.parametrize("method", [METHOD.ALLOCATE, METHOD.REFRESH, METHOD.CREATE_PERMISSION, METHOD.CHANNEL_BIND])
def test_trap_31_438_may_answer_any_request_repeatedly(method):
    """Servers expire nonces when they like; a client that takes the second 438 for a refusal loses its address."""
    duo = Duo()
    if method is METHOD.ALLOCATE:
        duo.server.stale = 5
        duo.allocate()
        return
    duo.allocate()
    if method is METHOD.REFRESH:
        duo.server.stale = 5
        duo.run_until(580.0)
        assert times(duo, method) == 6
    else:
        duo.server.stale = 5 if method is METHOD.CREATE_PERMISSION else 0
        duo.permit()
        duo.server.stale = 5 if method is METHOD.CHANNEL_BIND else 0
        duo.send(b"data")
    assert duo.server.stale == 0
    assert duo.ended() is None
    assert not any(isinstance(event, turn.PermissionFailed | turn.ChannelFailed) for event in duo.events)


def test_a_server_that_never_stops_saying_438_is_given_up():
    """Otherwise two programs would keep each other busy for ever."""
    duo = Duo(Script(stale=1000))
    duo.client.start(0.0)
    duo.settle()
    assert duo.end().reason is turn.EndReason.CREDENTIALS_REFUSED
    assert len(duo.sent) < 30


def test_trap_31_403_fails_one_peer_only():
    """A relay that forbids private addresses must not cost the public candidate of the same peer."""
    duo = Duo(Script(answers={METHOD.CREATE_PERMISSION: 403}))
    duo.allocate()
    duo.permit()
    duo.server.answers.clear()
    duo.permit(OTHER)
    assert duo.offer(b"data") is None
    assert duo.client.permission(PEER.host) is turn.PeerState.FAILED
    assert len(duo.send(b"data", peer=OTHER)) == 1
    assert duo.client.state is turn.ClientState.ALLOCATED


# Trap 32


def test_trap_32_what_waits_for_a_permission_leaves_in_order_and_bounded():
    """The first datagrams of a peer are its checks and handshake; reordered or piled up they only do harm."""
    duo = Duo()
    duo.allocate()
    assert duo.client.wrap(duo.now, PEER, [b"\0"]) is None
    waiting = [b"\0%03d" % number for number in range(100)]
    taken = duo.client.hold(PEER, waiting)
    assert 0 < taken < 100
    assert duo.client.hold(PEER, waiting[taken:]) == 0
    duo.settle()
    datagrams = [message.get(stun.Data) for message in duo.server.log if message.method == METHOD.SEND]
    assert datagrams == [stun.Data(data) for data in waiting[:taken]]


def test_what_waits_for_a_permission_that_is_refused_is_dropped():
    """Held for ever it would be a leak."""
    duo = Duo(Script(answers={METHOD.CREATE_PERMISSION: 403}))
    duo.allocate()
    assert duo.client.wrap(duo.now, PEER, [b"\0"]) is None
    assert duo.client.hold(PEER, [b"\0"]) == 1
    duo.settle()
    assert turn.PermissionFailed(PEER.host, 403) in duo.events
    assert duo.client.hold(PEER, [b"\0"]) == 0


# Authentication


@pytest.mark.parametrize("modern", [True, False])
def test_old_and_new_servers_are_spoken_to_as_they_understand(modern):
    """SHA-256 where it is offered, MD5 and SHA-1 for servers of RFC 5389."""
    duo = Duo(Script(modern=modern, nonce="obMatJos2gAAAone" if modern else "a plain one"))
    duo.allocate()
    request = duo.server.log[-1]
    assert request.integrity is (stun.Integrity.SHA256 if modern else stun.Integrity.SHA1)
    assert (request.get(stun.PasswordAlgorithm) is not None) is modern


def test_the_user_name_is_hidden_where_the_server_offers_it():
    """USERHASH, RFC 8489 section 14.4."""
    nonce = stun.make_nonce(stun.SecurityFeature.PASSWORD_ALGORITHMS | stun.SecurityFeature.USERNAME_ANONYMITY, "n")
    duo = Duo(Script(nonce=nonce))
    duo.allocate()
    request = duo.server.log[-1]
    assert request.get(stun.Username) is None
    assert request.get(stun.Userhash) == stun.Userhash(stun.userhash("george", "example.org"))


def test_a_challenge_without_the_algorithms_its_nonce_promises_is_a_bid_down():
    """The cookie is part of the nonce so that nobody in between can take SHA-256 away unseen."""
    script = Script(nonce="obMatJos2gAAAone", modern=False)
    duo = Duo(script)
    duo.client.start(0.0)
    duo.settle()
    assert duo.end().reason is turn.EndReason.BID_DOWN


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        (None, turn.EndReason.CREDENTIALS_NEEDED),
        (turn.TurnCredentials("george", "wrong"), turn.EndReason.CREDENTIALS_REFUSED),
    ],
)
def test_wrong_or_missing_credentials_are_told_at_once(credentials, reason):
    """Not after 39.5 seconds of retransmissions."""
    duo = Duo(credentials=credentials)
    duo.client.start(0.0)
    duo.settle()
    assert duo.end().reason is reason
    assert duo.end().code == 401


def test_new_credentials_refresh_the_same_allocation():
    """Short-lived credentials are renewed; the address must stay, or the session breaks every ten minutes."""
    duo = Duo()
    duo.allocate()
    duo.client.set_credentials(duo.now, turn.TurnCredentials("henry", "secret"))
    duo.settle()
    assert turn.CredentialsChanged(True) in duo.events
    assert times(duo, METHOD.ALLOCATE) == 2  # challenged and repeated, once
    duo.permit()
    assert duo.server.log[-1].get(stun.Username) == stun.Username("henry")


def test_new_credentials_a_server_refuses_leave_the_old_ones_in_use():
    """RFC 8656 section 5 lets a server answer another user name with 441: the allocation lives on as it was."""
    duo = Duo()
    duo.allocate()
    duo.server.answers[METHOD.REFRESH] = 441
    duo.client.set_credentials(duo.now, turn.TurnCredentials("henry", "secret"))
    duo.settle()
    duo.server.answers.clear()
    assert turn.CredentialsChanged(False) in duo.events
    duo.permit()
    assert duo.server.log[-1].get(stun.Username) == stun.Username("george")
    assert duo.ended() is None


# Other answers


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (486, turn.EndReason.QUOTA),
        (508, turn.EndReason.CAPACITY),
        (403, turn.EndReason.FORBIDDEN),
        (437, turn.EndReason.MISMATCH),
        (442, turn.EndReason.UNSUPPORTED),
        (440, turn.EndReason.UNSUPPORTED),
    ],
)
def test_a_refusal_to_allocate_says_why(code, reason):
    """The user is told what to do about it."""
    duo = Duo(Script(answers={METHOD.ALLOCATE: code}))
    duo.client.start(0.0)
    duo.settle()
    assert (duo.end().reason, duo.end().code) == (reason, code)


def test_an_alternate_server_is_named():
    """Following it, with bounds, is the shell's: it needs another socket."""
    alternate = make_address("192.0.2.99", 3478)
    duo = Duo(Script(alternate=alternate))
    duo.client.start(0.0)
    duo.settle()
    assert duo.end().reason is turn.EndReason.ALTERNATE_SERVER
    assert duo.end().alternate == alternate


@pytest.mark.parametrize("method", [METHOD.REFRESH, METHOD.CREATE_PERMISSION, METHOD.CHANNEL_BIND])
def test_437_says_that_the_allocation_is_gone(method):
    """A server that was restarted says so to whatever it is asked."""
    duo = Duo()
    duo.allocate()
    duo.server.answers[method] = 437
    duo.permit()
    duo.offer(b"data")
    duo.run_until(590.0)
    assert duo.end().reason is turn.EndReason.MISMATCH


def test_a_restarted_server_is_noticed_within_two_seconds_of_the_first_unanswered_data():
    """It drops ChannelData of allocations it does not know in silence; only a request brings it to light."""
    duo = bound(Duo())
    duo.run_until(100.0)
    duo.server.nonce = "obMatJos2gAAAanother"
    duo.server.answers[METHOD.REFRESH] = 437
    duo.send(b"data")
    duo.run_until(102.0)
    assert duo.end().reason is turn.EndReason.MISMATCH


def test_a_dead_server_is_given_up_within_ten_seconds_while_data_is_sent():
    """There are other routes to be tried."""
    duo = bound(Duo())
    duo.run_until(100.0)
    duo.server.answers = dict.fromkeys(METHOD, None)
    duo.send(b"data")
    duo.run_until(110.0)
    assert duo.end().reason is turn.EndReason.NO_ANSWER


def test_silent_peers_are_no_reason_to_ask_the_server_all_the_time():
    """A peer that is gone is the peer's matter; the server has answered, so it is asked less and less."""
    duo = bound(Duo())
    before = times(duo, METHOD.REFRESH)
    for step in range(600):
        duo.send(b"data")
        duo.run_until(step * 0.1)
    assert times(duo, METHOD.REFRESH) - before <= 8
    assert duo.ended() is None


def test_icmp_about_the_server_makes_the_client_ask_and_nothing_more():
    """Anybody can forge ICMP (trap 28)."""
    duo = Duo()
    duo.allocate()
    before = times(duo, METHOD.REFRESH)
    duo.client.note_unreachable(duo.now)
    duo.settle()
    assert times(duo, METHOD.REFRESH) == before + 1
    assert duo.ended() is None


def test_both_families_in_one_allocation():
    """ADDITIONAL-ADDRESS-FAMILY: one request, two relayed addresses."""
    duo = Duo(Script(dual=True), request=turn.AllocationRequest(families=(4, 6)))
    assert duo.allocate().relayed == (RELAYED, RELAYED6)
    assert duo.server.log[0].get(stun.AdditionalAddressFamily) == stun.AdditionalAddressFamily(stun.FAMILY_IPV6)
    assert duo.client.permit(duo.now, "2001:db8::9") is turn.PeerState.PENDING
    single = Duo()
    single.allocate()
    assert single.client.permit(single.now, "2001:db8::9") is turn.PeerState.FAILED


@pytest.mark.parametrize(
    ("options", "attribute"),
    [
        ({"families": (6,)}, stun.RequestedAddressFamily(stun.FAMILY_IPV6)),
        ({"even_port": True}, stun.EvenPort(False)),
        ({"reserve_next": True}, stun.EvenPort(True)),
        ({"reservation_token": b"8 bytes!"}, stun.ReservationToken(b"8 bytes!")),
        ({"dont_fragment": True}, stun.DontFragment()),
        ({"lifetime_s": 1800}, stun.Lifetime(1800)),
        ({"tcp": True}, stun.RequestedTransport(stun.TRANSPORT_TCP)),
    ],
)
def test_what_is_asked_for_is_in_the_request(options, attribute):
    """RFC 8656 section 7.1, RFC 6062 section 4.1."""
    assert attribute in turn.AllocationRequest(**options).attributes()


@pytest.mark.parametrize(
    "options",
    [
        {"families": (6, 4)},
        {"reservation_token": b"8 bytes!", "even_port": True},
        {"reserve_next": True, "families": (4, 6)},
        {"tcp": True, "dont_fragment": True},
    ],
)
def test_what_the_rfc_forbids_is_not_asked_for(options):
    """A server would answer 400, and nobody would know why."""
    with pytest.raises(ValueError):
        turn.AllocationRequest(**options)


def test_connections_of_rfc_6062_are_told():
    """Connect answered, and a peer that connects by itself."""
    duo = Duo(request=turn.AllocationRequest(tcp=True), stream=True)
    duo.allocate()
    duo.client.connect(duo.now, PEER)
    duo.settle()
    assert turn.Connected(PEER, 7) in duo.events
    attempt = stun.Message(
        stun.MessageClass.INDICATION,
        METHOD.CONNECTION_ATTEMPT,
        bytes(12),
        (stun.XorPeerAddress(OTHER), stun.ConnectionId(8)),
    )
    duo.client.unwrap(duo.now, stun.encode(attempt, fingerprint=False))
    duo.settle()
    assert turn.ConnectionAttempted(OTHER, 8) in duo.events


def test_a_release_says_lifetime_zero_and_leaves_no_timer():
    """A server holds ports for ten minutes otherwise, and its quotas count them."""
    duo = bound(Duo())
    duo.client.release(duo.now)
    duo.settle()
    assert duo.server.log[-1].get(stun.Lifetime) == stun.Lifetime(0)
    assert duo.end().reason is turn.EndReason.CLOSED
    assert duo.client.next_timeout() is None
    assert duo.client.wrap(duo.now, PEER, [b"data"]) is None


def test_a_client_makes_one_allocation():
    """A second start would mix up two lives."""
    duo = Duo()
    duo.allocate()
    with pytest.raises(LocalError):
        duo.client.start(0.0)


def test_batches_of_a_bound_channel_are_unwrapped_whole():
    """DESIGN's data path: one call per GRO buffer."""
    duo = bound(Duo())
    messages = duo.send(*[b"x" * 1200] * 40, b"tail")
    assert {len(message) for message in messages} == {1204, 8}
    buffer = b"".join(messages)
    assert duo.client.unwrap_batch(duo.now, buffer, 1204) == [(PEER, b"x" * 48000 + b"tail", 1200)]


def test_channel_data_in_a_stream_is_padded():
    """RFC 8656 section 12.5."""
    duo = bound(Duo(stream=True))
    assert duo.client.wrap(duo.now, PEER, [b"12345"]) == [b"\x40\0\0\x0512345\0\0\0"]


def test_data_of_peers_nobody_permitted_does_not_reach_the_user():
    """RFC 8656 section 11.4; a server that forwards it is broken or somebody else."""
    duo = Duo()
    duo.allocate()
    attributes = (stun.XorPeerAddress(OTHER), stun.Data(b"surprise"))
    message = stun.Message(stun.MessageClass.INDICATION, METHOD.DATA, bytes(12), attributes)
    assert duo.client.unwrap(duo.now, stun.encode(message, fingerprint=False)) is None
    assert duo.client.counters["no_permission"] == 1


@examples(200, 60)
@given(st.data())
def test_bytes_of_the_network_never_raise_and_timers_move_on(data):
    """Rules 1 and 3 of the core, with noise and mutated answers at every step."""
    duo = Duo()
    duo.client.start(0.0)
    for _ in range(data.draw(st.integers(1, 12))):
        transmit = duo.client.poll_transmit()
        if transmit is not None:
            answer = duo.server.answer(transmit.data) or b""
            if answer and data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(answer) - 1))
                answer = answer[:at] + bytes((answer[at] ^ data.draw(st.integers(1, 255)),)) + answer[at + 1 :]
            duo.client.unwrap(duo.now, answer)
        duo.client.unwrap_batch(duo.now, data.draw(st.binary(max_size=60)), data.draw(st.integers(1, 60)))
        duo.client.permit(duo.now, PEER.host)
        duo.client.wrap(duo.now, PEER, [b"data"])
        duo.now += data.draw(st.floats(0, 300))
        duo.client.handle_timeout(duo.now)
        due = duo.client.next_timeout()
        assert due is None or due > duo.now


def test_same_seed_same_bytes():
    """Rule 4."""
    runs = []
    for _ in range(2):
        duo = bound(Duo())
        duo.run_until(1000.0)
        runs.append(duo.sent)
    assert runs[0] == runs[1]
    client = turn.TurnClient(CLIENT, SERVER, USER, randbytes=deterministic(b"other"))
    client.start(0.0)
    first = client.poll_transmit()
    assert first is not None
    assert first.data != runs[0][0]


def test_a_permission_is_asked_for_every_two_seconds_while_the_line_loses_the_answers():
    """Doubled waits ask five times in the first ten seconds, in which the peer's checks want to come through."""
    duo = Duo()
    duo.allocate()
    duo.server.answers[METHOD.CREATE_PERMISSION] = None
    duo.permit()
    began = duo.now
    duo.run_until(began + 10)
    assert times(duo, METHOD.CREATE_PERMISSION) == 7
    duo.server.answers.clear()
    duo.run_until(began + 12)
    assert any(isinstance(event, turn.PermissionInstalled) for event in duo.events)
