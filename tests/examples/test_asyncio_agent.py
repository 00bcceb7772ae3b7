"""The sans-IO core without Trio: `examples/asyncio_agent.py` with itself, with ours, and behind a server's eyes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from threading import Thread

import pytest
from example_process import EXAMPLES, example

from iceagent.core import stun
from iceagent.core.address import make_address

pytestmark = pytest.mark.processes
SEEN_AT = make_address("203.0.113.7", 4711)


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the line to be carried: it follows the one that says so, and an empty one."""
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(3)][-1]


def carry(line: str, process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def rest_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.read()
    assert process.wait() == 0
    return text


def test_two_asyncio_agents_connect():
    command = [sys.executable, str(EXAMPLES / "asyncio_agent.py")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sorted(line.partition(" over ")[0] for line in lines) == [
        "answerer: 'hello from offerer'",
        "offerer: 'hello from answerer'",
    ]


@pytest.mark.parametrize(("theirs", "ours"), [("offer", "answer"), ("answer", "offer")])
def test_an_asyncio_agent_connects_with_ours(theirs: str, ours: str):
    """Both speak ICE, and the line that is carried has one form."""
    with example("asyncio_agent.py", theirs) as one, example("own_signaling.py", ours) as other:
        carry(line_of(one), other)
        carry(line_of(other), one)
        assert f"hello from {ours}er" in rest_of(one)
        assert f"hello from {theirs}er" in rest_of(other)


def test_what_a_server_sees_is_a_candidate():
    """Through a NAT there is no other way to be found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        Thread(target=answer_all, args=(server,), daemon=True).start()
        with example("asyncio_agent.py", "offer", f"stun:127.0.0.1:{server.getsockname()[1]}") as one:
            (stream,) = json.loads(line_of(one))["streams"]
    assert [text for text in stream["candidates"] if " srflx " in text and "203.0.113.7 4711" in text]
    assert stream["end"]


def answer_all(server: socket.socket) -> None:
    with suppress(OSError):  # closed
        while True:
            data, source = server.recvfrom(2048)
            request = stun.decode(data)
            attributes = (stun.XorMappedAddress(SEEN_AT),)
            answer = stun.Message(stun.MessageClass.SUCCESS, request.method, request.transaction_id, attributes)
            server.sendto(stun.encode(answer), source)


def test_it_imports_no_trio():
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import asyncio_agent; print('trio' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
