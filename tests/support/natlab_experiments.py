"""Experiments in laboratories: the real command line tunnels a file between two homes, and tells how it got through.

Each experiment has a laboratory of its own, with a relay on the internet, a listener and a forwarder. What they
tunnel comes from a socket in the listener's namespace and goes to one in the forwarder's, both held by this process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from coturn import make_certificate
from natlab import DEAD_HOST, OTHER_INTERNET_HOST, Home, Internet, NatKind, Natlab, open_natlab
from processes import Ended, Process, Processes, processes

T = TypeVar("T")
FILE_BYTES = 1_000_000
WORKERS = 5  # experiments at once: two keep two cores busy, those that wait for a failure cost nothing
PATIENCE_S = 60.0  # more than the 39.5 s after which the agent gives up (RFC 8863)
SWITCH_S = 25.0  # from a relayed path to a direct one: agents leave 10 s between two nominations
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Scenario:
    """Two machines somewhere, and what is between them.

    Attributes:
        name: what it is called in test ids.
        a: the home of the forwarder.
        b: the home of the listener.
        internet: what is between them.
        carrier: a provider's router that both homes have in common.
        nodes: where the forwarder and the listener run.
        direct: whether a direct path is expected; if not, a relayed one; None for either.
        port: of the relay; 0 for any.
        size: of the file, bytes.
        transport: the forwarder's own, as its path line names it; empty where it does not matter.
        hard_nat: both commands are given `--hard-nat`.
        stun_servers: how many the relay hands out: 1 is what it does by itself; with 2 it answers at another address of
            its machine, too.
        turn: whether the relay is given `--turn`; without it there is no relayed path.
        wildcard: the relay listens at 0.0.0.0, as it does by default, and is met at its machine's second address.
        named: the relay is met by a name whose first address is dead.
        refuses: letter of the home whose command is not.
        moves: letter of the home whose line gets another address; then the file is fetched once more.
    """

    name: str
    a: Home = field(default_factory=Home)
    b: Home = field(default_factory=Home)
    internet: Internet = field(default_factory=Internet)
    carrier: Home | None = None
    nodes: tuple[str, str] = ("host-a", "host-b")
    direct: bool | None = True
    port: int = 0
    size: int = FILE_BYTES
    moves: str = ""
    transport: str = ""
    hard_nat: bool = False
    stun_servers: int = 1
    wildcard: bool = False
    named: bool = False
    turn: bool = True
    refuses: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment.

    Attributes:
        path: the last `path` line of the forwarder, None if there was none.
        error: the forwarder's `error` line; None if the file came.
        exits: exit codes of forwarder and listener; when the file has come the forwarder is interrupted, hence 130.
        whole: whether the file that arrived was the file that was sent.
        seconds: from typing `forward` until the file had arrived, or the command had given up.
        story: all lines of forwarder and listener.
    """

    path: dict[str, Any] | None
    error: dict[str, Any] | None
    exits: tuple[int, int]
    whole: bool
    seconds: float
    story: Sequence[str]

    @property
    def kind(self) -> str:
        """`direct`, `relayed` or `none`."""
        if self.path is None or not self.whole:
            return "none"
        return "direct" if self.path["direct"] else "relayed"


def socket_in(namespace: str) -> socket.socket:
    """Return a TCP socket of another network namespace: a socket stays where it was made, whoever uses it.

    Raises:
        OSError: there is no such namespace, or this is not root.
    """
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle, _CLONE_NEWNET) != 0:  # of this thread alone, which ends at once
                    raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
                made.append(socket.socket())
            finally:
                os.close(handle)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


@contextmanager
def serving(namespace: str, data: bytes) -> Iterator[int]:
    """Serve `data` to whoever connects, at a port of 127.0.0.1 inside a namespace; yield the port."""
    with socket_in(namespace) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(data)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join(5)


def fetch(namespace: str, bind: str, timeout_s: float = 60.0) -> bytes:
    """Return all that a forward bound inside a namespace gives."""
    host, _, port = bind.rpartition(":")
    chunks = []
    with socket_in(namespace) as client:
        client.settimeout(timeout_s)
        client.connect((host, int(port)))
        while chunk := client.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


