"""coturn's own test clients against our server: Send and channels, every transport, RFC 6062, RFC 5780."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from coturn import make_certificate
from processes import ICEAGENT, processes

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

HOST, OTHER = "127.0.0.1", "127.0.0.2"
USER, PASSWORD, MESSAGES = "george", "interop secret", 10
FAMILY_RUNS = 5
DRAFTS = Path(__file__).parents[1] / "support" / "turn_of_drafts.py"
DTLS_ATTEMPTS = 12  # the client takes DTLS 1.0 or 1.2 by chance, and RFC 8996 forbids the older one


def needs(*programs: str) -> None:
    missing = [one for one in programs if shutil.which(one) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian's package coturn)")


def free_port(kind: int, host: str = HOST) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@dataclass
class Place:
    """A server, and a peer that echoes."""

    host: str
    port: int
    tls_port: int
    peer_port: int

    def run(self, *options: str, secure: bool = False, seconds: float = 40) -> subprocess.CompletedProcess[str]:
        """Run turnutils_uclient: two clients with ten messages each."""
        port = self.tls_port if secure else self.port
        command = ["turnutils_uclient", "-u", USER, "-w", PASSWORD, "-r", str(self.peer_port), "-e", self.host]
        command += ["-p", str(port), "-n", str(MESSAGES), "-m", "2", "-l", "170", "-c", *options, self.host]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as late:
            output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            return subprocess.CompletedProcess(command, 1, output, "timed out")


@pytest.fixture(scope="module", params=[HOST, "::1"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    needs("turnutils_uclient", "turnutils_peer")
    host = request.param
    try:
        ports = [free_port(kind, host) for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    except OSError:
        pytest.skip(f"{host} cannot be bound here")
    with serving(host, ports[0], ports[1], tmp_path_factory.mktemp("turn")) as _, processes() as run:
        run.start("turnutils_peer", "-L", host, "-p", str(ports[2]))
        yield Place(host, *ports)


@dataclass
class serving:
    """Our server as a process."""

    host: str
    port: int
    tls_port: int
    folder: Path
    more: tuple[str, ...] = ()
    command: tuple[str, ...] = ICEAGENT

    def __enter__(self) -> serving:
        users = self.folder / "users"
        users.write_text(f"{USER}:{PASSWORD}\n")
        certificate, key = make_certificate(self.folder, self.host)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self._processes = processes()
        options = (
            "--listen",
            f"{shown}:{self.port}",
            "--tls-listen",
            f"{shown}:{self.tls_port}",
            "--users",
            str(users),
        )
        tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
        run = self._processes.__enter__()
        command = (*(self.command or ICEAGENT), "turn", "--json", "--insecure-dev")
        run.start(*command, *options, *tls, *self.more).wait_for("listening")
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.__exit__(None, None, None)


def check(done: subprocess.CompletedProcess[str]) -> None:
    """All messages came back."""
    story = done.stdout[-3000:] + done.stderr[-1000:]
    totals = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", done.stdout)
    assert totals, story
    sent, received = map(int, totals[-1])
    assert sent == received == 2 * MESSAGES, story


def families(place: Place) -> list[str]:
    """Return the options for this place's family: the client asks for IPv4 relays unless told otherwise."""
    return ["-x"] if ":" in place.host else ["-X"]


@pytest.mark.parametrize("how", [[], ["-s"]], ids=["channels", "send"])
@pytest.mark.parametrize("transport", [[], ["-t"]], ids=["udp", "tcp"])
def test_uclient_over_udp_and_tcp(place: Place, transport: list[str], how: list[str]) -> None:
    """The four ways most clients in the world take."""
    check(place.run(*families(place), *transport, *how))


@pytest.mark.parametrize("how", [[], ["-s"]], ids=["channels", "send"])
def test_uclient_over_tls(place: Place, how: list[str]) -> None:
    """TLS on its own port."""
    check(place.run(*families(place), "-t", "-S", *how, secure=True))


