"""The tunnel under load and under loss of its parts, in real processes: what a user would see, nothing faked."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
from amount import amount
from processes import MemoryWatch, Process, Processes
from tunnels import TRAFFIC, open_tunnel

pytestmark = [pytest.mark.processes, pytest.mark.slow]

RESIDENT_LIMIT_MB = 150.0
HANG_S = 300.0  # only what hangs takes so long, however busy the machine


def open_descriptors(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@pytest.mark.thorough
def test_trap_46_memory_stays_bounded_while_the_reader_stops(tcp_tunnel) -> None:
    """A reader that stops reading must stop the writer at the far end, not fill this machine's memory."""
    with MemoryWatch(tcp_tunnel.listener, tcp_tunnel.forwarder) as memory:
        whole, before, stall_s = amount(400_000_000, 150_000_000), amount(40_000_000, 5_000_000), amount(10, 5)
        sizes = ("--bytes", str(whole), "--stall-after", str(before), "--stall-s", str(stall_s))
        sink = tcp_tunnel.traffic("sink", tcp_tunnel.bind, *sizes)
        done = sink.wait_for("done", timeout_s=HANG_S)
    assert done["whole"] == 1
    assert max(memory.peak_mb()) <= RESIDENT_LIMIT_MB, memory.peak_mb()


@pytest.mark.thorough
def test_fifty_connections_at_once_arrive_whole(tcp_tunnel) -> None:
    """Streams share one link; none may starve, mix with or corrupt another."""
    with MemoryWatch(tcp_tunnel.listener, tcp_tunnel.forwarder) as memory:
        sink = tcp_tunnel.traffic(
            "sink", tcp_tunnel.bind, "--bytes", str(amount(4_000_000, 300_000)), "--connections", "50"
        )
        done = sink.wait_for("done", timeout_s=HANG_S)
    assert done["whole"] == 50
    assert max(memory.peak_mb()) <= RESIDENT_LIMIT_MB, memory.peak_mb()


def test_a_thousand_connections_at_once(run: Processes) -> None:
    """All are half read at the same time. Systems let a program have 1,024 descriptors by habit; here 300."""
    source = run.start(*TRAFFIC, "source")
    port = source.wait_for("ready")["port"]
    tunnel = open_tunnel(run, f"127.0.0.1:{port}", f"tcp:127.0.0.1:{port}", few_descriptors=True)
    with MemoryWatch(tunnel.listener, tunnel.forwarder) as memory:
        sizes = ("--bytes", "20000", "--stall-after", "1", "--stall-together", "--stall-s", "0.5")
        done = tunnel.traffic("sink", tunnel.bind, *sizes, "--connections", "1000").wait_for("done", timeout_s=HANG_S)
    assert done["whole"] == 1000
    assert max(memory.peak_mb()) <= RESIDENT_LIMIT_MB, memory.peak_mb()
    assert [line for line in tunnel.forwarder.rest() + tunnel.listener.rest() if line["kind"] == "log"] == []


@pytest.mark.thorough
def test_connections_one_after_the_other_leave_nothing(tcp_tunnel) -> None:
    """Neither memory nor descriptors grow with their number."""

    def fetch(count: int) -> list[int]:
        host, _, port = tcp_tunnel.bind.rpartition(":")
        for number in range(count):
            with socket.create_connection((host, int(port)), timeout=60) as client:
                client.sendall(b"100 %d\n" % number)
                with client.makefile("rb") as came:
                    assert len(came.read()) == 100
        return [process.resident_bytes() for process in (tcp_tunnel.listener, tcp_tunnel.forwarder)]

    before = fetch(50)
    descriptors = [open_descriptors(process) for process in (tcp_tunnel.listener, tcp_tunnel.forwarder)]
    after = fetch(amount(10_000, 500))
    assert [late - early < 4_000_000 for early, late in zip(before, after, strict=True)] == [True, True], (
        before,
        after,
    )
    for process, count in zip((tcp_tunnel.listener, tcp_tunnel.forwarder), descriptors, strict=True):
        assert open_descriptors(process) <= count + 3


@pytest.mark.thorough
def test_udp_echo_is_answered_and_never_mixed(udp_tunnel) -> None:
    """20,000 datagrams of 1 to 1,200 bytes from 50 sources, 500 under way: none is lost, none mixed up.

    In `make test` it is a tenth of them.
    """
    count = amount(20_000, 2_000)
    ping = udp_tunnel.traffic("ping", udp_tunnel.bind, "--count", str(count), "--rate", "5000", "--sources", "50")
    done = ping.wait_for("done", timeout_s=HANG_S)
    assert done["mixed"] == 0
    assert done["answered"] >= 0.999 * count, done


@pytest.mark.thorough
def test_forwards_go_on_when_the_relay_is_killed(tcp_tunnel) -> None:
    """The relay introduces the peers; nothing may depend on it afterwards."""
    size = str(amount(20_000_000, 2_000_000))
    tcp_tunnel.relay.signal(signal.SIGKILL)
    tcp_tunnel.relay.wait()
    for _ in range(2):
        sink = tcp_tunnel.traffic("sink", tcp_tunnel.bind, "--bytes", size)
        assert sink.wait_for("done")["whole"] == 1
    time.sleep(3)  # longer than the first attempts to resume at the dead relay
    sink = tcp_tunnel.traffic("sink", tcp_tunnel.bind, "--bytes", size)
    assert sink.wait_for("done")["whole"] == 1


def test_a_killed_peer_is_noticed_after_30_s(run, tcp_tunnel) -> None:
    """Consent (RFC 7675) expires 30 s after the last answer: then the survivor says why, takes its leave, and ends.

    A listener and a forwarder die at once, in tunnels of their own: the time is waited for once.
    """
    other = open_tunnel(run, "127.0.0.1:9", "any")
    tcp_tunnel.listener.signal(signal.SIGKILL)
    other.forwarder.signal(signal.SIGKILL)
    for survivor in (tcp_tunnel.forwarder, other.listener):
        error = survivor.wait_for("error")
        assert survivor.wait() == error["exit"] == 5
        assert "30 s" in error["message"]
