"""`iceagent serve` and `icesignal-relay` as services: TLS beside TURN, signals, what a service manager sees."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icesignal
import pytest
import trio
from processes import Process, Processes
from turn_wire import make_certificate, stream_client, trusting

from iceagent.servers import TlsFiles

pytestmark = pytest.mark.processes

RELAY = (sys.executable, "-c", "from icesignal.main import main; main()")
SERVE = (sys.executable, "-m", "iceagent", "serve")
COMMANDS = pytest.mark.parametrize("command", [RELAY, SERVE], ids=["icesignal-relay", "serve"])


def certificate_at(port: int) -> bytes:
    """Return the certificate that a server shows, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw, context.wrap_socket(raw) as stream:
        found = stream.getpeercert(binary_form=True)
    assert found is not None
    return found


def der_of(files: TlsFiles) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


def copy(source: TlsFiles, target: TlsFiles) -> None:
    shutil.copy(source.certificate, target.certificate)
    shutil.copy(source.key, target.key)


@COMMANDS
def test_sighup_reads_the_certificate_again(run: Processes, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A good one is shown from then on; with one that cannot be used the old one stays, and that is said."""
    used, new, other = (make_certificate(tmp_path, name) for name in ("used", "new", "other"))
    old = der_of(used)
    tls = ("--tls-cert", str(used.certificate), "--tls-key", str(used.key))
    process = run.start(*command, "--json", "--listen", "127.0.0.1:0", *tls)
    line = process.wait_for("listening")
    port = icesignal.parse_relay_url(line["url"]).port
    assert certificate_at(port) == old
    shutil.copy(other.key, used.key)
    process.signal(signal.SIGHUP)
    answer = process.wait_for("reloaded")
    assert answer["ok"] is False
    assert str(used.key) in answer["message"]
    assert certificate_at(port) == old
    copy(new, used)
    process.signal(signal.SIGHUP)
    assert process.wait_for("reloaded")["ok"] is True
    assert certificate_at(port) == der_of(new)


def test_relay_and_turn_share_a_port_over_tls(run: Processes, tmp_path: Path) -> None:
    """Networks that let out 443 alone get both: the relay, and a TURN server with what the relay hands out."""
    files = make_certificate(tmp_path)
    process = run.start(
        *SERVE,
        *("--json", "--listen", "127.0.0.1:0", "--turn", "--turn-listen", "127.0.0.1:0", "--insecure-dev"),
        *("--tls-cert", str(files.certificate), "--tls-key", str(files.key), "--tls-listen", "127.0.0.1:0"),
        *("--admin-listen", "127.0.0.1:0"),
    )
    line = process.wait_for("listening")
    place = icesignal.parse_relay_url(line["tls_url"])
    assert f"turns:127.0.0.1:{place.port}?transport=tcp" in line["urls"]

    async def main() -> None:
        async with icesignal.open_client(line["tls_url"], ssl_context=trusting(files)) as member:
            await member.allocate()
            offered = next(one for one in member.ice_servers if "credential" in one)
            assert f"turns:127.0.0.1:{place.port}?transport=tcp" in offered["urls"]
            raw = await trio.open_tcp_stream("127.0.0.1", place.port)
            async with trio.SSLStream(raw, trusting(files), server_hostname="127.0.0.1") as stream:
                client = stream_client(stream)
                client.maker.username, client.maker.password = offered["username"], offered["credential"]
                client.maker.realm = line["realm"]
                with trio.fail_after(60):
                    assert (await client.allocate()).host == "127.0.0.1"
                metrics = await trio.to_thread.run_sync(read, f"{line['admin']}/metrics")
        assert "icesignal_stun_connections_total 1\n" in metrics
        assert "iceagent_turn_allocations 1.0\n" in metrics

    trio.run(main)
    with pytest.raises(OSError, match="404"):
        read(f"http://127.0.0.1:{place.port}/metrics")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: bytes = answer.read()
    return text.decode()


@contextmanager
def manager(folder: Path) -> Iterator[tuple[socket.socket, str]]:
    """Give what a service manager listens with, and where."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(60)
        yield sock, str(folder / "notify")


def hear(sock: socket.socket, wanted: str) -> None:
    """Wait for a state other than signs of life."""
    while True:
        found = sock.recv(4096).decode().split("\n")[0]
        if found != "WATCHDOG=1":
            assert found == wanted
            return


@COMMANDS
def test_the_service_manager_hears_how_it_is(run: Processes, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Ready when it listens, signs of life, reloading and ready again, stopping; then it ends with 0."""
    with manager(tmp_path) as (sock, address):
        environment = ("env", f"NOTIFY_SOCKET={address}", "WATCHDOG_USEC=200000")
        process = run.start(*environment, *command, "--json", "--listen", "127.0.0.1:0")
        hear(sock, "READY=1")
        process.wait_for("listening")
        for _ in range(3):
            assert sock.recv(4096) == b"WATCHDOG=1"
        process.signal(signal.SIGHUP)
        hear(sock, "RELOADING=1")
        hear(sock, "READY=1")
        process.signal(signal.SIGTERM)
        hear(sock, "STOPPING=1")
        assert process.wait() == 0


LAUNCHER = """
import os, socket, sys
for number, name in enumerate(("relay.socket", "admin"), 3):
    sock = socket.create_server(("127.0.0.1", 0))
    print('{"kind": "handed", "name": "%s", "port": %d}' % (name, sock.getsockname()[1]), flush=True)
    os.dup2(sock.fileno(), number + 10)
for number in (3, 4):
    os.dup2(number + 10, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": sys.argv[1]}
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(run: Processes, names: str, *command: str) -> tuple[Process, int, int]:
    """Start a command with two listening sockets; return their ports, too."""
    process = run.start(sys.executable, "-c", LAUNCHER, names, *command)
    ports = [process.wait_for("handed")["port"] for _ in range(2)]
    return process, ports[0], ports[1]


@COMMANDS
def test_sighup_while_draining_does_not_take_the_end_back(
    run: Processes, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A manager that hears READY after STOPPING takes the service for a running one."""
    option = "--drain" if command is RELAY else "--relay-drain"
    with manager(tmp_path) as (sock, address):
        process = run.start(
            *("env", f"NOTIFY_SOCKET={address}"), *command, "--json", "--listen", "127.0.0.1:0", option, "3600"
        )
        hear(sock, "READY=1")
        line = process.wait_for("listening")

        async def main() -> None:
            async with icesignal.open_client(line["url"]) as member:
                await member.allocate()
                process.signal(signal.SIGTERM)
                await trio.to_thread.run_sync(hear, sock, "STOPPING=1")
                process.signal(signal.SIGHUP)
                await trio.to_thread.run_sync(process.wait_for, "reloaded")
                process.signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(process.wait) == 0

        trio.run(main)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)


@COMMANDS
def test_sockets_are_taken_over_by_name(run: Processes, command: tuple[str, ...]) -> None:
    """No descriptor is lost, no port needs a privilege, and connections wait while the service starts anew."""
    process, relay, admin = handed_over(run, "relay.socket:admin", *command, "--json", "--listen", "127.0.0.1:9")
    line = process.wait_for("listening")
    assert icesignal.parse_relay_url(line["url"]).port == relay
    assert line["admin"] == f"http://127.0.0.1:{admin}"
    assert "icesignal_" in read(f"http://127.0.0.1:{admin}/metrics")
    assert read(f"http://127.0.0.1:{relay}/healthz") == "ok\n"


@COMMANDS
def test_a_socket_for_something_else_stops_the_start(run: Processes, command: tuple[str, ...]) -> None:
    """It would be open, and answered by nobody."""
    process, _, _ = handed_over(run, "relay:web", *command, "--json", "--listen", "127.0.0.1:0")
    assert "FileDescriptorName=" in process.wait_for("error")["message"]
    assert process.wait() == 2


@COMMANDS
def test_sigterm_drains_and_a_second_one_ends_at_once(run: Processes, command: tuple[str, ...]) -> None:
    """Who is there has the time that the operator gives; an operator without patience has the last word."""
    option = "--drain" if command is RELAY else "--relay-drain"
    process = run.start(*command, "--json", "--listen", "127.0.0.1:0", option, "3600")
    line = process.wait_for("listening")

    async def main() -> None:
        async with icesignal.open_client(line["url"]) as member:
            await member.allocate()
            process.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(process.wait_for, "draining")
            with pytest.raises(icesignal.SignalError):
                async with icesignal.open_client(line["url"]):
                    pass
            os.kill(process.pid, 0)
            process.signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(process.wait) == 0

    trio.run(main)
