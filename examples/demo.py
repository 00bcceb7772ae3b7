"""The whole story in one command: a file comes through a tunnel between two peers.

A relay, a web server with 200 MB of random bytes, a listening peer and a forwarding peer run as separate processes.
As root (with the commands `ip` and `nft`), each peer lives in its own network namespace behind its own NAT, and the
relay on the internet between them. `--nat` insists on that, `--plain` declines it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from natlab import INTERNET_HOST, Natlab, command_in, open_natlab, why_not
from processes import Processes, processes

CHUNK = 1 << 20


def make_file(path: Path, size: int) -> str:
    """Fill a file with random bytes; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for at in range(0, size, CHUNK):
            block = os.urandom(min(CHUNK, size - at))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def download(target: Path) -> None:
    """Fetch what a line on standard input names; print when its first and last byte came, by the monotonic clock."""
    url = json.loads(sys.stdin.readline())["url"]
    with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
        block = response.read(1)
        first_at = time.monotonic()
        while block:
            file.write(block)
            block = response.read(CHUNK)
        print(json.dumps({"kind": "downloaded", "first_at": first_at, "last_at": time.monotonic()}))


def start_web_server(run: Processes, lab: Natlab | None, folder: Path) -> int:
    """Serve `folder` over HTTP on the listening peer's machine; return the port."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    text = run.start(*command_in(lab, "host-b", command)).wait_for("text")["text"]
    match = re.search(r" port (\d+) ", text)
    if match is None:
        raise SystemExit(f"the web server said {text!r}")
    return int(match[1])


def demonstrate(run: Processes, lab: Natlab | None, size: int, folder: Path) -> bool:
    """Tunnel the file; print the figures; return whether it arrived whole."""
    expected = make_file(folder / "data.bin", size)
    relay_host = INTERNET_HOST if lab else "127.0.0.1"
    inside = {node: command_in(lab, node, []) for node in ("inet", "host-a", "host-b")}

    relay = run.iceagent("serve", "--json", "--listen", f"{relay_host}:0", inside=inside["inet"])
    url = relay.wait_for("listening")["url"]
    port = start_web_server(run, lab, folder)
    target = f"127.0.0.1:{port}"
    listener = run.iceagent("listen", "--json", "--relay", url, "--allow", f"tcp:{target}", inside=inside["host-b"])
    code = listener.wait_for("code")["code"]
    print(f"code        {code}")

    # There already, so that what is measured is the tunnel and not the start of another Python.
    command = [sys.executable, __file__, "--download", str(folder / "copy.bin")]
    downloader = run.start(*command_in(lab, "host-a", command), stdin=subprocess.PIPE)
    forwarder = run.iceagent("forward", "--json", "--relay", url, "-L", f"0:{target}", code, inside=inside["host-a"])
    path = forwarder.wait_for("path")
    bind = forwarder.wait_for("forwarding")["bind"]
    downloader.say(url=f"http://{bind}/data.bin")
    print(f"path        {'direct' if path['direct'] else 'relayed'} {path['local']} -> {path['remote']}", end="")
    print(f", rtt {path['rtt_ms']} ms" if path["rtt_ms"] is not None else "")

    done = downloader.wait_for("downloaded", timeout_s=300)
    seconds = done["last_at"] - done["first_at"]
    with (folder / "copy.bin").open("rb") as copy:
        found = hashlib.file_digest(copy, "sha256").hexdigest()
    print(f"first byte  {1000 * (done['first_at'] - forwarder.started_at):.0f} ms after `forward` was typed")
    print(f"throughput  {size * 8 / seconds / 1e6:.0f} Mbit/s ({size / 1e6:.0f} MB in {seconds:.2f} s)")
    print(f"SHA-256     {'the same' if found == expected else f'DIFFERS: {found}, sent {expected}'}")
    return found == expected


def main(arguments: Sequence[str]) -> int:
    """Parse the options and run the demonstration once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nat", action="store_true", help="insist on two NATs (needs root, ip and nft)")
    parser.add_argument("--plain", action="store_true", help="no NATs: everything on the loopback interface")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--download", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.download:
        download(options.download)
        return 0
    reason = "as asked" if options.plain else why_not()
    if reason and options.nat:
        print(f"Two NATs cannot be built here: {reason}.", file=sys.stderr)
        return 1
    print(f"network     loopback ({reason})" if reason else "network     two namespaces behind two NATs")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iceagent-demo-")))
        lab = None if reason else stack.enter_context(open_natlab())
        run = stack.enter_context(processes())
        whole = demonstrate(run, lab, options.megabytes * 1_000_000, folder)
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
