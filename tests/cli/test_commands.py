"""The command line as its users meet it: real processes, what they print, how they end."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from in_process import command
from processes import ICEAGENT, Ended, Process, Processes, processes

from iceagent.cli.run import GRACE_S

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    """The URL of a relay that none of these tests does anything to."""
    with processes() as started:
        yield started.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]


def iceagent(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ICEAGENT_")} | environment
    return subprocess.run([*ICEAGENT, *arguments], input=stdin, capture_output=True, env=env, timeout=60, check=False)


def error_of(process: Process) -> dict[str, object]:
    """Wait for the error line and check that the exit code is the one it names."""
    line = process.wait_for("error")
    assert process.wait() == line["exit"]
    return line


def listen(run: Processes, relay: str, *allow: str) -> tuple[Process, str]:
    rules = [option for rule in allow for option in ("--allow", rule)]
    listener = run.iceagent("listen", "--once", "--json", "--relay", relay, *rules)
    return listener, listener.wait_for("code")["code"]


@contextmanager
def upper_server() -> Iterator[int]:
    """A TCP server that answers once the question has ended."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, connection.makefile("rb") as question:
                connection.sendall(question.read().upper())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def ask(bind: str, question: bytes) -> bytes:
    host, _, port = bind.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client, client.makefile("rb") as answer:
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)
        return answer.read()


def test_version_is_quick_to_ask():
    """A command that imports everything to print one line is a nuisance in scripts."""
    done = iceagent("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"iceagent 0.")
    code = "import sys; from iceagent.cli import main; main(['--version']); print('trio' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.endswith("False\n")


def test_listen_and_forward_with_an_embedded_relay(run):
    """The README's first example: no server anywhere, the code alone is enough."""
    with upper_server() as port:
        listener = run.iceagent("listen", "--once", "--json", "--allow", f"tcp:127.0.0.1:{port}")
        line = listener.wait_for("code")
        assert "@" in line["code"]
        assert line["command"].startswith("iceagent forward -L ")
        assert line["command"].endswith(line["code"])
        forwarder = run.iceagent("forward", "--json", "-L", f"0:127.0.0.1:{port}", line["code"])
        path = forwarder.wait_for("path")
        assert {"direct": True, "kind": "path"}.items() <= path.items()
        assert {"local", "remote", "rtt_ms", "transport"} <= path.keys()
        assert ask(forwarder.wait_for("forwarding")["bind"], b"half-close" * 10_000) == b"HALF-CLOSE" * 10_000
        assert forwarder.stop() == 130
        assert listener.wait_for("closed")
        assert listener.wait() == 0


def test_unix_to_unix_and_several_forwards(run, relay, tmp_path):
    """One command may carry several forwards; a Unix socket works on either side."""
    far, near = tmp_path / "far.sock", tmp_path / "near.sock"
    with upper_server() as port, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(far))
        server.listen()
        listener, code = listen(run, relay, f"unix:{far}", f"tcp:localhost:{port}")
        forwarder = run.iceagent(
            *("forward", "--json", "--relay", relay, "-L", f"unix:{near}:unix:{far}"),
            *("-L", f"0:localhost:{port}", "-L", f"0:unix:{far}", code),
        )
        assert forwarder.wait_for("forwarding")["bind"] == f"unix:{near}"
        assert ask(forwarder.wait_for("forwarding")["bind"], b"tcp") == b"TCP"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(near))
            client.sendall(b"hello")
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(100) == b"hello"
                accepted.sendall(b"there")
            assert client.recv(100) == b"there"
        forwarder.stop()
        assert not near.exists()
        listener.stop()


def test_a_refused_connection_closes_at_once_and_the_reason_is_in_the_log(run, relay):
    """The service may be down for a moment; the tunnel must say so and go on."""
    with socket.socket() as unused, upper_server() as port:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        _, code = listen(run, relay, "any")
        forwarder = run.iceagent(
            *("forward", "--json", "--relay", relay, "-L", f"0:127.0.0.1:{dead}", "-L", f"0:127.0.0.1:{port}", code)
        )
        broken, whole = (forwarder.wait_for("forwarding")["bind"] for _ in range(2))
        with pytest.raises(ConnectionResetError):
            assert ask(broken, b"x") == b"never"
        assert "connection refused" in forwarder.wait_for("log")["message"]
        assert ask(whole, b"x") == b"X"


