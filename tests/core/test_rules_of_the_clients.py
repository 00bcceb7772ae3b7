"""Rules 1, 3 and 5 of the core's contract for STUN and TURN clients whose server says whatever it likes.

Those of the TURN server, of NAT discovery and of port mapping stand with their own tests.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from amount import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from iceagent.core import stun, turn
from iceagent.core.address import make_address
from iceagent.errors import LocalError

SEEDS = st.integers(0, 2**32 - 1)
FEW = examples(60, 20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
US, SERVER, PEER = make_address("192.0.2.1", 1000), make_address("198.51.100.1", 3478), make_address("203.0.113.9", 9)
CODES = (300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 500, 508)
ATTRIBUTES: tuple[stun.Attribute, ...] = (
    stun.XorRelayedAddress(make_address("198.51.100.1", 50000)),
    stun.XorMappedAddress(US),
    stun.Lifetime(600),
    stun.Lifetime(0),
    stun.Lifetime(2**32 - 1),
    stun.Realm("realm"),
    stun.Nonce("nonce"),
    stun.XorPeerAddress(PEER),
    stun.Data(b"data"),
    stun.AlternateServer(make_address("203.0.113.1", 1)),
)


def reply(chance: random.Random, sent: list[bytes], key: bytes) -> bytes:
    """Return what a server gone mad might say to one of the requests it got."""
    asked = stun.decode(chance.choice(sent)) if sent else stun.binding_request(bytes(12))
    attributes = chance.sample(ATTRIBUTES, chance.randrange(len(ATTRIBUTES)))
    what = chance.randrange(4)
    if what == 0:
        message = stun.success(asked, *attributes)
    elif what == 1:
        message = stun.error(asked, chance.choice(CODES), "no", *attributes)
    elif what == 2:
        message = stun.Message(stun.MessageClass.INDICATION, stun.Method.DATA, chance.randbytes(12), tuple(attributes))
    else:
        return chance.randbytes(chance.randrange(120))
    data = stun.encode(message, key=key if chance.random() < 0.6 else None, fingerprint=chance.random() < 0.5)
    if chance.random() < 0.2:
        mutant = bytearray(data)
        mutant[chance.randrange(len(mutant))] ^= 1 << chance.randrange(8)
        data = bytes(mutant)
    return data


@given(SEEDS)
@FEW
def test_no_server_makes_a_turn_client_raise_hang_or_grow(seed: int) -> None:
    """Challenges without end, grants without addresses, lifetimes of nothing and of a century, noise."""
    chance = random.Random(seed)
    login = turn.TurnCredentials("user", "password")
    key = stun.long_term_key("user", "realm", "password")
    client = turn.TurnClient(US, SERVER, login, randbytes=chance.randbytes, stream=chance.random() < 0.3)
    now = 0.0
    sent: list[Any] = []
    client.start(now)
    for step in range(300):
        peer = make_address(f"203.0.113.{chance.randrange(1, 255)}", chance.randrange(1, 65536))
        what = chance.randrange(6)
        if what == 0 and client.state is turn.ClientState.ALLOCATED:
            client.permit(now, peer.host)
            if client.wrap(now, peer, [b"data"]) is None:
                client.hold(peer, [b"data"])
        elif what == 1:
            now += chance.choice([0.1, 1.0, 30.0, 300.0])
            client.handle_timeout(now)
            due = client.next_timeout()
            assert due is None or due > now
        elif what == 2 and step > 250:
            client.release(now)
        elif what == 3 and chance.random() < 0.1:
            client.note_unreachable(now)
        else:
            client.unwrap(now, reply(chance, sent, key))
        for _ in range(2000):
            transmit = client.poll_transmit()
            if transmit is None:
                break
            if stun.looks_like_stun(transmit.data):
                sent.append(transmit.data)
        else:
            raise AssertionError("one step made two thousand datagrams")
        del sent[:-20]
        while client.poll_event() is not None:
            pass
    client.close()
    assert client.next_timeout() is None
    assert client.poll_transmit() is None


@given(SEEDS)
@FEW
def test_no_server_makes_a_stun_client_raise_hang_or_grow(seed: int) -> None:
    """As many transactions as it allows, answered by anything or nothing."""
    chance = random.Random(seed)
    client = stun.StunClient(max_transactions=50)
    key = stun.short_term_key("password")
    now = 0.0
    sent: list[Any] = []
    for _ in range(300):
        what = chance.randrange(4)
        if what == 0:
            request = stun.binding_request(chance.randbytes(12))
            with suppress(LocalError):  # full: the caller is told, and nothing else happens
                client.start(now, US, SERVER, request, key if chance.random() < 0.5 else None)
        elif what == 1:
            now += chance.choice([0.1, 1.0, 40.0])
            client.handle_timeout(now)
            due = client.next_timeout()
            assert due is None or due > now
        else:
            data = reply(chance, sent, key)
            try:
                message = stun.decode(data)
            except stun.StunError:
                continue
            client.handle_message(now, US, chance.choice([SERVER, PEER]), message)
        while (transmit := client.poll_transmit()) is not None:
            sent.append(transmit.data)
        del sent[:-20]
        events = 0
        while client.poll_event() is not None:
            events += 1
        assert events <= 50
    client.close()
    assert client.next_timeout() is None
