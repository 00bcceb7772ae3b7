"""Programs that know SOCKS, HTTP CONNECT or a ProxyCommand, with real commands at both ends."""

from __future__ import annotations

import http.server
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from processes import ICEAGENT, Process, Processes
from tunnels import TRAFFIC

pytestmark = pytest.mark.processes

PAGE = b"a page\n" * 10_000


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers every request with the same page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def pages() -> Iterator[int]:
    """A web server's port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def echo_in_capitals() -> Iterator[int]:
    """Serve connections: each is read to its end, then answered in capitals."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    text = b""
                    while chunk := connection.recv(65536):
                        text += chunk
                    connection.sendall(text.upper())

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def listen(run: Processes, *allow: str) -> tuple[str, str, Process]:
    """Return the relay's URL, a code, and the listener."""
    relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0")
    url = relay.wait_for("listening")["url"]
    rules = [word for rule in allow for word in ("--allow", rule)]
    listener = run.iceagent("listen", "--json", "--relay", url, *rules)
    return url, listener.wait_for("code")["code"], listener


def is_free(bind: str) -> bool:
    """Return whether nobody listens there any more."""
    host, _, port = bind.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
        return True


def wait_free(bind: str) -> None:
    deadline = time.monotonic() + 60
    while not is_free(bind):
        assert time.monotonic() < deadline, f"{bind} is still open"
        time.sleep(0.05)


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["curl", "-sS", "-m", "60", *arguments], capture_output=True, check=False, timeout=90)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command curl is not installed")
def test_curl_by_socks_and_by_http_connect(run: Processes, pages: int) -> None:
    url, code, _ = listen(run, f"tcp:localhost:{pages}", f"tcp:127.0.0.1:{pages}")
    forwarder = run.iceagent("forward", "--json", "--relay", url, "-D", "0", "-L", f"0:{pages}", code)
    opened = [forwarder.wait_for("forwarding") for _ in range(2)]
    bind = next(one["bind"] for one in opened if one["target"] == "any")
    page = f"http://localhost:{pages}/"
    for options in (
        ("--socks5-hostname", bind),
        ("--socks5", bind, page.replace("localhost", "127.0.0.1")),
        ("--socks4a", bind),
        ("--proxytunnel", "-x", f"http://{bind}"),
    ):
        done = curl(*options, *(() if len(options) == 3 and options[0] == "--socks5" else (page,)))
        assert (done.returncode, done.stdout) == (0, PAGE), (options, done.stderr)
    assert curl("--socks5-hostname", bind, "http://localhost:1/").returncode == 97, "refused by the rules"
    plain = curl("-x", f"http://{bind}", "-o", "/dev/null", "-w", "%{http_code}", page)
    assert plain.stdout == b"405"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command curl is not installed")
def test_many_programs_at_once(run: Processes, pages: int) -> None:
    """Each has its page, though many more come than a session carries at once."""
    url, code, _ = listen(run, "any")
    bind = run.iceagent("forward", "--json", "--relay", url, "-D", "0", code).wait_for("forwarding")["bind"]
    many = f"http://127.0.0.1:{pages}/[1-300]"
    done = curl(
        "-Z", "--parallel-max", "100", "--socks5-hostname", bind, "-o", "/dev/null", "-w", "%{http_code}\n", many
    )
    assert done.stdout.split() == [b"200"] * 300, done.stderr


def test_nc_carries_both_directions_and_prints_nothing_else(run: Processes) -> None:
    with echo_in_capitals() as port:
        url, code, _ = listen(run, str(port))
        command = [*ICEAGENT, "nc", "--relay", url, code, str(port)]
        done = subprocess.run(command, input=b"hello" * 100_000, capture_output=True, check=False, timeout=90)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"HELLO" * 100_000