def test_a_wrong_code_is_exit_4_and_the_listener_has_another(run, relay):
    """One guess: whoever guesses wrong has spoilt the code, and the listener must hear of it."""
    listener, code = listen(run, relay, "any")
    nameplate, _, _ = code.partition("-")
    joiner = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:h:1", f"{nameplate}-zebra-zebra")
    line = error_of(joiner)
    assert line["exit"] == 4
    assert "code" in str(line["message"])
    assert "wrong code" in str(listener.wait_for("closed")["reason"])
    late = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:h:1", code)
    assert error_of(late)["exit"] == 4
    next_code = listener.wait_for("code")["code"]
    run.iceagent("forward", "--json", "--relay", relay, "-L", "0:h:1", next_code).wait_for("forwarding")


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


@contextmanager
def echo_server() -> Iterator[int]:
    """Run a TCP server that sends everything back; yields its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_listener_that_stays_names_each_of_its_joiners(run, relay):
    """Lines of several sessions go to one terminal: each says whose it is, by the number of its code."""
    with echo_server() as port:
        listener = run.iceagent("listen", "--json", "--relay", relay, "--allow", f"tcp:127.0.0.1:{port}")
        forwards, lines = [], [listener.wait_for("code")]
        for number in range(2):
            while len(codes := [line["code"] for line in lines if line["kind"] == "code"]) <= number:
                lines.append(listener.wait_for("code", "path"))
            forward = run.iceagent("forward", "--json", "--relay", relay, "-L", f"0:127.0.0.1:{port}", codes[number])
            forwards.append((forward, int(forward.wait_for("forwarding")["bind"].rpartition(":")[2])))
            nameplate = codes[number].partition("-")[0]
            while not any(line.get("peer") == nameplate for line in lines):
                lines.append(listener.wait_for("code", "path"))
        for _, bind in forwards:
            with socket.create_connection(("127.0.0.1", bind), timeout=20) as near:
                near.sendall(b"hello")
                assert near.recv(5) == b"hello"
        forwards[1][0].signal(signal.SIGINT)
        assert listener.wait_for("closed")["peer"] == nameplate
        with socket.create_connection(("127.0.0.1", forwards[0][1]), timeout=20) as near:
            near.sendall(b"hello")
            assert near.recv(5) == b"hello"
        listener.signal(signal.SIGINT)
        assert listener.wait() == 130
        assert error_of(forwards[0][0])["exit"] == 5


def test_a_pipe_waits_for_somebody_who_wants_one(run, relay):
    """Whoever expects forwards is told so, and the next code is there; nothing of the input has been read."""
    listener = subprocess.Popen(
        [*ICEAGENT, "listen", "--json", "--relay", relay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with listener:
        assert listener.stderr is not None
        forward = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:h:1", code_from(listener.stderr))
        assert error_of(forward)["exit"] == 8
        kinds: list[str] = []
        while not kinds or kinds[-1] != "code":
            line = json.loads(listener.stderr.readline())
            kinds.append(line["kind"])
        assert "closed" in kinds
        assert listener.stdin is not None
        listener.stdin.write(b"here")
        listener.stdin.close()
        connect = iceagent("connect", "-q", "--relay", relay, line["code"], stdin=b"there")
        assert listener.stdout is not None
        received = listener.stdout.read()
        listener.wait(20)
    assert (received, connect.stdout, connect.returncode, listener.returncode) == (b"there", b"here", 0, 0)


def test_relay_down_is_exit_3():
    """Within the time a user is willing to wait, with the address that was tried."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        for verb in (
            ("listen", "--allow", "any"),
            ("forward", "-L", "0:h:1", "1-acorn-zebra"),
            ("connect", "1-acorn-zebra"),
        ):
            done = command(*verb, "--relay", url)
            assert done.returncode == 3
            assert url.encode() in done.stderr
            assert done.stdout == b""


def test_port_in_use_is_exit_9_and_does_not_cost_the_code(run, relay):
    """A code is good for one try; a mistake that can be seen before must not use it up."""
    with upper_server() as port:
        _, code = listen(run, relay, "any")
        arguments = ("--json", "--relay", relay, code)
        assert error_of(run.iceagent("forward", "-L", f"{port}:h:1", *arguments))["exit"] == 9
        forwarder = run.iceagent("forward", "-L", f"0:127.0.0.1:{port}", *arguments)
        assert ask(forwarder.wait_for("forwarding")["bind"], b"x") == b"X"
        assert error_of(run.iceagent("serve", "--json", "--listen", f"127.0.0.1:{port}"))["exit"] == 9


