"""A database behind a NAT: any client here talks to it as if it were local; nothing else there can be reached.

    python examples/database.py localhost:5432                                    there: prints a code
    python examples/database.py CODE localhost:5432 psql -h 127.0.0.1 -p PORT     here: runs the client, then ends

The word PORT becomes the local port. Serving goes on until Ctrl-C, each code good for one client.
"""

import sys

import trio

import iceagent


async def serve(database: str) -> None:
    async def let_in(link: iceagent.Link) -> None:
        async with link.serve_forwards([f"tcp:{database}"]):
            await link.wait_closed()

    await iceagent.serve_joiners(let_in, on_code=lambda made: print(made.code, flush=True))


async def run_client(code: str, database: str, command: list[str]) -> int:
    async with iceagent.join(code) as link, link.forward_local(f"0:{database}") as forward:
        port = forward.bind.rpartition(":")[2]
        words = [port if word == "PORT" else word for word in command]
        return (await trio.run_process(words, stdin=None, check=False)).returncode


if __name__ == "__main__":
    sys.exit(
        trio.run(run_client, sys.argv[1], sys.argv[2], sys.argv[3:])
        if len(sys.argv) > 2
        else trio.run(serve, sys.argv[1])
    )