@dataclass
class Tunnel:
    """A relay, a listener and a forwarder in a laboratory.

    Attributes:
        line: the forwarder's first path or error; empty until somebody has waited for one.
    """

    lab: Natlab
    run: Processes
    relay: Process
    listener: Process
    forwarder: Process
    line: dict[str, Any]
    namespace: str
    bind: str = ""

    def clock(self) -> float:
        """Return the seconds since the forwarder was started."""
        return time.monotonic() - self.forwarder.started_at

    def fetch(self) -> bytes:
        """Return what came through the forward; an empty string if it broke."""
        self.bind = self.bind or self.forwarder.wait_for("forwarding")["bind"]
        with suppress(ConnectionError):
            return fetch(self.namespace, self.bind)
        return b""

    def wait_direct(self) -> None:
        """Wait for a direct path: on a busy machine a relayed one may be found first, and left for it."""
        path = [line for line in self.forwarder.lines if line["kind"] == "path"][-1]
        with suppress(Ended):
            while not path["direct"]:
                path = self.forwarder.wait_for("path", timeout_s=SWITCH_S)

    def wait_direct_since(self, number: int, timeout_s: float) -> bool:
        """Wait for a path line beyond the first `number` lines of the forwarder that is direct; return whether it came.

        Where all is as it was, say since a lost path came back, none comes and none is needed.
        """
        wait_direct_since(self.forwarder, number, timeout_s)
        return bool([line for line in self.forwarder.lines if line["kind"] == "path"][-1]["direct"])


def wait_direct_since(side: Process, number: int, timeout_s: float) -> None:
    """Wait for a path line beyond the first `number` lines of a side that is direct, at most so long."""
    deadline = time.monotonic() + timeout_s
    with suppress(Ended):
        while not any(line["kind"] == "path" and line["direct"] for line in side.lines[number:]):
            side.wait_for("path", timeout_s=max(0.1, deadline - time.monotonic()))


def side_by_side(
    request: pytest.FixtureRequest, parameter: str, carry_out: Callable[[str], T], workers: int
) -> Iterator[dict[str, Future[T]]]:
    """Yield the outcomes to come of what selected tests name by a parameter: so many are carried out at once."""
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    names = [spec.params[parameter] for spec in specs if spec is not None and parameter in spec.params]
    with ThreadPoolExecutor(workers) as pool:
        yield {name: pool.submit(carry_out, name) for name in names}
        pool.shutdown(cancel_futures=True)


@contextmanager
def open_tunnel(scenario: Scenario, data: bytes) -> Iterator[Tunnel]:
    """Build a scenario's laboratory and start everybody; yield when the forwarder knows whether there is a path."""
    with open_commands(scenario, data) as tunnel:
        tunnel.line = tunnel.forwarder.wait_for("path", "error", timeout_s=PATIENCE_S)
        yield tunnel


@contextmanager
def open_commands(scenario: Scenario, data: bytes) -> Iterator[Tunnel]:
    """Build a scenario's laboratory and start everybody; yield as soon as `forward` has been typed."""
    with ExitStack() as stack:
        lab = stack.enter_context(open_natlab(scenario.a, scenario.b, scenario.internet, carrier=scenario.carrier))
        run = stack.enter_context(processes())
        here, there = scenario.nodes
        port = stack.enter_context(serving(lab.name(there), data))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iceagent-natlab-")))
        relay = run.iceagent("serve", *relay_options(lab, scenario, folder), inside=lab.inside("inet"))
        url = relay.wait_for("listening", timeout_s=PATIENCE_S)["url"]
        if scenario.wildcard:
            url = f"ws://{OTHER_INTERNET_HOST}:{url.rpartition(':')[2]}"
        if scenario.named:
            url = f"ws://relay.example:{url.rpartition(':')[2]}"
            for node in scenario.nodes:
                lab.set_names(node, {"relay.example": (DEAD_HOST, lab.internet.host)})
        rule = f"tcp:127.0.0.1:{port}"
        trusting = ["env", f"SSL_CERT_FILE={folder / 'cert.pem'}"]
        wishes = {letter: ["--hard-nat"] * (scenario.hard_nat and scenario.refuses != letter) for letter in "ab"}
        listening = ("listen", "--once", "--json", *wishes["b"], "--relay", url, "--allow", rule)
        listener = run.iceagent(*listening, inside=[*lab.inside(there), *trusting])
        code = listener.wait_for("code", timeout_s=PATIENCE_S)["code"]
        forwarding = ("forward", "--json", *wishes["a"], "--relay", url, "-L", f"0:127.0.0.1:{port}", code)
        forwarder = run.iceagent(*forwarding, inside=[*lab.inside(here), *trusting])
        yield Tunnel(lab, run, relay, listener, forwarder, {}, lab.name(here))


