"""Other people's programs through the tunnel: each speaks to a service at the other home as if it were its own machine.

Two paired users, each behind a NAT of its own. The one's listener stays for all the tests; the other's forwards are one
command. What a client prints is what it prints on one machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from natlab import Home, Natlab, open_natlab
from natlab_experiments import Scenario, relay_options
from processes import ICEAGENT, Process, Processes, processes
from real_services import DNS, ECHO, IPERF, POSTGRES, REDIS, RSYNC, SSH, WEB, WEB_2, Services, installed

pytestmark = pytest.mark.timeout(400)
MIB = 1 << 20
IDLE_S = float(os.environ.get("ICEAGENT_IDLE_S", "20"))
"""How long an ssh session says nothing; 300 by hand."""
HERE, THERE = "host-a", "host-b"
DYNAMIC, BACK, PAGE_HERE = 1080, 9000, 3000
TCP = {
    2222: SSH,
    18080: WEB,
    18081: WEB_2,
    15353: DNS,
    15432: POSTGRES,
    16379: REDIS,
    15201: IPERF,
    18730: RSYNC,
    18765: ECHO,
}


@dataclass
class Homes:
    """Two homes whose users are paired, and the commands that run."""

    lab: Natlab
    run: Processes
    folder: Path
    url: str
    listener: Process
    forwarder: Process

    def environment(self, node: str) -> list[str]:
        """Return the start of a command line of the user at a node."""
        return ["env", f"XDG_DATA_HOME={self.folder / node}", f"ICEAGENT_RELAY={self.url}", f"HOME={self.folder}"]

    def iceagent(self, node: str, *words: str) -> Process:
        """Start iceagent as the user at a node."""
        return self.run.start(*self.lab.inside(node, *self.environment(node), *ICEAGENT, *words))

    def do(self, *command: str, node: str = HERE, stdin: bytes = b"", timeout_s: float = 120.0) -> bytes:
        """Return what a program prints at a node; it must end with 0."""
        done = subprocess.run(
            self.lab.inside(node, *self.environment(node), *command),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        logs = [line for line in self.forwarder.rest() if line["kind"] == "log"]
        assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"), logs)
        return done.stdout

    def ssh_options(self) -> list[str]:
        """Return what ssh and scp need to know besides."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
        key = str(self.folder / "there" / "user_key")
        return ["-F", "none", "-i", key, *(word for one in options for word in ("-o", one))]


