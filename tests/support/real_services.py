"""What people tunnel: services that other people wrote, each on the loopback addresses of one node of a laboratory.

Every service has a port of its own, since each node has a network of its own. A service that is not installed is left
out; its tests skip and say so.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from natlab import Natlab
from natlab_experiments import socket_in

SSH, WEB, WEB_2, DNS, POSTGRES, REDIS, IPERF, RSYNC, ECHO = 22, 8080, 8081, 5353, 5432, 6379, 5201, 8730, 8765
PATIENCE_S = 60.0
_FOLDERS = ("/usr/sbin", "/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))  # not every user's

_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  root {folder}/www;
  server {{ listen 127.0.0.1:{http}; }}
  server {{ listen 127.0.0.1:{http2} http2; }}
}}
"""
_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
_RSYNCD = """
use chroot = no
[tree]
path = {folder}/tree
read only = no
uid = 0
gid = 0
"""
_ECHO = """
import trio
from trio_websocket import ConnectionClosed, serve_websocket

async def echo(request):
    connection = await request.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        pass

trio.run(lambda: serve_websocket(echo, "127.0.0.1", {port}, None, max_message_size=1 << 24))
"""


def installed(*programs: str) -> str:
    """Return which of these programs is missing, as a reason to skip; "" if none is."""
    missing = [name for name in programs if _path(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _path(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS]))


class Services:
    """The services of one node.

    Args:
        stack: ends them.
        lab, node: where they are.
        folder: for their files; readable by every user.
    """

    def __init__(self, stack: ExitStack, lab: Natlab, node: str, folder: Path) -> None:
        self._stack = stack
        self._lab = lab
        self._node = node
        self.folder = folder

    def start_all(self) -> None:
        """Start what is installed, and wait until each answers."""
        ports = []
        starts: Sequence[tuple[int, Callable[[], None], tuple[str, ...]]] = (
            (SSH, self._ssh, ("sshd",)),
            (WEB, self._web, ("nginx",)),
            (DNS, self._dns, ("dnsmasq",)),
            (POSTGRES, self._postgres, ("postgres", "initdb", "setpriv")),
            (REDIS, self._redis, ("redis-server",)),
            (IPERF, self._iperf, ("iperf3",)),
            (RSYNC, self._rsync, ("rsync",)),
            (ECHO, self._echo, ()),
        )
        for port, start, programs in starts:
            if not installed(*programs):
                start()
                ports.append(port)
        for port in ports:
            self._wait(port)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with closing(socket_in(self._lab.name(self._node))) as probe:
                    probe.connect(("127.0.0.1", port))
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _start(self, *command: str) -> None:
        program = _path(command[0]) or command[0]
        process = subprocess.Popen(
            self._lab.inside(self._node, program, *command[1:]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)

    def _file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def _ssh(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its rights to
        for key in ("host_key", "user_key"):
            run = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(run, check=True)
        self._start("sshd", "-D", "-e", "-f", self._file("sshd_config", _SSHD.format(port=SSH, folder=self.folder)))

    def _web(self) -> None:
        www = self.folder / "www"
        www.mkdir()
        (www / "page.html").write_text("<!doctype html><title>page</title><p id=found>seen from afar</p>")
        (www / "big.bin").write_bytes(random.Random("big").randbytes(20 << 20))
        self._start("nginx", "-c", self._file("nginx.conf", _NGINX.format(folder=self.folder, http=WEB, http2=WEB_2)))

    def _dns(self) -> None:
        texts = ["--txt-record=big.home," + ",".join(f"{number:03}" + "x" * 200 for number in range(12))]
        options = ["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={DNS}"]
        self._start("dnsmasq", "-k", *options, "--conf-file=/dev/null", "--address=/wiki.home/192.0.2.77", *texts)

    def _postgres(self) -> None:
        data = self.folder / "postgres"
        data.mkdir()
        shutil.chown(data, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        initdb = _path("initdb")
        assert initdb is not None
        subprocess.run(
            [*as_postgres, str(Path(initdb).resolve()), "-D", str(data), "-A", "trust", "-U", "me", "--no-sync"],
            check=True,
            capture_output=True,
        )
        settings = [
            word for one in ("fsync=off", "listen_addresses=127.0.0.1", f"port={POSTGRES}") for word in ("-c", one)
        ]
        self._start(*as_postgres, str(_path("postgres")), "-D", str(data), "-k", str(data), *settings)

    def _redis(self) -> None:
        options = ["--port", str(REDIS), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self._start("redis-server", *options, "--unixsocket", str(self.folder / "redis.sock"))

    def _iperf(self) -> None:
        self._start("iperf3", "-s", "-B", "127.0.0.1", "-p", str(IPERF))

    def _rsync(self) -> None:
        tree = self.folder / "tree"
        tree.mkdir()
        conf = self._file("rsyncd.conf", _RSYNCD.format(folder=self.folder))
        self._start("rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={RSYNC}", f"--config={conf}")

    def _echo(self) -> None:
        self._start(sys.executable, "-c", _ECHO.format(port=ECHO))
