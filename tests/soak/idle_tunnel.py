"""A tunnel that nobody uses for as long as you like, in real time, through the real command line.

    python tests/soak/idle_tunnel.py --minutes 30

Starts `serve`, `listen` and `forward`, carries a few bytes, then nothing at all, then a few bytes again. Meanwhile the
relay is killed (`--keep-relay` leaves it), since an established session needs none. Prints one JSON line: the seconds
of silence, what each side said meanwhile, and the processor time that idling took. Ends with 0 if the tunnel carried
the bytes after the silence as before, and with 1 and what both sides printed if it did not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from processes import Ended, Process, processes

LOOK_S = 5.0  # how often it is looked whether both processes live


def echo_server() -> int:
    """Start a TCP server that sends back what it gets, in capitals; return its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data.upper())

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def ask(connection: socket.socket, word: bytes) -> float:
    """Send a word through the tunnel, demand the answer, and return how long it took, seconds."""
    begun = time.monotonic()
    connection.sendall(word)
    answer = b""
    while len(answer) < len(word):
        part = connection.recv(4096)
        if not part:
            break
        answer += part
    if answer != word.upper():
        raise Ended(f"the tunnel answered {answer!r} to {word!r}")
    return time.monotonic() - begun


def cpu_s(process: Process) -> float:
    """Return the processor time of a process until now, seconds; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(seconds: float, sides: tuple[Process, Process]) -> None:
    """Do nothing, and notice at once when a side ends."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(LOOK_S, left))
        for side in sides:
            with suppress(Ended):
                code = side.wait(0.0)
                said = [*side.lines, *side.errors]
                raise SystemExit(f"{' '.join(side.command)} ended with {code} after {seconds - left:.0f} s: {said}")


def soak(seconds: float, *, keep_relay: bool) -> dict[str, object]:
    """Return the figures of one idle tunnel; raises `Ended` or `SystemExit` if it did not hold."""
    target = echo_server()
    with processes() as run:
        relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0")
        url = relay.wait_for("listening")["url"]
        listener = run.iceagent("listen", "--once", "--json", "--relay", url, "--allow", f"tcp:127.0.0.1:{target}")
        code = listener.wait_for("code")["code"]
        forwarder = run.iceagent("forward", "--json", "--relay", url, "-L", f"0:127.0.0.1:{target}", code)
        host, _, port = forwarder.wait_for("forwarding")["bind"].rpartition(":")
        address = (host, int(port))
        with socket.create_connection(address, timeout=20) as open_since_the_start:
            before_s = ask(open_since_the_start, b"before")
            if not keep_relay:
                relay.signal(signal.SIGKILL)
            used = [cpu_s(side) for side in (listener, forwarder)]
            idle(seconds, (listener, forwarder))
            used = [cpu_s(side) - before for side, before in zip((listener, forwarder), used, strict=True)]
            after_s = ask(open_since_the_start, b"after")
        with socket.create_connection(address, timeout=20) as fresh:
            fresh_s = ask(fresh, b"a new connection")
        return {
            "idle_s": round(seconds),
            "before_ms": round(before_s * 1000, 1),
            "after_ms": round(after_s * 1000, 1),
            "fresh_ms": round(fresh_s * 1000, 1),
            "cpu_s": {"listener": round(used[0], 2), "forwarder": round(used[1], 2)},
            "said": {"listener": listener.rest(), "forwarder": forwarder.rest()},
        }


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of silence (30)")
    parser.add_argument("--keep-relay", action="store_true", help="do not kill the relay once the two are connected")
    arguments = parser.parse_args()
    try:
        print(json.dumps(soak(60 * arguments.minutes, keep_relay=arguments.keep_relay)))
    except Ended as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
