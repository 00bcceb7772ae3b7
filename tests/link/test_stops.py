"""A link whose program is stopped for a while: what the QUIC library takes for the path's must not be our own time."""

from __future__ import annotations

import pytest

from iceagent.core.address import TransportAddress
from iceagent.link import LinkConfig, LinkRole, generate_identity
from iceagent.link.backends import create_endpoint
from iceagent.link.quic import QuicEndpoint
from iceagent.net.batch import Batch

PEER = TransportAddress("192.0.2.1", 1)
DELAY_S = 0.02


class _Deaf:
    """A handler that ignores every event."""

    def __getattr__(self, name: str):
        return lambda *_: None


class World:
    """Two ends, the way between them, and a time."""

    def __init__(self, backend: str) -> None:
        identities = {role: generate_identity() for role in LinkRole}
        self.client, self.server = (
            create_endpoint(backend, role, identities[role], identities[role.other].fingerprint, LinkConfig())
            for role in (LinkRole.CLIENT, LinkRole.SERVER)
        )
        self.now = 0.0
        self.flying: list[tuple[float, QuicEndpoint, bytes]] = []
        self.client.connect(self.now)

    def run(self, seconds: float, stopped: QuicEndpoint | None = None) -> None:
        """Let time pass; what comes for an end that is stopped is there when it goes on, and its timers are late."""
        until = self.now + seconds
        while self.now < until:
            for end, other in ((self.client, self.server), (self.server, self.client)):
                if end is stopped:
                    continue
                for _, _, datagram in [one for one in self.flying if one[1] is end and one[0] <= self.now]:
                    end.receive_untrusted([Batch(PEER, datagram, len(datagram))], self.now)
                self.flying = [one for one in self.flying if one[1] is not end or one[0] > self.now]
                if (timer := end.timer()) is not None and timer <= self.now:
                    end.handle_timer(self.now)
                end.drain_events(_Deaf())
                self.flying += [(self.now + DELAY_S, other, one) for one in end.datagrams_to_send(self.now)]
            self.now += 0.005


@pytest.mark.parametrize("stop_s", [2.0, 30.0])
@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_a_time_in_which_we_were_stopped_is_no_round_trip(backend: str, stop_s: float) -> None:
    """The acknowledgement lies in the socket meanwhile; what counts of that is the time until something is due."""
    world = World(backend)
    world.run(2.0)
    before = world.client.rtt_s
    assert before is not None
    for number in range(3):
        world.client.ping(number)
        world.run(0.005)
        world.run(stop_s, stopped=world.client)
        world.run(1.0)
    assert world.client.rtt_s == pytest.approx(before, abs=0.1)


@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_timers_are_as_late_as_we_are_and_no_later(backend: str) -> None:
    """Whoever went on after a stop has to repeat what was lost, as after any other time."""
    world = World(backend)
    world.run(2.0)
    world.client.ping(1)
    world.run(0.005)
    world.flying.clear()
    world.run(10.0, stopped=world.client)
    timer = world.client.timer()
    assert timer is not None
    assert timer <= world.now
    lost = world.client.bytes_in_flight
    world.run(1.0)
    assert lost
    assert world.client.bytes_in_flight == 0
