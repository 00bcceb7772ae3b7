"""coturn's own test clients against our server: Send and channels, every transport, RFC 6062, RFC 5780."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from coturn import free_port, make_certificate
from processes import ICEAGENT, processes

from iceagent.core import stun

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

HOST, OTHER = "127.0.0.1", "127.0.0.2"
USER, PASSWORD, MESSAGES = "george", "interop secret", 10
FAMILY_RUNS = 5
DRAFTS = Path(__file__).parents[1] / "support" / "turn_of_drafts.py"


def needs(*programs: str) -> None:
    missing = [one for one in programs if shutil.which(one) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian's package coturn)")


@dataclass
class Place:
    """A server, and a peer that echoes."""

    host: str
    port: int
    tls_port: int
    peer_port: int
    metrics: str = ""
    client: str = "turnutils_uclient"

    def run(self, *options: str, secure: bool = False, seconds: float = 40) -> subprocess.CompletedProcess[str]:
        """Run turnutils_uclient: two clients with ten messages each."""
        port = self.tls_port if secure else self.port
        command = [self.client, "-u", USER, "-w", PASSWORD, "-r", str(self.peer_port), "-e", self.host]
        command += ["-p", str(port), "-n", str(MESSAGES), "-m", "2", "-l", "170", "-c", *options, self.host]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as late:
            output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            return subprocess.CompletedProcess(command, 1, output, "timed out")

    def relayed(self) -> tuple[int, int]:
        """Return how many datagrams the server has relayed to peers and to clients."""
        with urllib.request.urlopen(self.metrics, timeout=60) as answer:
            found = dict(re.findall(r'relayed_datagrams_total{direction="(\w+)"} (\d+)', answer.read().decode()))
        return int(found["to_peer"]), int(found["to_client"])


@pytest.fixture(scope="module", params=[HOST, "::1"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    needs("turnutils_uclient", "turnutils_peer")
    host = request.param
    try:
        ports = [free_port(kind, host) for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    except OSError:
        pytest.skip(f"{host} cannot be bound here")
    with serving(host, ports[0], ports[1], tmp_path_factory.mktemp("turn")) as server, processes() as run:
        run.start("turnutils_peer", "-L", host, "-p", str(ports[2]))
        yield Place(host, ports[0], ports[1], ports[2], server.metrics)


@dataclass
class serving:  # noqa: N801 - a context manager, called like a function
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
        process = run.start(*command, *options, "--metrics", f"{HOST}:0", *tls, *self.more)
        process.wait_for("listening")
        self.metrics = str(process.wait_for("metrics")["url"])
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
    """TLS on its own port: what was sent reached the peer, and each of its answers was sent to the client.

    The client takes what one record of TLS holds for one message. The server puts all that waits into one record, so
    that on a busy machine the client counts too few; therefore the server's own counters tell here.
    """
    before = place.relayed()
    done = place.run(*families(place), "-t", "-S", *how, secure=True)
    assert f"tot_send_msgs={2 * MESSAGES}," in done.stdout, done.stdout[-3000:]
    to_peer, to_client = (now - then for now, then in zip(place.relayed(), before, strict=True))
    assert to_peer == to_client == 2 * MESSAGES, done.stdout[-3000:]


@pytest.fixture
def client_of_dtls(tmp_path: Path) -> str:
    """A copy of the client that speaks DTLS 1.2 in each of its connections.

    It has two methods of OpenSSL for DTLS, 1.0 alone and 1.2 alone, and draws one of them by lot for each connection.
    RFC 8996 forbids the older version. In the copy the name of the older method is that of the one that speaks what
    both sides have, so that no lot decides what is tested.
    """
    needs("turnutils_uclient")
    program = Path(shutil.which("turnutils_uclient") or "").read_bytes()
    older, flexible = b"\0DTLSv1_client_method\0", b"\0DTLS_client_method\0"
    copy = tmp_path / "turnutils_uclient"
    copy.write_bytes(program.replace(older, flexible.ljust(len(older), b"\0")))
    copy.chmod(0o755)
    return str(copy)


@pytest.mark.parametrize("how", [[], ["-s"]], ids=["channels", "send"])
def test_uclient_over_dtls(place: Place, client_of_dtls: str, how: list[str]) -> None:
    """DTLS 1.2, from handshake to the last message."""
    check(replace(place, client=client_of_dtls).run(*families(place), "-S", *how, secure=True))


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


class Tap:
    """A place on the way between UDP clients and a server at one port of `HOST`, that sees each answer to a Refresh.

    Attributes:
        port: where the clients go.
        refreshes: the family of each Refresh that was answered, None where it names none, and the error of the answer.
    """

    def __init__(self, server_port: int) -> None:
        self.refreshes: list[tuple[int | None, int | None]] = []
        self._server = (HOST, server_port)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind((HOST, 0))
        self.port = int(self._front.getsockname()[1])
        self._backs: dict[socket.socket, tuple[str, int]] = {}
        self._asked: dict[bytes, int | None] = {}
        self._wake, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for one in (self._front, self._wake, *self._backs):
            one.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._front, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake:
                        return
                    if key.fileobj is self._front:
                        self._to_server(selector)
                    elif isinstance(key.fileobj, socket.socket):
                        data = key.fileobj.recv(65536)
                        self._note(data)
                        self._front.sendto(data, self._backs[key.fileobj])

    def _to_server(self, selector: selectors.BaseSelector) -> None:
        data, client = self._front.recvfrom(65536)
        self._note(data)
        back = next((one for one, of in self._backs.items() if of == client), None)
        if back is None:
            back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            back.connect(self._server)
            self._backs[back] = client
            selector.register(back, selectors.EVENT_READ)
        back.send(data)

    def _note(self, data: bytes) -> None:
        if not stun.looks_like_stun(data):
            return
        message = stun.decode(data)
        if message.method != stun.Method.REFRESH:
            return
        if message.message_class is stun.MessageClass.REQUEST:
            family = message.get(stun.RequestedAddressFamily)
            self._asked[message.transaction_id] = None if family is None else family.value
        else:
            error = message.get(stun.ErrorCode)
            family_asked = self._asked[message.transaction_id]
            if error is None or error.code != stun.Code.STALE_NONCE:
                self.refreshes.append((family_asked, None if error is None else int(error.code)))


@pytest.fixture
def both_families(tmp_path: Path) -> Iterator[Callable[..., tuple[Place, Tap]]]:
    """Start our server at both loopback addresses, a peer at both, and a tap on the way to the IPv4 one."""
    needs("turnutils_uclient", "turnutils_peer")
    try:
        port, peer = free_port(socket.SOCK_STREAM, "::1"), free_port(socket.SOCK_DGRAM, "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with processes() as run, ExitStack() as stack:
        run.start("turnutils_peer", "-L", HOST, "-L", "::1", "-p", str(peer))

        def serve(*command: str) -> tuple[Place, Tap]:
            more = ("--listen", f"[::1]:{port}")
            stack.enter_context(serving(HOST, port, free_port(socket.SOCK_STREAM), tmp_path, more, command))
            tap = stack.enter_context(Tap(port))
            return Place(HOST, tap.port, 0, peer), tap

        yield serve


def test_uclient_with_both_families(both_families: Callable[..., tuple[Place, Tap]]) -> None:
    """ADDITIONAL-ADDRESS-FAMILY: one allocation with two relayed addresses, refreshed together and by family.

    Up to version 4.6 the client gives the attribute the number of a draft; here the server knows that one. The client
    draws the family of each refresh by lot, which is why it runs several times; each of the runs has to succeed.
    """
    place, tap = both_families(sys.executable, str(DRAFTS))
    for _ in range(FAMILY_RUNS):
        check(place.run("-Z", "-v"))
    assert tap.refreshes
    assert all(error is None for _, error in tap.refreshes), tap.refreshes


def test_uclient_with_a_drafts_number_gets_one_family(both_families: Callable[..., tuple[Place, Tap]]) -> None:
    """0x8032 is no attribute of RFC 8656 and may be overlooked: an IPv4 address, and 443 to who refreshes an IPv6 one.

    The client draws the family of each refresh by lot, and gives up at the 443; what was asked is read from the wire.
    """
    place, tap = both_families()
    done = place.run("-Z", "-v")
    assert "IPv4. Received relay addr" in done.stdout, done.stdout[-3000:]
    assert tap.refreshes
    for family, error in tap.refreshes:
        assert error == (stun.Code.PEER_ADDRESS_FAMILY_MISMATCH if family == stun.FAMILY_IPV6 else None), tap.refreshes
    if all(error is None for _, error in tap.refreshes):
        check(done)


def test_stunclient_learns_its_address(place: Place) -> None:
    """A plain Binding request."""
    needs("turnutils_stunclient")
    done = subprocess.run(
        ["turnutils_stunclient", "-p", str(place.port), place.host],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert f"reflexive addr: {place.host}" in done.stdout.replace("[", "").replace("]", ""), done.stdout + done.stderr


def test_natdiscovery_finds_no_nat_on_loopback(tmp_path: Path) -> None:
    """RFC 5780 with two addresses and two ports: mapping and filtering are both independent of the endpoint."""
    needs("turnutils_natdiscovery")
    port, tls_port = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
    other = free_port(socket.SOCK_DGRAM, OTHER)
    with serving(HOST, port, tls_port, tmp_path, ("--alternate", f"{OTHER}:{other}")):
        done = subprocess.run(
            ["turnutils_natdiscovery", "-m", "-f", "-p", str(port), HOST],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert f"Other addr: : {OTHER}:{other}" in done.stdout, done.stdout
    assert "Endpoint Independent Mapping" in done.stdout, done.stdout
    assert "Endpoint Independent Filtering" in done.stdout, done.stdout
