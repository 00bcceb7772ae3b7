"""How long commands take to start: the list of verbs, a verb's module, what a link imports; and a whole `forward`.

    startup.py [--runs 20] [--smoke]

Each line is a median over processes of their own, interleaved, so that a busy moment is everybody's; the first lines
are beside `python -c pass`. The last ones are from the moment that `iceagent forward` is typed to the first byte of
the service behind it, relay, listener and forwarder on the loopback interface, beside a Python process that serves its
one byte over TCP; and how much of a processor the forwarder had by then. Compiled modules are kept, as where a package
is installed.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from processes import Process, Processes, processes

CASES = {
    "python -c pass": ("-c", "pass"),
    "import trio": ("-c", "import trio"),
    "iceagent --help": ("-m", "iceagent", "--help"),
    "iceagent forward --help": ("-m", "iceagent", "forward", "--help"),
    "import of a link": (
        "-c",
        "import gc; gc.disable()\nimport iceagent, iceagent.session.establish; iceagent.join\n"
        "from iceagent.link import preload; preload()",
    ),
}
TARGETS_MS = {"iceagent --help": 150.0, "import of a link": 300.0, "forward typed to first byte": 450.0}
"""On a quiet machine of two cores; the ratio is what can be compared between machines."""
ONE_BYTE = (
    "import json, socket; server = socket.create_server(('127.0.0.1', 0))\n"
    "print(json.dumps({'kind': 'forwarding', 'bind': '127.0.0.1:%d' % server.getsockname()[1]}), flush=True)\n"
    "server.accept()[0].sendall(b'1')"
)
BREATH_S = 1.0
"""Between the listener's code and its use: a person takes longer, and the listener's own start is not measured."""


def milliseconds(arguments: tuple[str, ...]) -> float:
    """Return how long a process takes from start to end."""
    began_at = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - began_at)


def greet(service: socket.socket) -> None:
    """Send one byte to whoever connects, for ever."""
    while True:
        connection, _ = service.accept()
        with connection:
            connection.sendall(b"1")


def cpu_ms(process: Process) -> float:
    """Return the time that a process has had on a processor; 0 where the system keeps no such file."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def to_first_byte(start: Callable[[], Process]) -> tuple[float, float]:
    """Return after how many milliseconds the first byte comes through a process, and its time on a processor."""
    began_at = time.perf_counter()
    process = start()
    host, _, port = process.wait_for("forwarding")["bind"].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        if connection.recv(1) != b"1":
            raise SystemExit("the service did not send its byte")
    wall_ms = 1000 * (time.perf_counter() - began_at)
    return wall_ms, cpu_ms(process)


def first_bytes(runs: int) -> dict[str, list[float]]:
    """Return what the last lines show."""
    times: dict[str, list[float]] = {"yardstick: one byte by TCP": [], "forward typed to first byte": []}
    times["  its time on a processor"] = []
    with socket.create_server(("127.0.0.1", 0)) as service, processes() as run:
        threading.Thread(target=greet, args=(service,), daemon=True).start()
        target = f"127.0.0.1:{service.getsockname()[1]}"
        url = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]
        for _ in range(runs):
            with processes() as round_:
                measure(round_, url, target, times)
    return times


def measure(run: Processes, url: str, target: str, times: dict[str, list[float]]) -> None:
    """Forward once."""
    yardstick, forward, processor = times.values()
    listener = run.iceagent("listen", "--once", "--json", "--relay", url, "--allow", f"tcp:{target}")
    code = listener.wait_for("code")["code"]
    time.sleep(BREATH_S)
    yardstick.append(to_first_byte(lambda: run.start(sys.executable, "-c", ONE_BYTE))[0])
    arguments = ("forward", "--json", "--relay", url, "-L", f"0:{target}", code)
    wall_ms, on_processor_ms = to_first_byte(lambda: run.iceagent(*arguments))
    forward.append(wall_ms)
    processor.append(on_processor_ms)


def show(times: dict[str, list[float]]) -> None:
    """Print the medians; the first is the yardstick of the others."""
    unit = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        target = f", target {TARGETS_MS[name]:.0f} ms" if name in TARGETS_MS else ""
        print(
            f"{name:28} median {median:7.1f} ms, {median / unit:5.1f} times the first, least {min(values):6.1f}{target}"
        )


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    runs = 2 if options.smoke else options.runs
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for arguments in CASES.values():
        milliseconds(arguments)  # compiles what is not compiled yet
    for _ in range(runs):
        for name, arguments in CASES.items():
            times[name].append(milliseconds(arguments))
    show(times)
    show(first_bytes(runs))


if __name__ == "__main__":
    main()
