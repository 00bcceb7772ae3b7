"""Our TURN server beside coturn's: datagrams relayed per second of CPU time, with the same load generator in one run.

Two loads, both echoed by the peer, so that each datagram crosses the relay twice: one bulk flow (1200 bytes, sent in
batches of 50, as a tunnel does) and 100 small flows (160 bytes, sent singly, as calls and games do). A server's CPU
time, of all its threads, is read from /proc/PID/stat; so neither server's figure depends on how fast the generator is.
Without `turnserver` (Debian: coturn) the comparison is left out.
"""

from __future__ import annotations

import argparse
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iceagent.core import stun
from iceagent.core.address import TransportAddress

REALM, USER, PASSWORD = "bench", "bench", "bench-password"
HOST = "127.0.0.1"
CHANNEL = 0x4000
BULK_SIZE, BULK_BATCH, BULK_WINDOW = 1200, 50, 4
SMALL_SIZE, SMALL_FLOWS, SMALL_WINDOW = 160, 100, 1
UDP_SEGMENT, UDP_GRO, SOL_UDP = 103, 104, 17
STALL_S = 0.05
AIM_BULK, AIM_SMALL = 3.0, 0.4


@dataclass
class Server:
    """A running TURN server."""

    name: str
    pid: int
    port: int

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Flow:
    """A client with an allocation and a channel to its peer."""

    client: socket.socket
    peer: socket.socket
    server: tuple[str, int]
    relayed: tuple[str, int]
    in_flight: int = 0
    sent_at: float = 0.0


def udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)
    sock.bind((HOST, 0))
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    return sock


def ask(sock: socket.socket, server: tuple[str, int], nonce: str, method: int, *more: stun.Attribute) -> stun.Message:
    """Send a request and return the answer; with credentials once there is a nonce."""
    key = None
    if nonce:
        more = (*more, stun.Username(USER), stun.Realm(REALM), stun.Nonce(nonce))
        key = stun.long_term_key(USER, REALM, PASSWORD)
    data = stun.encode(
        stun.Message(stun.MessageClass.REQUEST, method, secrets.token_bytes(12), more), key=key, fingerprint=False
    )
    for _ in range(8):
        sock.sendto(data, server)
        if select.select([sock], [], [], 0.6)[0]:
            return stun.decode(sock.recv(65535))
    raise RuntimeError("the server does not answer")


def open_flow(server: Server) -> Flow:
    """Allocate and bind a channel."""
    client, peer, target = udp_socket(), udp_socket(), (HOST, server.port)
    transport = stun.RequestedTransport(stun.TRANSPORT_UDP)
    challenge = ask(client, target, "", stun.Method.ALLOCATE, transport).get(stun.Nonce)
    assert challenge is not None
    answer = ask(client, target, challenge.value, stun.Method.ALLOCATE, transport)
    relayed = answer.get(stun.XorRelayedAddress)
    assert relayed is not None, answer
    there = stun.XorPeerAddress(TransportAddress(*peer.getsockname()))
    bound = ask(client, target, challenge.value, stun.Method.CHANNEL_BIND, stun.ChannelNumber(CHANNEL), there)
    assert bound.message_class is stun.MessageClass.SUCCESS, bound
    for sock in (client, peer):
        sock.setblocking(False)
    return Flow(client, peer, target, (relayed.address.host, relayed.address.port))


def close_flow(flow: Flow) -> None:
    flow.client.close()
    flow.peer.close()


def segments(size: int) -> list[tuple[int, int, bytes]]:
    return [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]


def receive(sock: socket.socket) -> Iterator[tuple[bytes, int]]:
    """Give (buffer, segment size) of all that is there."""
    while True:
        try:
            data, ancillary, _flags, _source = sock.recvmsg(65535, 64)
        except BlockingIOError:
            return
        size = next((int.from_bytes(value[:4], sys.byteorder) for _, kind, value in ancillary if kind == UDP_GRO), 0)
        yield data, size or len(data)


