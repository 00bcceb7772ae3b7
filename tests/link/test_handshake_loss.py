"""Handshakes on lines that lose packets: every order of losses, and no clock but a number."""

from __future__ import annotations

import heapq
import random

import pytest

from iceagent.core.address import TransportAddress
from iceagent.link import LinkConfig, LinkRole, generate_identity
from iceagent.link.backends import create_endpoint
from iceagent.link.quic import QuicEndpoint
from iceagent.net.batch import Batch

PEER = TransportAddress("192.0.2.1", 1)
DELAY_S = 0.02
LIMIT_S = 60.0
IDENTITIES = {role: generate_identity() for role in LinkRole}


class _Deaf:
    """A handler that ignores every event."""

    def __getattr__(self, name: str):
        return lambda *_: None


def endpoints(backend: str) -> dict[LinkRole, QuicEndpoint]:
    return {
        role: create_endpoint(backend, role, IDENTITIES[role], IDENTITIES[role.other].fingerprint, LinkConfig())
        for role in LinkRole
    }


def shake_hands(seed: int, loss: float, backend: str = "qh3") -> tuple[float, dict[LinkRole, QuicEndpoint]]:
    """Return when both ends had finished (seconds), and the ends."""
    rng = random.Random(seed)
    ends = endpoints(backend)
    flying: list[tuple[float, int, LinkRole, bytes]] = []
    now, number = 0.0, 0
    ends[LinkRole.CLIENT].connect(now)
    while not all(end.handshake_done for end in ends.values()) and now < LIMIT_S:
        for role, end in ends.items():
            for datagram in end.datagrams_to_send(now):
                number += 1
                if rng.random() >= loss:
                    heapq.heappush(flying, (now + DELAY_S * rng.uniform(1, 1.2), number, role.other, datagram))
        timers = [timer for end in ends.values() if (timer := end.timer()) is not None]
        now = max(now + 1e-4, min([*timers, *(flight[0] for flight in flying[:1])]))
        while flying and flying[0][0] <= now:
            _, _, role, datagram = heapq.heappop(flying)
            ends[role].receive_untrusted([Batch(PEER, datagram, len(datagram))], now)
        for end in ends.values():
            if (timer := end.timer()) is not None and timer <= now:
                end.handle_timer(now)
            end.drain_events(_Deaf())
    return now, ends


@pytest.mark.parametrize("loss", [0.1, 0.35])
def test_every_handshake_comes_to_an_end(loss: float) -> None:
    """The library hangs in one of a hundred lossy handshakes; the link must not, or a session fails on a poor line."""
    times = []
    for seed in range(150):
        took_s, ends = shake_hands(seed, loss)
        assert all(end.handshake_done for end in ends.values()), f"seed {seed}"
        times.append(took_s)
    assert sorted(times)[75] < 3.0


def test_a_client_that_begins_anew_replaces_its_unfinished_connection() -> None:
    """Only the first flight of the first attempt arrives; the second attempt is another connection, and succeeds."""
    ends = endpoints("qh3")
    client, server = ends[LinkRole.CLIENT], ends[LinkRole.SERVER]
    client.connect(0.0)
    stale = client.datagrams_to_send(0.0)
    server.receive_untrusted([Batch(PEER, datagram, len(datagram)) for datagram in stale], 0.0)
    server.datagrams_to_send(0.0)
    now = client.timer() or 0.0
    while client.handshakes == 1:
        client.handle_timer(now)
        fresh = client.datagrams_to_send(now)
        now = client.timer() or now
    for step in range(6):
        server.receive_untrusted([Batch(PEER, datagram, len(datagram)) for datagram in fresh], now + step)
        server.drain_events(_Deaf())
        answer = server.datagrams_to_send(now + step)
        # What is left of the first attempt does not bring it back.
        server.receive_untrusted([Batch(PEER, datagram, len(datagram)) for datagram in stale], now + step)
        client.receive_untrusted([Batch(PEER, datagram, len(datagram)) for datagram in answer], now + step)
        client.drain_events(_Deaf())
        fresh = client.datagrams_to_send(now + step)
    assert client.handshake_done
    assert server.handshake_done
    assert server.handshakes == 2


def test_nothing_begins_anew_after_the_handshake() -> None:
    """A finished connection is the link: no packet may take its place."""
    _, ends = shake_hands(1, 0.0)
    server = ends[LinkRole.SERVER]
    stranger = endpoints("qh3")[LinkRole.CLIENT]
    stranger.connect(1.0)
    server.receive_untrusted([Batch(PEER, one, len(one)) for one in stranger.datagrams_to_send(1.0)], 1.0)
    assert server.handshakes == 1
    assert ends[LinkRole.CLIENT].timer() is None or ends[LinkRole.CLIENT].handshakes == 1