def relay_options(lab: Natlab, scenario: Scenario, folder: Path) -> list[str]:
    """Return the options of a relay that hands out TURN over UDP, TCP and, at port 443 of its other address, TLS."""
    host = lab.internet.host
    shown = f"[{host}]" if ":" in host else host
    # These networks are for documentation, so that a relay on the real internet has no business there.
    allowed = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32")
    shown = "0.0.0.0" if scenario.wildcard else shown
    options = ["--json", "--listen", f"{shown}:{scenario.port}"]
    if not scenario.turn:
        return options
    options += ["--turn"]
    options += [word for net in allowed for word in ("--allow-peer", net)]
    options += ["--turn-listen", f"{OTHER_INTERNET_HOST}:3478"] if scenario.stun_servers > 1 else []
    if 4 in lab.internet.families:
        certificate, key = make_certificate(folder, OTHER_INTERNET_HOST)
        options += ["--tls-listen", f"{OTHER_INTERNET_HOST}:443", "--tls-cert", str(certificate), "--tls-key", str(key)]
    return options


def carry_out(scenario: Scenario) -> Outcome:
    """Tunnel a file of random bytes from b to a."""
    data = random.Random(scenario.name).randbytes(scenario.size)
    with open_tunnel(scenario, data) as tunnel:
        whole, error = False, None
        if tunnel.line["kind"] == "path":
            expected = hashlib.sha256(data).digest()
            whole = hashlib.sha256(tunnel.fetch()).digest() == expected
            if whole and scenario.moves:
                # Who sees the other end move gets another path line; before that the last one is of the old address.
                seer = tunnel.forwarder if scenario.moves == "b" else tunnel.listener
                before = len(seer.lines)
                tunnel.lab.move_home(scenario.moves)
                whole = hashlib.sha256(tunnel.fetch()).digest() == expected
                wait_direct_since(seer, before, SWITCH_S)
            seconds = time.monotonic() - tunnel.forwarder.started_at
            if scenario.direct:
                tunnel.wait_direct()
            # The goodbye is one packet: where packets get lost, the listener might wait 30 s for it.
            end_listener = tunnel.listener.stop if scenario.internet.loss_percent else tunnel.listener.wait
            exits = (tunnel.forwarder.stop(), end_listener())
        else:
            seconds, error = time.monotonic() - tunnel.forwarder.started_at, tunnel.line
            exits = (tunnel.forwarder.wait(), tunnel.listener.wait(PATIENCE_S))
        for side in (tunnel.forwarder, tunnel.listener):
            _read_rest(side)
        lines = [line for line in tunnel.forwarder.lines if line["kind"] == "path"]
        story = [f"{name}: {line}" for name in ("forwarder", "listener") for line in getattr(tunnel, name).lines]
        return Outcome(lines[-1] if lines else None, error, exits, whole, seconds, story)


def judge(scenario: Scenario, outcome: Outcome) -> None:
    """Fail unless the file came whole, over a path of the kind expected, and both commands ended well."""
    story = "\n".join(outcome.story)
    expected = {True: ("direct",), False: ("relayed",), None: ("direct", "relayed")}
    assert outcome.kind in expected[scenario.direct], story
    assert outcome.exits == (130, 0) or (scenario.internet.loss_percent and outcome.exits == (130, 130)), story
    if outcome.kind == "relayed":
        assert outcome.path is not None
        assert outcome.path["because"], story
    if scenario.transport:
        assert outcome.path is not None
        assert outcome.path["transport"] == scenario.transport, story


def _read_rest(process: Process) -> None:
    """Read what an ended process printed last."""
    with suppress(Ended):
        process.wait_for("nothing that exists", timeout_s=1)


def matrix_scenarios() -> list[Scenario]:
    """Return each kind of NAT against each; two that filter and map by port are the ones that need a relay."""
    hard = ({NatKind.SYMMETRIC}, {NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED})
    return [
        Scenario(f"{a.value} to {b.value}", Home(nat=a), Home(nat=b), direct={a, b} not in hard)
        for a in NatKind
        for b in NatKind
    ]
