"""A drop for files: whoever has the code may leave files in a folder, and go on where an earlier attempt broke off.

    python examples/file_drop.py INBOX            prints one code after the other, each good for one sender
    python examples/file_drop.py CODE FILE ...    sends files and folders

Nothing is overwritten, and nothing gets out of the folder.
"""

import sys
from pathlib import Path

import trio

import iceagent


async def take(inbox: Path) -> None:
    async def receive(link: iceagent.Link) -> None:
        received = await link.receive_files(inbox)
        print("received", received.files, "files,", received.size, "bytes", flush=True)

    await iceagent.serve_joiners(receive, on_code=lambda made: print("code:", made.code, flush=True))


async def drop(code: str, paths: list[str]) -> None:
    async with iceagent.join(code) as link:
        sent = await link.send_files(paths)
        print("sent", sent.files, "files,", sent.size, "bytes")


if __name__ == "__main__":
    trio.run(drop, sys.argv[1], sys.argv[2:]) if len(sys.argv) > 2 else trio.run(take, Path(sys.argv[1]))
