"""Connections that say nothing, or a byte now and then, or never read: a good client gets in all the same.

Real sockets, from one address and from many of 127.0.0.0/8. 200 of them in `make test`, 2,000 in `make thorough`.
"""

from __future__ import annotations

import os
import resource
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import slow_connections
import trio
from coturn import make_certificate
from icesignal.first_bytes import Tls
from icesignal.server import Server, serve
from icesignal.sources import Limits
from relay_client import sealed_pair
from slow_connections import KINDS

THOROUGH = bool(os.environ.get("ICEAGENT_THOROUGH"))
SLOW = 2_000 if THOROUGH else 200
MEETINGS = 5
HANG_S = 120.0  # what is kept out is so for ever; who gets in may wait for a busy machine, as this process does
pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture
def descriptors() -> Iterator[None]:
    """The relay's, and as many of the other process, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * SLOW + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"takes {needed} descriptors; this system gives {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def slow_ones(relay: Server, sources: int, kind: str) -> AsyncIterator[None]:
    """Have slow connections while the block lasts; it begins when all have been opened once."""
    command = [sys.executable, slow_connections.__file__, str(relay.port), str(SLOW), str(sources), kind]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run, command)
        assert process.stdout is not None
        assert b"all there" in await process.stdout.receive_some(100)
        yield
        nursery.cancel_scope.cancel()


async def run(command: list[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(command, stdout=subprocess.PIPE, task_status=task_status, check=False)


def server_context(folder: Path) -> ssl.SSLContext:
    """Return what a relay with a certificate has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(folder, "127.0.0.1"))
    return context


async def meet(url: str) -> None:
    async with sealed_pair(url, timeout_s=HANG_S) as (first, second):
        await first.send({"n": 1})
        assert await second.receive() == {"n": 1}


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("sources", [1, SLOW // 4], ids=["one source", "many sources"])
@pytest.mark.parametrize("kind", KINDS)
async def test_trap_47_slow_connections_keep_nobody_out(kind: str, sources: int, tmp_path: Path) -> None:
    """The relay has place for half of them: those that are in no room make place for others, and no member is ended."""
    most = 2 * SLOW if kind == "deaf" else SLOW // 2
    tls = Tls(server_context(tmp_path), is_required=False)
    async with (
        serve(limits=Limits(max_connections=most), ssl_context=tls) as relay,
        sealed_pair(relay.url, timeout_s=HANG_S) as (first, second),
    ):
        async with slow_ones(relay, sources, kind):
            for _ in range(MEETINGS):
                await meet(relay.url)
            statistics = relay.statistics()
            assert statistics["connections_open"] <= most
            if sources == 1:
                assert statistics["connections_refused"] >= SLOW // 2, "an address has 64 at once"
            elif kind != "deaf":
                assert statistics["connections_shed"] > 0, "the relay was full"
        await first.send({"still": "here"})
        assert await second.receive() == {"still": "here"}
        assert relay.counters["internal_errors"] == 0
