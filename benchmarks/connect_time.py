"""How long until a forwarded connection has its first byte: through the API and through the command line.

    connect_time.py [--runs 20] [--smoke]

API: two running processes; from the code being known on both sides to the first byte, PAKE included. Command line:
from the start of the `forward` process, so with the interpreter's own start. Beside them, as the yardstick of the same
machine, the first byte of the same server straight over TCP. All on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from processes import Process, Processes, processes
from tunnels import TRAFFIC

import iceagent


async def listen_often(relay: str, target: str, runs: int) -> None:
    """Be the listening process: one invitation after the other, each served until its peer leaves."""
    for _ in range(runs):
        async with iceagent.invite(relay=relay) as invitation:
            print(json.dumps({"kind": "code", "code": invitation.code}), flush=True)
            async with invitation.accept() as link, link.serve_forwards([f"tcp:{target}"]):
                await link.wait_closed()


async def first_byte(address: str) -> float:
    """Return the moment the server's first byte came."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"1 1\n")
        await stream.receive_some(1)
        return time.monotonic()


async def through_api(code: str, relay: str, target: str) -> float:
    """Return milliseconds from here to the first byte through a new session."""
    began_at = time.monotonic()
    async with iceagent.join(code, relay=relay) as link, link.forward_local(f"0:{target}") as forward:
        return 1000 * (await first_byte(forward.bind) - began_at)


def through_command_line(run: Processes, relay: str, target: str) -> float:
    """Return milliseconds from starting `forward` to the first byte."""
    listener = run.iceagent("listen", "--once", "--json", "--relay", relay, "--allow", f"tcp:{target}")
    code = listener.wait_for("code")["code"]
    forwarder = run.iceagent("forward", "--json", "--relay", relay, "-L", f"0:{target}", code)
    bind = forwarder.wait_for("forwarding")["bind"]
    milliseconds = 1000 * (trio.run(first_byte, bind) - forwarder.started_at)
    forwarder.stop()
    listener.wait(10)
    return milliseconds


def report(name: str, times: list[float], target_ms: float | None) -> None:
    """Print a line of figures."""
    against = "" if target_ms is None else f", target {target_ms:.0f} ms"
    print(f"{name:14} median {statistics.median(times):7.1f} ms of {len(times)}, slowest {max(times):7.1f} ms{against}")


def start_relay(run: Processes) -> str:
    """Start a relay, one for each part, since a relay limits how often one address may join; return its URL."""
    url: str = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]
    return url


def start_listener(run: Processes, relay: str, target: str, runs: int) -> Process:
    """Start this script as the listening process."""
    return run.start(sys.executable, __file__, "--listen", relay, target, "--runs", str(runs))


async def straight(target: str) -> float:
    """Return milliseconds to the first byte without any tunnel."""
    began_at = time.monotonic()
    return 1000 * (await first_byte(target) - began_at)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--listen", nargs=2, metavar=("RELAY", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        trio.run(listen_often, options.listen[0], options.listen[1], options.runs)
        return
    runs = 3 if options.smoke else options.runs
    with processes() as run:
        target = f"127.0.0.1:{run.start(*TRAFFIC, 'source').wait_for('ready')['port']}"
        relay = start_relay(run)
        report("straight TCP", [trio.run(straight, target) for _ in range(runs)], None)
        listener = start_listener(run, relay, target, runs)
        report(
            "API", [trio.run(through_api, listener.wait_for("code")["code"], relay, target) for _ in range(runs)], 250
        )
        listener.wait(10)
        relay = start_relay(run)
        report("command line", [through_command_line(run, relay, target) for _ in range(runs)], 450)


if __name__ == "__main__":
    main()
