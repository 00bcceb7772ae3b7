"""A link with many streams goes on when packets are lost or late: no stream stands still, whatever ends meanwhile."""

from __future__ import annotations

import pytest
from many_streams import Load, Session, two_ends

RTT_S = 0.040
OUTAGE_S = 5.0
BLOCK = 1100  # nearly a packet


class Wire:
    """Carries what the test wants carried; its time stands still otherwise."""

    def __init__(self, backend: str) -> None:
        self.now = 0.0
        self.client, self.server = self.ends = two_ends(backend)

    def send(self, end: int) -> list[bytes]:
        """Return what this end sends now."""
        return self.ends[end].endpoint.datagrams_to_send(self.now)

    def carry(self, rounds: int = 10) -> None:
        """Let everything of both ends arrive, for so many round trips."""
        for _ in range(rounds):
            for end in (0, 1):
                self.now += RTT_S / 2
                self.ends[1 - end].take(self.send(end), self.now)
                self.ends[1 - end].time(self.now)

    def pass_time(self, seconds: float) -> None:
        """Lose all that both ends send meanwhile."""
        until = self.now + seconds
        while self.now < until:
            self.now += RTT_S
            for end in (0, 1):
                self.ends[end].time(self.now)
                self.send(end)


@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_a_stream_that_finishes_while_a_frame_of_it_waits_harms_no_other(backend: str) -> None:
    """Before, the library failed as that frame's turn came, and threw away the others of its packet for good."""
    wire = Wire(backend)
    client, server = wire.client.endpoint, wire.server.endpoint
    client.connect(wire.now)
    wire.carry()
    streams = []
    for _ in range(8):
        streams.append(client.open_stream())
        client.send_stream(streams[-1], b"x")
    ending = client.open_stream()
    client.end_stream(ending)
    wire.carry()

    for stream in streams:
        client.send_stream(stream, bytes(BLOCK))
    wire.send(0)  # lost
    client.stop_stream(ending, 1)
    wire.send(0)  # lost, too
    wire.pass_time(OUTAGE_S)
    while not (probes := wire.send(0)):
        due = client.timer()
        assert due is not None
        wire.now = due
        wire.client.time(wire.now)
    wire.server.take(probes, wire.now)
    wire.client.take(wire.send(1), wire.now)
    wire.send(0)  # of nine frames to repeat the window takes two: persistent congestion (RFC 9002 section 7.6)
    server.end_stream(ending)
    wire.client.take(wire.send(1), wire.now)
    wire.carry(100)
    assert client.library_errors == 0
    assert [wire.server.received.get(stream) for stream in streams] == [1 + BLOCK] * len(streams)
    assert wire.client.ended == [ending]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("load", [Load(), Load(loss=0.05, late=0.3, late_s=0.03, streams=60, at_once=30, stopped=0.2)])
def test_many_streams_both_ways_over_a_path_that_loses_and_delays_all_end(load: Load, seed: int) -> None:
    """Before, both ends held acknowledgements back behind frames that found no room, and both waited for those."""
    session = Session(seed, load)
    assert session.run(), f"{session.finished} of {load.streams} streams ended"
    assert session.failures == 0