@pytest.fixture(scope="module")
def homes(laboratory: None) -> Iterator[Homes]:
    """Two homes behind NATs, a relay between them, services at the one and forwards to them at the other."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="iceagent-clients-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for part in (folder, folder / "there"):
            part.mkdir(exist_ok=True)
            part.chmod(0o755)
        lab = stack.enter_context(open_natlab(Home(), Home()))
        lab.set_names(HERE, {"localhost": ["::1"]})  # besides 127.0.0.1
        lab.set_names(THERE, {"wiki.home": ["127.0.0.1"]})
        run = stack.enter_context(processes())
        relay = run.iceagent("serve", *relay_options(lab, Scenario("clients"), folder), inside=lab.inside("inet"))
        homes = Homes(lab, run, folder, relay.wait_for("listening")["url"], relay, relay)
        Services(stack, lab, THERE, folder / "there").start_all()
        first = homes.iceagent(THERE, "pair", "--json", "--name", "bob")
        second = homes.iceagent(HERE, "pair", "--json", "--name", "alice", first.wait_for("code")["code"])
        assert [first.wait(), second.wait()] == [0, 0]
        rules = ["tcp:localhost:*", "udp:localhost:*", "tcp:wiki.home:*", f"unix:{folder}/there/redis.sock"]
        allow = [word for rule in rules for word in ("--allow", rule)]
        homes.listener = homes.iceagent(
            THERE, "listen", "--json", *allow, "--allow-remote-listen", f"127.0.0.1:{BACK}", "--name", "bob"
        )
        homes.listener.wait_for("listening")
        specs = [f"{here}:localhost:{there}" for here, there in TCP.items()]
        specs += [f"15353:localhost:{DNS}/udp", f"15201:localhost:{IPERF}/udp", f"[::1]:18082:localhost:{WEB}"]
        specs += [f"localhost:18083:localhost:{WEB}"]
        specs += [f"0:localhost:{WEB}", f"unix:{folder}/near.sock:unix:{folder}/there/redis.sock"]
        forwards = [word for spec in specs for word in ("-L", spec)]
        homes.forwarder = homes.iceagent(
            HERE, "forward", "--json", *forwards, "-D", str(DYNAMIC), "-R", f"{BACK}:localhost:{PAGE_HERE}", "alice"
        )
        while not homes.forwarder.wait_for("path")["direct"]:
            pass  # on a busy machine a relayed one may be found first, and left for it
        for _ in range(len(specs) + 2):
            homes.forwarder.wait_for("forwarding")
        yield homes
        assert homes.forwarder.stop() == 130
        assert homes.listener.stop() == 130


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    reason = installed(*programs)
    return pytest.mark.skipif(bool(reason), reason=reason)


def random_file(path: Path, size: int) -> str:
    """Write so many random bytes; return their hash."""
    data = random.Random(path.name).randbytes(size)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@needs("ssh", "sshd", "scp")
def test_ssh_logs_in_and_copies_200_mb_both_ways(homes: Homes) -> None:
    options = homes.ssh_options()
    said = homes.do("ssh", *options, "-p", "2222", "root@localhost", "echo hello; cat", stdin=b"and back")
    assert said == b"hello\nand back"
    sent, got = homes.folder / "sent.bin", homes.folder / "got.bin"
    expected = random_file(sent, 200 * MIB)
    there = homes.folder / "there" / "copied.bin"
    started = time.monotonic()
    homes.do("scp", *options, "-P", "2222", str(sent), f"root@localhost:{there}")
    up_s, started = time.monotonic() - started, time.monotonic()
    homes.do("scp", *options, "-P", "2222", f"root@localhost:{there}", str(got))
    down_s = time.monotonic() - started
    print(f"scp of 200 MB: {up_s:.1f} s there, {down_s:.1f} s back")
    assert hash_of(there) == hash_of(got) == expected
    for file in (sent, got, there):
        file.unlink()


@needs("ssh", "sshd")
def test_an_ssh_session_that_says_nothing_for_long_still_answers(homes: Homes) -> None:
    command = ["ssh", *homes.ssh_options(), "-p", "2222", "root@localhost", "cat"]
    ssh = subprocess.Popen(homes.lab.inside(HERE, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ssh.stdin is not None
    assert ssh.stdout is not None
    for text in (b"before\n", b"after\n"):
        ssh.stdin.write(text)
        ssh.stdin.flush()
        assert ssh.stdout.readline() == text
        if text == b"before\n":
            time.sleep(IDLE_S)
    ssh.stdin.close()
    assert ssh.wait(30) == 0
    ssh.stdout.close()


@needs("ssh", "sshd", "scp")
@pytest.mark.parametrize("by", ["name", "code"])
def test_ssh_takes_nc_for_its_proxy_command(homes: Homes, by: str) -> None:
    listener, whom = None, "alice"
    if by == "code":
        listener = homes.iceagent(THERE, "listen", "--json", "--allow", "22")
        whom = listener.wait_for("code")["code"]
    command = f"{sys.executable} -m iceagent nc {whom} localhost:%p"
    options = [*homes.ssh_options(), "-o", f"ProxyCommand={command}"]
    data = random.Random(by).randbytes(5 * MIB)
    assert homes.do("ssh", *options, "root@anywhere", "cat", stdin=data) == data
    if listener is not None:
        assert listener.stop() == 130


@needs("curl", "nginx")
def test_curl_speaks_http_1_and_2(homes: Homes) -> None:
    page, big = b"seen from afar", hashlib.sha256(random.Random("big").randbytes(20 * MIB)).hexdigest()
    bound = next(
        line["bind"]
        for line in homes.forwarder.lines
        if line["kind"] == "forwarding"
        and line["target"] == f"tcp:localhost:{WEB}"
        and not line["bind"].endswith((":18080", ":18082", ":18083"))
    )
    for where in ("127.0.0.1:18080", "[::1]:18082", "localhost:18083", "127.0.0.1:18083", "[::1]:18083", bound):
        assert page in homes.do("curl", "-sSf", f"http://{where}/page.html"), where
    for version, port in (("--http1.1", 18080), ("--http2-prior-knowledge", 18081)):
        shown = homes.do(
            "curl", "-sSf", version, "-o", "/dev/null", "-w", "%{http_version}", f"http://localhost:{port}/page.html"
        )
        assert shown == (b"1.1" if port == 18080 else b"2")
        got = homes.do("curl", "-sSf", version, f"http://localhost:{port}/big.bin")
        assert hashlib.sha256(got).hexdigest() == big


@needs("curl", "nginx")
@pytest.mark.parametrize(
    "how", [["--socks5-hostname", "127.0.0.1:1080"], ["--proxytunnel", "--proxy", "http://127.0.0.1:1080"]]
)
def test_curl_goes_where_it_wants_by_names_of_over_there(homes: Homes, how: list[str]) -> None:
    """The name is one that only the other side knows."""
    assert b"seen from afar" in homes.do("curl", "-sSf", *how, f"http://wiki.home:{WEB}/page.html")
    refused = subprocess.run(
        homes.lab.inside(HERE, "curl", "-sS", *how, "http://elsewhere.home/"), capture_output=True, check=False
    )
    assert refused.returncode != 0


@needs("dig", "dnsmasq")
def test_dig_asks_over_udp_and_tcp(homes: Homes) -> None:
    dig = ["dig", "@127.0.0.1", "-p", "15353", "+tries=1", "+time=10"]
    for transport in ("+notcp", "+tcp"):
        assert homes.do(*dig, transport, "+short", "wiki.home") == b"192.0.2.77\n"
    full = homes.do(*dig, "+bufsize=512", "big.home", "TXT")
    assert b"Truncated, retrying in TCP mode" in full
    assert full.count(b"x" * 200) == 12


@needs("psql", "pg_dump", "postgres", "initdb")
def test_psql_and_pg_dump(homes: Homes) -> None:
    psql = ["psql", "-h", "localhost", "-p", "15432", "-U", "me", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt"]
    rows = 20_000
    made = f"create table t as select n, repeat(md5(n::text), 20) as what from generate_series(1, {rows}) n;"
    assert homes.do(*psql, "-c", made, "-c", "select count(*), max(n) from t") == f"{rows}|{rows}\n".encode()
    dumped = homes.do("pg_dump", "-h", "localhost", "-p", "15432", "-U", "me", "postgres")
    assert dumped.count(b"\n") > rows
    assert b"-- PostgreSQL database dump complete" in dumped[-200:]
    homes.do(*psql, "-c", "drop table t")


@needs("redis-cli", "redis-server")
def test_redis_pipelines_over_tcp_and_unix_sockets(homes: Homes) -> None:
    sets = b"".join(f"SET key{number} {'v' * 100}{number}\r\n".encode() for number in range(20_000))
    said = homes.do("redis-cli", "-p", "16379", "--pipe", stdin=sets)
    assert b"errors: 0, replies: 20000" in said
    near = str(homes.folder / "near.sock")
    assert homes.do("redis-cli", "-s", near, "dbsize") == b"20000\n"
    assert homes.do("redis-cli", "-s", near, "get", "key19999") == b"v" * 100 + b"19999\n"
    homes.do("redis-cli", "-s", near, "flushall")


@needs("iperf3")
@pytest.mark.parametrize("options", [[], ["-R"], ["-P", "8"], ["-u", "-b", "10M", "-l", "1000"]])
def test_iperf3_measures_tcp_and_udp(homes: Homes, options: list[str]) -> None:
    shown = homes.do("iperf3", "-c", "127.0.0.1", "-p", "15201", "-t", "2", "-J", *options)
    end = json.loads(shown)["end"]
    assert "error" not in json.loads(shown), shown.decode()
    if "-u" in options:
        assert end["sum"]["packets"] > 1000
        assert end["sum"]["lost_percent"] < 50  # a program that gets no processor for long loses some
    else:
        assert end["sum_received"]["bytes"] > MIB
    rate = (end["sum"] if "-u" in options else end["sum_received"])["bits_per_second"]
    print(f"iperf3 {' '.join(options)}: {rate / 1e6:.0f} Mbit/s")


@needs("rsync", "ssh", "sshd")
def test_rsync_brings_a_tree_both_ways(homes: Homes) -> None:
    tree, back, over_ssh = (homes.folder / name for name in ("tree", "back", "over-ssh"))
    drawn = random.Random("tree")
    for number in range(300):
        file = tree / f"folder {number % 17}" / f"file{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn.randbytes(drawn.randrange(40_000)))
    daemon = "rsync://localhost:18730/tree/"
    homes.do("rsync", "-a", f"{tree}/", daemon)
    homes.do("rsync", "-az", daemon, str(back))
    shell = " ".join(["ssh", *homes.ssh_options(), "-p", "2222"])
    homes.do("rsync", "-a", "-e", shell, f"root@localhost:{homes.folder}/there/tree/", str(over_ssh))
    for copy in (back, over_ssh):
        assert {file.relative_to(copy): file.read_bytes() for file in copy.rglob("*") if file.is_file()} == {
            file.relative_to(tree): file.read_bytes() for file in tree.rglob("*") if file.is_file()
        }


_WEBSOCKET = """
import random, trio
from trio_websocket import open_websocket_url