def test_nc_tells_what_is_refused_and_what_is_not_there(run: Processes) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        for allow, says in [("1", b"refuses tcp:localhost"), (str(dead), b"cannot reach tcp:localhost")]:
            url, code, _ = listen(run, allow)
            command = [*ICEAGENT, "nc", "--relay", url, code, f"localhost:{dead}"]
            done = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=90)
            assert (done.returncode, done.stdout) == (8, b"")
            assert says in done.stderr
            assert done.stderr.count(b"\n") == 1


def test_nc_whose_other_side_is_interrupted_does_not_end_well(run: Processes) -> None:
    """What a killed side had under way must not look whole."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url, code, listener = listen(run, str(port))
        with subprocess.Popen(
            [*ICEAGENT, "nc", "--relay", url, code, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as nc:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"half")
                assert nc.stdout is not None
                assert nc.stdout.read(4) == b"half"
                listener.signal(signal.SIGINT)
                assert nc.wait(60) == 5


@pytest.mark.skipif(shutil.which("ssh") is None, reason="the command ssh is not installed")
def test_nc_is_a_proxy_command(run: Processes) -> None:
    """Enough of ssh: it reads the other side's greeting through it, and complains of what follows."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        heard: list[bytes] = []

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-test\r\n")
                heard.append(connection.recv(100))
                connection.sendall(b"no more\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        url, code, _ = listen(run, str(port))
        proxy = " ".join([*ICEAGENT, "nc", "--relay", url, code, "%h:%p"])
        options = ["-o", f"ProxyCommand={proxy}", "-o", "BatchMode=yes", "-F", "none", "-p", str(port)]
        done = subprocess.run(["ssh", *options, "localhost"], capture_output=True, check=False, timeout=90)
        thread.join(60)
    assert heard
    assert heard[0].startswith(b"SSH-2.0-")
    assert done.returncode == 255


def test_a_port_over_there_leads_here_and_nothing_is_left_of_it(run: Processes, pages: int) -> None:
    """Each kind of end: the command is interrupted, killed, or the listener is."""
    for end in ("forwarder", "listener"):
        url, code, listener = listen(run, "listen:0", "any")
        options = ("-R", f"0:localhost:{pages}", "-L", f"0:{pages}", "-D", "0", "-R", f"0:localhost:{pages}")
        forwarder = run.iceagent("forward", "--json", "--relay", url, *options, code)
        opened = [forwarder.wait_for("forwarding") for _ in range(4)]
        assert sorted(one["direction"] for one in opened) == ["dynamic", "local", "remote", "remote"]
        for one in opened:
            if one["direction"] != "dynamic":
                assert curl(f"http://{one['bind']}/").stdout == PAGE
        if end == "forwarder":
            forwarder.signal(signal.SIGINT)
            assert forwarder.wait() == 130
        else:
            listener.signal(signal.SIGKILL)
            listener.wait()
            forwarder.signal(signal.SIGKILL)
        for one in opened:
            wait_free(one["bind"])


def test_a_listener_that_is_not_allowed_ends_the_command(run: Processes) -> None:
    url, code, _ = listen(run, "any")
    forwarder = run.iceagent("forward", "--json", "--relay", url, "-R", "8080:localhost:1", code)
    error = forwarder.wait_for("error")
    assert forwarder.wait() == error["exit"] == 8
    assert "--allow-remote-listen" in error["message"]


@pytest.mark.thorough
@pytest.mark.parametrize("option", ["-L", "-R"])
def test_a_thousand_connections_at_once_arrive_whole(run: Processes, option: str) -> None:
    """More than a session carries: the others wait their turn."""
    port = run.start(*TRAFFIC, "source").wait_for("ready")["port"]
    url, code, _ = listen(run, "any", "listen:0")
    forwarder = run.iceagent("forward", "--json", "--relay", url, option, f"0:127.0.0.1:{port}", code)
    bind = forwarder.wait_for("forwarding")["bind"]
    done = run.start(*TRAFFIC, "sink", bind, "--bytes", "10000", "--connections", "1000").wait_for(
        "done", timeout_s=300
    )
    assert done["whole"] == 1000
