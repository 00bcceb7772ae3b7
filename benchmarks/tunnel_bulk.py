"""One gigabyte through the tunnel, beside the same gigabyte straight through TCP: throughput, ratio, peak memory.

    tunnel_bulk.py [--megabytes 1000] [--stall] [--smoke]

Everything runs on the loopback interface: source, listener, forwarder and sink are four processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from processes import MemoryWatch, Processes, processes
from tunnels import TRAFFIC, open_tunnel


def fetch(run: Processes, address: str, size: int, *more: str) -> float:
    """Download through `address`; return Mbit/s from connect to the last byte."""
    done = run.start(*TRAFFIC, "sink", address, "--bytes", str(size), *more).wait_for("done", timeout_s=300)
    if not done["whole"]:
        raise SystemExit("the checksum differs")
    return size * 8 / done["seconds"] / 1e6


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--stall", action="store_true", help="the reader stops for 10 s after a tenth")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    size = (50 if options.smoke else options.megabytes) * 1_000_000
    stall = ("--stall-after", str(size // 10), "--stall-s", "10") if options.stall else ()
    with processes() as run:
        port = run.start(*TRAFFIC, "source").wait_for("ready")["port"]
        tunnel = open_tunnel(run, f"127.0.0.1:{port}", f"tcp:127.0.0.1:{port}")
        straight = fetch(run, f"127.0.0.1:{port}", size)
        with MemoryWatch(tunnel.listener, tunnel.forwarder) as memory:
            tunnelled = fetch(run, tunnel.bind, size, *stall)
        sides = " and ".join(f"{mb:.0f} MB" for mb in memory.peak_mb())
    print(f"straight TCP  {straight:8.0f} Mbit/s")
    print(f"tunnel        {tunnelled:8.0f} Mbit/s   ratio {tunnelled / straight:.3f}")
    print(f"peak resident memory, listener and forwarder: {sides}")


if __name__ == "__main__":
    main()