def load(flows: list[Flow], size: int, batch: int, window: int, seconds: float) -> tuple[int, float]:
    """Keep `window` batches in flight on each flow; return datagrams relayed, both ways, and the seconds it took."""
    message = CHANNEL.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(size)
    burst = message * batch
    owners = {sock.fileno(): (flow, sock is flow.peer) for flow in flows for sock in (flow.client, flow.peer)}
    poll = select.epoll()
    for number in owners:
        poll.register(number, select.EPOLLIN)
    relayed, began = 0, time.perf_counter()
    now = began
    while now - began < seconds:
        for flow in flows:
            if flow.in_flight >= window * batch and now - flow.sent_at > STALL_S:
                flow.in_flight = 0  # lost on the way
            while flow.in_flight < window * batch:
                flow.client.sendmsg([burst], segments(len(message)) if batch > 1 else [], 0, flow.server)
                flow.in_flight += batch
                flow.sent_at = now
        for number, _ in poll.poll(STALL_S):
            flow, is_peer = owners[number]
            for data, step in receive(flow.peer if is_peer else flow.client):
                count = -(-len(data) // step)
                relayed += count
                if is_peer:
                    flow.peer.sendmsg([data], segments(step) if count > 1 else [], 0, flow.relayed)
                else:
                    flow.in_flight = max(0, flow.in_flight - count)
        now = time.perf_counter()
    poll.close()
    return relayed, now - began


def measure(server: Server, seconds: float) -> dict[str, float]:
    """Return thousands of datagrams per CPU second for both loads, and print them."""
    figures = {}
    for name, count, size, batch, window in (
        ("bulk", 1, BULK_SIZE, BULK_BATCH, BULK_WINDOW),
        ("small", SMALL_FLOWS, SMALL_SIZE, 1, SMALL_WINDOW),
    ):
        flows = [open_flow(server) for _ in range(count)]
        load(flows, size, batch, window, seconds / 10)
        before = server.cpu_s()
        relayed, took = load(flows, size, batch, window, seconds)
        used = server.cpu_s() - before
        figures[name] = relayed / max(used, 0.01) / 1000
        mbits = relayed * size * 8 / took / 1e6
        print(
            f"{server.name:9} {name:5} {figures[name]:7.0f} kpps per core"
            f"   ({relayed / took / 1000:.0f} kpps, {mbits:.0f} Mbit/s, {used / took:.0%} of a core)"
        )
        for flow in flows:
            close_flow(flow)
    return figures


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until_answers(port: int) -> None:
    with udp_socket() as sock:
        request = stun.encode(stun.binding_request(secrets.token_bytes(12)))
        for _ in range(100):
            sock.sendto(request, (HOST, port))
            try:
                if select.select([sock], [], [], 0.1)[0] and sock.recv(2000):
                    return
            except ConnectionRefusedError:
                time.sleep(0.1)
    raise RuntimeError("the server did not start")


@contextmanager
def our_server(folder: Path) -> Iterator[Server]:
    users, port = folder / "users", free_port()
    users.write_text(f"{USER}:{PASSWORD}\n")
    iceagent = [sys.executable, "-c", "import sys; from iceagent.cli import main; sys.exit(main())"]
    options = ["--listen", f"{HOST}:{port}", "--realm", REALM, "--users", str(users), "--insecure-dev"]
    with running(
        [*iceagent, "turn", *options, "--user-quota", "1000", "--source-quota", "1000", "--drain", "0"]
    ) as pid:
        wait_until_answers(port)
        yield Server("iceagent", pid, port)


@contextmanager
def coturn(folder: Path) -> Iterator[Server]:
    port = free_port()
    options = ["-n", "--no-tls", "--no-dtls", "--no-cli", "-m", "1", "--log-file", "/dev/null", "--simple-log"]
    options += ["--pidfile", str(folder / "pid"), "--userdb", str(folder / "db"), "--allow-loopback-peers"]
    options += [f"--listening-ip={HOST}", f"--relay-ip={HOST}", f"--listening-port={port}"]
    options += ["--lt-cred-mech", f"--user={USER}:{PASSWORD}", f"--realm={REALM}"]
    with running(["turnserver", *options]) as pid:
        wait_until_answers(port)
        yield Server("coturn", pid, port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short run that shows that it works")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    arguments = parser.parse_args()
    seconds = 0.3 if arguments.smoke else arguments.seconds
    if not sys.platform.startswith("linux"):
        print("skipped: CPU time is read from /proc, and batches need UDP_SEGMENT")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with our_server(folder) as server:
            ours = measure(server, seconds)
        if shutil.which("turnserver") is None:
            print("coturn skipped: no turnserver here (Debian: apt-get install coturn)")
            return 0
        with coturn(folder) as server:
            theirs = measure(server, seconds)
    for load_name, aim in (("bulk", AIM_BULK), ("small", AIM_SMALL)):
        ratio = ours[load_name] / theirs[load_name]
        print(f"{load_name:5} ours / coturn = {ratio:.2f}   (aim: {aim})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
