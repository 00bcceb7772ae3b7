"""Same seed, same trace, byte for byte: otherwise a failure found once is lost."""

from __future__ import annotations

import random
import subprocess
import sys

import trio

from iceagent import vnet as vnet_package
from iceagent.core.address import TransportAddress
from iceagent.vnet import SYMMETRIC, Network, deterministic_scheduling


async def busy_network(seed):
    """Twenty hosts behind lossy, jittery NATs, all talking to all at once, woken in whatever order Trio likes."""
    net = Network(seed)
    homes = [net.router(net.internet, nat=SYMMETRIC, jitter_s=0.01, loss=0.1) for _ in range(5)]
    hosts = [net.host(home) for home in homes for _ in range(4)]
    server = net.host(net.internet)

    async def chatter(host):
        udp = await host.open_udp("0.0.0.0")
        for _ in range(5):
            await udp.send([host.randbytes(20)], TransportAddress(server.address, 3478))
            with trio.move_on_after(0.05):
                await udp.receive()

    async def reflect():
        udp = await server.open_udp("0.0.0.0", 3478)
        while True:
            for batch in await udp.receive():
                await udp.send(batch.datagrams(), batch.remote)

    async with net, trio.open_nursery() as nursery:
        nursery.start_soon(reflect)
        async with trio.open_nursery() as talkers:
            for host in hosts:
                talkers.start_soon(chatter, host)
        nursery.cancel_scope.cancel()
    return net.trace_bytes()


def test_ten_runs_give_one_trace():
    """The promise of the whole package."""
    traces = {vnet_package.run(busy_network, 5, seed=5) for _ in range(10)}
    assert len(traces) == 1
    assert traces.pop().count(b"\n") > 400


def test_other_seeds_give_other_traces():
    """A seed that changes nothing would explore nothing."""
    assert len({vnet_package.run(busy_network, seed, seed=seed) for seed in range(5)}) == 5


def test_the_fixture_repeats_itself_too(vnet):
    """What an async test does with the fixture is as repeatable as `vnet.run`."""
    assert vnet.run(busy_network, vnet.seed) == vnet.run(busy_network, vnet.seed)


def test_hash_randomisation_and_a_new_process_change_nothing():
    """A seed printed by CI must fail in the same way on a desk."""
    code = (
        "import hashlib; from iceagent import vnet; from tests_vnet import busy_network;"
        "print(hashlib.sha256(vnet.run(busy_network, 3, seed=3)).hexdigest())"
    )
    preamble = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('tests_vnet', {__file__!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['tests_vnet'] = module;"
        "spec.loader.exec_module(module);"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", preamble + code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_neighbour_does_not_change_anyones_luck():
    """Streams of chance are named: a topology can grow without turning every other loss and port around."""
    ports = []
    for neighbours in (0, 3):
        net = Network(seed=9)
        for _ in range(neighbours):
            net.host(net.internet)
        home = net.router(net.internet, nat=SYMMETRIC, name="home")
        table = home.nat_table
        assert table is not None
        mapped = table.outbound(0.0, TransportAddress("192.168.1.2", 1), TransportAddress("192.0.2.1", 1))
        assert mapped is not None
        ports.append(mapped.port)
    assert ports[0] == ports[1]


def test_trio_is_left_as_it_was_found(monkeypatch):
    """The remedy reaches into Trio's internals, so it must clean up behind itself."""
    internals = trio._core._run
    monkeypatch.setattr(internals, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    before = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r.getstate()
    with deterministic_scheduling(3):
        assert internals._ALLOW_DETERMINISTIC_SCHEDULING
        assert internals._r.random() == random.Random(3).random()
    assert (internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r.getstate()) == before


def test_trace_is_bounded_and_reads_like_a_log():
    """Hours of virtual time must not fill the memory."""

    async def main():
        net = Network(seed=1, trace_limit=10)
        alice, bob = net.host(net.internet, name="alice"), net.host(net.internet, name="bob")
        async with net:
            udp = await alice.open_udp("0.0.0.0", 5000)
            for _ in range(10):
                await udp.send([b"hello"], TransportAddress(bob.address, 9))
                await trio.sleep(1)
        assert len(net.trace) == 10
        return [str(record) for record in net.trace[-3:]]

    assert vnet_package.run(main) == [
        "9.002000 bob drop 203.0.113.2:5000 > 203.0.113.3:9 udp 5 3610a686 port closed",
        "9.002000 bob send 203.0.113.3:0 > 203.0.113.2:0 icmp 111 [203.0.113.2:5000 > 203.0.113.3:9]",
        "9.004000 alice deliver 203.0.113.3:0 > 203.0.113.2:0 icmp 111 [203.0.113.2:5000 > 203.0.113.3:9]",
    ]
