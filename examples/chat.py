"""Chat between two machines: what one types, the other reads.

    python examples/chat.py          prints a code, and waits for the other side
    python examples/chat.py CODE     joins it

Either may hang up with Ctrl-D.
"""

import os
import sys

import trio

import iceagent


async def speak(stream: trio.abc.HalfCloseableStream) -> None:
    while typed := await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        await stream.send_all(typed)
    await stream.send_eof()


async def hear(stream: trio.abc.HalfCloseableStream) -> None:
    async for heard in stream:
        os.write(1, heard)


async def chat(stream: trio.abc.HalfCloseableStream) -> None:
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(speak, stream)
        await hear(stream)
        nursery.cancel_scope.cancel()  # the other side has hung up


async def wait() -> None:
    async with iceagent.invite() as invitation:
        print("tell the other side:", invitation.code, flush=True)
        async with invitation.accept() as link:
            print("connected:", link.path, flush=True)
            await chat(await link.accept_stream())


async def join(code: str) -> None:
    async with iceagent.join(code) as link:
        print("connected:", link.path, flush=True)
        await chat(await link.open_stream("chat"))


if __name__ == "__main__":
    trio.run(join, sys.argv[1]) if len(sys.argv) > 1 else trio.run(wait)