def test_what_is_not_allowed_is_exit_8(run, relay):
    """Asked at the start, so that the user learns it before the first connection, and what is allowed instead."""
    listener, code = listen(run, relay, "tcp:localhost:1")
    line = error_of(run.iceagent("forward", "--json", "--relay", relay, "-L", "0:localhost:2", code))
    assert line["exit"] == 8
    assert "tcp:localhost:1" in str(line["message"])
    line = listener.wait_for("closed")
    assert "asked for tcp:localhost:2, which is not allowed here, and left" in str(line["reason"])
    assert listener.wait_for("code")["code"] != code


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("forward", "-L", "nonsense", "1-acorn-zebra"), b"2222:localhost:22"),
        (("forward", "1-acorn-zebra"), b"-L"),
        (("forward", "-L", "1:h:1"), b"CODE"),
        (("forward", "-L", "0:h:1", "1-acorn-zebra"), b"--relay"),
        (("forward", "-L", "0:h:1", "--relay", "gopher://h", "1-acorn-zebra"), b"ws://"),
        (("listen", "--allow", "any", "--relay", ""), b"ws://"),
        (("listen", "--allow", "nonsense"), b"tcp:localhost:22"),
        (("listen", "--timeout", "0"), b"timeout"),
        (("listen", "--timeout", "nan"), b"seconds"),
        (("connect", "1-acorn-zebra", "--relay", "ws://a..b:1"), b"ws://"),
        (("serve", "--listen", "nonsense"), b"[::]:8080"),
        (("sing",), b"sing"),
        (("connect", "1-acorn-zebra", "--frobnicate"), b"frobnicate"),
    ],
)
def test_usage_errors_are_exit_2_with_one_sentence(arguments, hint):
    """And with an example of a right one, where something is written wrong."""
    done = command(*arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_usage_errors_are_json_too():
    """A program that starts iceagent must be able to tell what it did wrong."""
    done = iceagent("forward", "--json", "-L", "nonsense", "1-acorn-zebra")
    line = json.loads(done.stdout)
    assert (line["kind"], line["exit"], done.returncode) == ("error", 2, 2)
    unknown = command("forward", "--json", "--frobnicate")
    assert json.loads(unknown.stdout)["exit"] == 2
    of_pipe = command("connect", "--json")
    assert json.loads(of_pipe.stderr)["exit"] == 2
    assert of_pipe.stdout == b""


def test_nobody_came_is_exit_6(run, relay):
    """A script that offers something must be able to give up."""
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any", "--relay", relay, "--timeout", "0.2")
    assert error_of(listener)["exit"] == 6


def test_environment_names_relay_and_code(run, relay):
    """So that neither has to be on the command line."""
    listener = subprocess.Popen(
        [*ICEAGENT, "listen", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"ICEAGENT_RELAY": relay},
    )  # fmt: skip
    with listener:
        assert listener.stderr is not None
        code = code_from(listener.stderr)
        assert "@" not in code
        done = iceagent("connect", stdin=b"x", ICEAGENT_RELAY=relay, ICEAGENT_CODE=code)
        assert done.returncode == 0
        assert listener.communicate(timeout=60)[0] == b"x"
    assert listener.returncode == 0


def code_from(lines: IO[bytes]) -> str:
    """Return the code from a command's lines; on a busy machine others tell before that it waits."""
    while "code" not in (line := json.loads(lines.readline())):
        assert line["kind"] == "waiting"
    return str(line["code"])


def test_the_pipe_carries_payload_alone_on_stdout_both_ways(run, relay):
    """`listen < a > b` and `connect < c > d` must exchange the files and nothing else; both end with 0 (trap 45)."""
    here, there = os.urandom(3_000_000), os.urandom(1_000_000)
    listener = subprocess.Popen(
        [*ICEAGENT, "listen", "--once", "--json", "--relay", relay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with listener:
        assert listener.stderr is not None
        code = code_from(listener.stderr)
        connector = subprocess.Popen(
            [*ICEAGENT, "connect", "--json", "--relay", relay, code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(connector.communicate(there, timeout=60)[0]))
        thread.start()
        received, lines = listener.communicate(here, timeout=60)
        thread.join(20)
    assert received == there
    assert answers == [here]
    assert (listener.returncode, connector.returncode) == (0, 0)
    assert {json.loads(line)["kind"] for line in lines.splitlines()} - {"waiting"} == {"path"}


def test_a_killed_pipe_is_not_a_success(run, relay):
    """Half a file with exit code 0 would be taken for a whole one."""
    listener = subprocess.Popen(
        [*ICEAGENT, "listen", "--once", "--json", "--relay", relay],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with listener:
        assert listener.stderr is not None
        code = code_from(listener.stderr)
        connector = run.start(*ICEAGENT, "connect", "--relay", relay, code, stdin=subprocess.PIPE)
        connector.say(x=1)
        assert json.loads(listener.stderr.readline())["kind"] == "path"
        assert listener.stdout is not None
        assert listener.stdout.read(1) == b"{"
        connector.stop()
        assert listener.wait() == 5
        assert "before the end" in json.loads(listener.stderr.readlines()[-1])["message"]


def test_a_pipe_that_meets_forwards_is_told_so(run, relay):
    """And the other way round: the two commands must fit."""
    _, code = listen(run, relay, "any")
    done = iceagent("connect", "--relay", relay, code)
    assert done.returncode == 8
    assert b"iceagent forward" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_command(run, relay, number):
    """With 130, within 2 s whatever it is doing, and the other side told at once. SIGTERM is no error for a server."""
    assert GRACE_S < 2
    serve = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0")
    serve.wait_for("listening")
    waiting, _ = listen(run, relay, "any")
    listener, code = listen(run, relay, "any")
    forwarder = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:127.0.0.1:1", code)
    forwarder.wait_for("forwarding")
    for process in (serve, waiting, forwarder):
        process.signal(number)
        assert process.wait() == (0 if process is serve and number == signal.SIGTERM else 130)
    assert "interrupted" in listener.wait_for("closed")["reason"]
    assert listener.wait() == 0


def test_a_terminal_that_is_closed_is_told_to_the_other_side_and_nohup_is_respected(run, relay):
    """It is how most sessions end; the other side must not wait half a minute and then guess."""
    listener, code = listen(run, relay, "any")
    forwarder = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:127.0.0.1:1", code)
    forwarder.wait_for("forwarding")
    forwarder.signal(signal.SIGHUP)
    assert forwarder.wait() == 130
    assert "interrupted" in listener.wait_for("closed")["reason"]
    kept = run.start("nohup", *ICEAGENT, "listen", "--once", "--json", "--relay", relay, "--allow", "any")
    kept.wait_for("code")
    kept.signal(signal.SIGHUP)
    with pytest.raises(Ended):
        kept.wait(0.5)


def test_a_forward_ends_when_the_listener_closes(run, relay):
    """It can carry nothing more; a script must not go on as if it could."""
    listener, code = listen(run, relay, "any")
    forwarder = run.iceagent("forward", "--json", "--relay", relay, "-L", "0:127.0.0.1:1", code)
    forwarder.wait_for("forwarding")
    listener.stop()
    line = error_of(forwarder)
    assert line["exit"] == 5
    assert "closed" in str(line["message"])


def test_people_read_lines_on_stderr_and_quiet_is_quiet(relay):
    """Standard output stays empty, so that it can be redirected; the code is what `-q` must still show."""
    loud = iceagent("listen", "--allow", "tcp:localhost:22", "--relay", relay, "--timeout", "0.2")
    assert loud.stdout == b""
    assert b"iceagent forward --relay" in loud.stderr
    assert b"-L 2222:localhost:22" in loud.stderr
    quiet = iceagent("listen", "-q", "--allow", "tcp:localhost:22", "--relay", relay, "--timeout", "0.2")
    first, second = quiet.stderr.decode().splitlines()
    assert first.count("-") == 2
    assert second.startswith("iceagent: nobody came")


def test_a_relay_that_dies_before_the_peer_comes_is_noticed(run):
    """The embedded relay lives in the listener; a joiner that comes after it has gone must not wait for ever."""
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any")
    code = listener.wait_for("code")["code"]
    listener.stop()
    done = iceagent("forward", "-L", "0:h:1", code)
    assert done.returncode == 3


def test_documentation_names_every_exit_code_and_kind():
    """Scripts are written against docs/cli.md."""
    from iceagent.cli.exits import Exit

    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    assert all(f"| {int(code)} |" in text for code in Exit)
    assert all(
        f"`{kind}`" in text
        for kind in ("listening", "code", "waiting", "path", "outage", "forwarding", "closed", "log", "error")
    )


def test_on_a_terminal_a_line_moves_until_the_error_takes_its_place() -> None:
    """What is tried, and for how long; the end stands alone on its line."""
    here, there = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as silent, os.fdopen(here, "rb", buffering=0) as terminal:
        code = f"7-guitar-ozone@127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "TERM": "xterm"}
        waiting = subprocess.Popen(
            [*ICEAGENT, "connect", code], stdin=subprocess.DEVNULL, stderr=there, env=environment
        )
        os.close(there)
        shown = b""
        try:
            while b" 1 s waiting for the relay 127.0.0.1" not in shown:
                shown += terminal.read(4096)
            assert b"\n" not in shown
            waiting.send_signal(signal.SIGINT)
            while b"\n" not in shown:
                shown += terminal.read(4096)
            assert waiting.wait(60) == 130
        finally:
            waiting.kill()
            waiting.wait()
    assert shown.rpartition(b"\r\x1b[K")[2] == b"iceagent: interrupted\r\n"
