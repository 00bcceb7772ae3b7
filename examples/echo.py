"""Echo over a link: the shortest program for two machines.

    python examples/echo.py                      prints a code, and answers whoever uses it
    python examples/echo.py CODE 'hello there'   sends the text and prints what comes back

The two need not know each other's address, nor be reachable: the code is enough.
"""

import sys

import trio

import iceagent


async def answer() -> None:
    async with iceagent.invite() as invitation:
        print(invitation.code, flush=True)
        async with invitation.accept() as link, await link.accept_stream() as stream:
            async for data in stream:
                await stream.send_all(data)


async def ask(code: str, text: str) -> None:
    async with iceagent.join(code) as link, await link.open_stream("echo") as stream:
        await stream.send_all(text.encode())
        await stream.send_eof()
        print(b"".join([data async for data in stream]).decode())


if __name__ == "__main__":
    trio.run(ask, sys.argv[1], sys.argv[2]) if len(sys.argv) > 1 else trio.run(answer)
