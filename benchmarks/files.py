"""Files from command to exit: one large one, as much in many small ones, with kills in between, and beside wormhole.

    files.py [--megabytes 300] [--small 20000] [--kills 5] [--wormhole BIN] [--smoke]

Everything runs on the loopback interface, in a folder of its own; a relay runs already. Time is from the start of the
first command to the exit of the second. `--wormhole` is the `bin` of an environment with `magic-wormhole` and
`magic-wormhole-mailbox-server` from PyPI; its mailbox then runs here, too, and its commands are measured in turns with
ours.

What was received is kept to the end: ext4 makes files ten times as slowly for a while after as many were removed. With
`TMPDIR=/dev/shm` no disk is in it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from file_transfers import KillPlan, same_content, send_with_kills, start_transfer
from processes import Processes, processes


def fill(path: Path, size: int) -> Path:
    """Write a file of random bytes."""
    generator = random.Random(size)
    with path.open("wb") as file:
        for at in range(0, size, 1 << 20):
            file.write(generator.randbytes(min(1 << 20, size - at)))
    return path


def fill_many(folder: Path, count: int, size: int) -> Path:
    """Write `count` files in folders of 1000, of `size` bytes together."""
    generator = random.Random(count)
    for number in range(count):
        where = folder / f"{number // 1000:03d}"
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{number:05d}").write_bytes(generator.randbytes(size // count))
    return folder


def ours(run: Processes, relay: str, source: Path, work: Path) -> float:
    """Send once; return seconds from the first command to the last exit."""
    into = Path(tempfile.mkdtemp(dir=work))
    began_at = time.monotonic()
    sender, receiver = start_transfer(run, relay, source, into)
    codes = sender.wait(600), receiver.wait(600)
    seconds = time.monotonic() - began_at
    if codes != (0, 0) or not same_content(source, into / source.name):
        raise SystemExit(f"it did not arrive: {codes} {sender.errors} {receiver.errors}")
    return seconds


@contextmanager
def mailbox(folder: Path) -> Iterator[str]:
    """Run wormhole's mailbox; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = Path(tempfile.mkdtemp()) / "mailbox.sqlite"
    command = [folder / "twist", "wormhole-mailbox", f"--port=tcp:{port}:interface=127.0.0.1"]
    server = subprocess.Popen(
        [*map(str, command), f"--channel-db={database}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"ws://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def theirs(folder: Path, url: str, source: Path, work: Path) -> float:
    """Send once with wormhole; return seconds from the first command to the last exit."""
    into = Path(tempfile.mkdtemp(dir=work))
    base = [str(folder / "wormhole"), f"--relay-url={url}", "--transit-helper="]
    began_at = time.monotonic()
    sender = subprocess.Popen([*base, "send", "--hide-progress", str(source)], stderr=subprocess.PIPE, text=True)
    assert sender.stderr is not None
    code = next(found[1] for line in sender.stderr if (found := re.search(r"code is: (\S+)", line)))
    receive = [*base, "receive", "--accept-file", "--hide-progress", code]
    receiver = subprocess.Popen(receive, cwd=into, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    codes = receiver.wait(600), sender.wait(600)
    seconds = time.monotonic() - began_at
    sender.stderr.close()
    if codes != (0, 0) or not same_content(source, into / source.name):
        raise SystemExit(f"wormhole failed: {codes}")
    return seconds


def measure(what: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Measure several things in turns; print and return the median of each."""
    found: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, once in what.items():
            found[name].append(once())
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, seconds in found.items():
        print(f"{name:<34} {medians[name]:6.2f} s   ({', '.join(f'{one:.2f}' for one in seconds)})", flush=True)
    return medians


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wormhole", type=Path)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.megabytes, options.small, options.kills, options.rounds = 10, 300, 1, 1
    size = options.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as folder, processes() as run:
        work = Path(folder)
        large = fill(work / "large", size)
        small = fill_many(work / "small", options.small, size)
        os.sync()
        relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]
        what = {
            f"one of {options.megabytes} MB": lambda: ours(run, relay, large, work),
            f"{options.small} of as much together": lambda: ours(run, relay, small, work),
        }
        if options.wormhole is None:
            found = measure(what, options.rounds)
        else:
            with mailbox(options.wormhole) as url:
                what["wormhole, one"] = lambda: theirs(options.wormhole, url, large, work)
                found = measure(what, options.rounds)
        whole, many = list(found.values())[:2]
        print(f"many / one: {many / whole:.2f}")
        plan = KillPlan(random.Random(1), options.kills, size)
        seconds, paused = send_with_kills(run, relay, large, work / "into", plan)
        print(f"{options.kills} kills: {seconds:.2f} s without {paused:.2f} s of pauses, {seconds / whole:.2f} of one")


if __name__ == "__main__":
    main()
