"""A small service that keeps itself reachable by name: no open port, no address, and nobody at the keyboard.

    iceagent pair                                  once on each machine, at a relay of yours (ICEAGENT_RELAY)
    python examples/service.py laptop phone        the service, for these paired peers; under systemd, say
    python examples/service.py --ask office        on one of them, where the service's machine is called `office`

A peer that goes away costs the others nothing, an outage of the relay is waited out, and who is restarted is found
again by itself.
"""

import sys
import time

import trio

import iceagent


async def tell_time(link: iceagent.Link) -> None:
    while True:
        async with await link.accept_stream() as stream:
            await stream.send_all(time.strftime("%H:%M:%S").encode())


async def serve(*peers: str) -> None:
    print("serving", *peers, flush=True)
    await iceagent.serve_joiners(tell_time, peers=peers)


async def ask(peer: str) -> None:
    async with iceagent.join(peer=peer) as link, await link.open_stream("time") as stream:
        print(b"".join([bytes(data) async for data in stream]).decode())


if __name__ == "__main__":
    trio.run(ask, sys.argv[2]) if sys.argv[1] == "--ask" else trio.run(serve, *sys.argv[1:])