async def main():
    async with open_websocket_url("ws://localhost:18765/", max_message_size=1 << 24) as connection:
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20, *[300] * 200):
            data = random.randbytes(size)
            await connection.send_message(data)
            assert await connection.get_message() == data
    print("echoed")

trio.run(main)
"""


def test_a_websocket_stays_whole(homes: Homes) -> None:
    assert homes.do(sys.executable, "-c", _WEBSOCKET) == b"echoed\n"


@needs("chromium", "nginx")
def test_a_browser_goes_through_socks_and_sees_what_was_offered_to_it(homes: Homes) -> None:
    """`-D`: a page of over there, by a name of over there. `-R`: the other side's browser sees a page of here."""
    browse = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=20000"]
    browse += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    profiles = [f"--user-data-dir={homes.folder}/{node}-profile" for node in (HERE, THERE)]
    page = f"http://wiki.home:{WEB}/page.html"
    assert b"seen from afar" in homes.do(*browse, profiles[0], "--proxy-server=socks5://127.0.0.1:1080", page)
    offered = homes.folder / "offered"
    offered.mkdir()
    (offered / "index.html").write_text("<!doctype html><title>here</title><p>offered from here</p>")
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(offered), str(PAGE_HERE)]
    with subprocess.Popen(
        homes.lab.inside(HERE, *serve), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as server:
        try:
            homes.do(
                "curl",
                "-sSf",
                "--retry",
                "20",
                "--retry-connrefused",
                "--retry-delay",
                "1",
                f"http://127.0.0.1:{PAGE_HERE}/",
            )
            assert b"offered from here" in homes.do(*browse, profiles[1], f"http://127.0.0.1:{BACK}/", node=THERE)
        finally:
            server.terminate()
