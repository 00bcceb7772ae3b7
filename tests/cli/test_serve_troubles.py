"""Servers on a machine in trouble: a full disk, a kernel that says no, files that are wrong. Real processes."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import icesignal
import pytest
import trio
from processes import Processes
from relay_client import connect_raw
from turn_wire import make_certificate

pytestmark = pytest.mark.processes

RELAY = (sys.executable, "-c", "from icesignal.main import main; main()")
SERVE = (sys.executable, "-m", "iceagent", "serve")
COMMANDS = pytest.mark.parametrize("command", [RELAY, SERVE], ids=["icesignal-relay", "serve"])
FEW_BYTES = 500

SANDBOX = """
import ctypes, os, sys
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
steps = (Filter * 6)(
    Filter(0x20, 0, 0, 0), Filter(0x15, 0, 3, 41),        # socket(2)?
    Filter(0x20, 0, 0, 16), Filter(0x15, 0, 1, 16),       # AF_NETLINK?
    Filter(0x06, 0, 0, 0x00050000 | 97), Filter(0x06, 0, 0, 0x7FFF0000),  # EAFNOSUPPORT, else yes
)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(6, steps)), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"""


async def meet(url: str) -> None:
    """Exchange a message through a relay."""
    async with icesignal.open_client(url) as inviter, icesignal.open_client(url) as joiner:
        await joiner.join(await inviter.allocate(), b"hello")
        with trio.fail_after(60):
            assert await inviter.wait_peer() == b"hello"
            await joiner.send(b"message")
            assert await inviter.receive() == b"message"


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="the filter is for x86-64 Linux")
@COMMANDS
def test_servers_need_no_netlink(run: Processes, command: tuple[str, ...]) -> None:
    """As the units in deploy/ have it, with `RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX`."""
    process = run.start(sys.executable, "-c", SANDBOX, *command, "--json", "--listen", "127.0.0.1:0")
    trio.run(meet, process.wait_for("listening")["url"])
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_line_that_nobody_gets_ends_the_start_with_9() -> None:
    """Whoever started it waits for the line that says where it listens."""
    with open("/dev/full", "wb") as full:
        command = [*RELAY, "--json", "--listen", "127.0.0.1:0"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 9
    assert done.stderr == "icesignal-relay: where it listens cannot be printed: no space left on device\n"


def test_a_full_disk_loses_log_lines_and_nothing_else(tmp_path: Path) -> None:
    """The log is full after a few lines; rooms go on, and the end is as it should be."""
    log = tmp_path / "log"
    settings = tmp_path / "relay.toml"
    settings.write_text('trusted_proxies = ["127.0.0.1"]\n[limits]\nmax_connections_per_source = 1\n')

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FEW_BYTES, FEW_BYTES))

    command = [*RELAY, "--config", str(settings), "--json", "--listen", "127.0.0.1:0", "-vv"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, preexec_fn=limit, text=True)  # noqa: PLW1509

    async def main() -> None:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        for number in range(12):
            source = f"198.51.{number}.7"
            async with connect_raw(url, source=source):
                with pytest.raises(icesignal.SignalError):
                    async with connect_raw(url, source=source):
                        pass
        assert FEW_BYTES - 200 < log.stat().st_size <= FEW_BYTES, "the disk is full by now, or this shows nothing"
        async with connect_raw(url, source="203.0.113.1") as one:
            assert one.welcome.versions == [1]

    with process:
        try:
            trio.run(main)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@COMMANDS
def test_a_certificate_of_another_key_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    """With both names, and exit code 2: before anything listens."""
    one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
    shutil.copy(other.key, one.key)
    files = ["--tls-cert", str(one.certificate), "--tls-key", str(one.key)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "is not the key of the certificate in" in line]
    assert len(said) == 1
    assert str(one.key) in said[0]
    assert str(one.certificate) in said[0]
    assert "Traceback" not in done.stderr