def test_uclient_over_dtls(place: Place) -> None:
    """DTLS 1.2; the client chooses the version by lot, for each of its connections."""
    for _ in range(DTLS_ATTEMPTS):
        done = place.run(*families(place), "-S", "-m", "1", secure=True, seconds=5)
        totals = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", done.stdout)
        if totals and totals[-1] == (str(MESSAGES), str(MESSAGES)):
            return
    pytest.fail(done.stdout[-2000:] + done.stderr)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_uclient_with_tcp_relays(place: Place, secure: bool) -> None:
    """RFC 6062: a connection to the peer and a data connection for each."""
    check(place.run(*families(place), "-T", "-t", *(["-S"] if secure else []), secure=secure))


def test_uclient_with_tcp_relays_and_an_active_peer(place: Place) -> None:
    """RFC 6062 the other way round: the peer connects, and the client hears of it by a ConnectionAttempt.

    The client counts but half of what comes: it reads its peer's own socket as if STUN or ChannelData came there
    (`client_read` of its uclient.c, with `is_tcp_data` 0 for want of a data connection), and passes over the messages.
    What the peer sends has to arrive whole; tests/net/test_turn_tcp.py sees to the other direction.
    """
    if ":" in place.host:
        pytest.skip("the client's passive mode speaks IPv4")
    done = place.run(*families(place), "-T", "-P", "-t")
    totals = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", done.stdout)
    assert totals, done.stdout[-3000:]
    assert totals[-1] == (str(2 * MESSAGES), str(MESSAGES)), done.stdout[-3000:]


@pytest.fixture
def both_families(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Start our server at both loopback addresses, and a peer at both."""
    needs("turnutils_uclient", "turnutils_peer")
    try:
        port, peer = free_port(socket.SOCK_STREAM, "::1"), free_port(socket.SOCK_DGRAM, "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with processes() as run, ExitStack() as stack:
        run.start("turnutils_peer", "-L", HOST, "-L", "::1", "-p", str(peer))

        def serve(*command: str) -> Place:
            more = ("--listen", f"[::1]:{port}")
            stack.enter_context(serving(HOST, port, free_port(socket.SOCK_STREAM), tmp_path, more, command))
            return Place(HOST, port, 0, peer)

        yield serve


def test_uclient_with_both_families(both_families: Callable[..., Place]) -> None:
    """ADDITIONAL-ADDRESS-FAMILY: one allocation with two relayed addresses, refreshed together and by family.

    Up to version 4.6 the client gives the attribute the number of a draft; here the server knows that one.
    """
    place = both_families(sys.executable, str(DRAFTS))
    for _ in range(FAMILY_RUNS):  # one refresh in three names IPv6, and each run has two or more
        done = place.run("-Z", "-v")
        assert "error" not in done.stdout, done.stdout[-3000:]
        check(done)


def test_uclient_with_a_drafts_number_gets_one_family(both_families: Callable[..., Place]) -> None:
    """0x8032 is no attribute of RFC 8656 and may be overlooked: an IPv4 address, and 443 to who refreshes an IPv6 one.

    The client draws the family of each refresh by lot, so that some runs end with 443 and others do not.
    """
    place = both_families()
    done = place.run("-Z", "-v")
    assert "IPv4. Received relay addr" in done.stdout, done.stdout[-3000:]
    if "error 443" not in done.stdout:
        check(done)


def test_stunclient_learns_its_address(place: Place) -> None:
    """A plain Binding request."""
    needs("turnutils_stunclient")
    done = subprocess.run(
        ["turnutils_stunclient", "-p", str(place.port), place.host], capture_output=True, text=True, timeout=20
    )
    assert f"reflexive addr: {place.host}" in done.stdout.replace("[", "").replace("]", ""), done.stdout + done.stderr


def test_natdiscovery_finds_no_nat_on_loopback(tmp_path: Path) -> None:
    """RFC 5780 with two addresses and two ports: mapping and filtering are both independent of the endpoint."""
    needs("turnutils_natdiscovery")
    port, tls_port = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
    other = free_port(socket.SOCK_DGRAM, OTHER)
    with serving(HOST, port, tls_port, tmp_path, ("--alternate", f"{OTHER}:{other}")):
        done = subprocess.run(
            ["turnutils_natdiscovery", "-m", "-f", "-p", str(port), HOST], capture_output=True, text=True, timeout=60
        )
    assert f"Other addr: : {OTHER}:{other}" in done.stdout, done.stdout
    assert "Endpoint Independent Mapping" in done.stdout, done.stdout
    assert "Endpoint Independent Filtering" in done.stdout, done.stdout
