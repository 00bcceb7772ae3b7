"""A remote desktop in small: frames as datagrams, where only the newest counts, and a stream for what must arrive.

    python examples/screen.py          prints a code, and shows its screen to whoever uses it
    python examples/screen.py CODE     watches; each key that is pressed there is said here

A frame that comes late is worth nothing, so none is sent again: datagrams may be lost or overtake each other, and
whoever watches drops those older than what it shows. Keys go through a stream, since none may be lost.
"""

import struct
import sys
from itertools import count

import trio

import iceagent

HEADER = struct.Struct("!I")  # the number of the frame, before its picture
FRAME_S = 1 / 30


def draw(number: int) -> bytes:
    """Return the picture of a frame; yours would be a compressed screen, cut into datagrams."""
    return f"frame {number}: {'.' * (number % 20)}O".encode()


async def show_screen(link: iceagent.Link) -> None:
    for number in count():
        await link.send_datagram(HEADER.pack(number) + draw(number)[: link.max_datagram_size - HEADER.size])
        await trio.sleep(FRAME_S)


async def share() -> None:
    async with iceagent.invite() as invitation:
        print(invitation.code, flush=True)
        async with invitation.accept() as link, trio.open_nursery() as nursery:
            nursery.start_soon(show_screen, link)
            async with await link.accept_stream() as keys:
                async for pressed in keys:
                    print("pressed:", bytes(pressed).decode(), flush=True)
            nursery.cancel_scope.cancel()


async def watch(code: str, frames: int = 30) -> None:
    newest = -1
    async with iceagent.join(code) as link, await link.open_stream("keys") as keys:
        await keys.send_all(b"x")
        while newest < frames:
            frame = await link.receive_datagram()
            (number,) = HEADER.unpack_from(frame)
            if number > newest:
                newest = number
                print(frame[HEADER.size :].decode(), flush=True)
        await keys.send_eof()


if __name__ == "__main__":
    trio.run(watch, sys.argv[1]) if len(sys.argv) > 1 else trio.run(share)
