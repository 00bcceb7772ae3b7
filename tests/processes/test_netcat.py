"""The tunnel with the oldest client there is."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading

import pytest
from processes import Processes
from tunnels import open_tunnel

pytestmark = pytest.mark.processes


def answer_after_end(listener: socket.socket) -> None:
    """Serve one connection: read to its end, then answer with what was read, in capitals."""
    connection, _ = listener.accept()
    with connection:
        text = b""
        while chunk := connection.recv(1000):
            text += chunk
        connection.sendall(text.upper())


@pytest.mark.skipif(shutil.which("nc") is None, reason="the command nc is not installed")
def test_half_close_reaches_the_server_and_its_answer_comes_back(run: Processes) -> None:
    """`printf x | nc` ends its sending and waits: a tunnel that passes on no end of file would hang it for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_after_end, args=[listener])
        server.start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        host, _, port = open_tunnel(run, target, f"tcp:{target}").bind.rpartition(":")
        done = subprocess.run(["nc", "-N", host, port], input=b"x", capture_output=True, timeout=60, check=True)
        server.join(5)
    assert done.stdout == b"X"
