"""ssh to a machine behind a NAT; what follows the code goes to ssh.

    python examples/ssh_over_link.py                         on the machine with sshd: prints a code
    python examples/ssh_over_link.py CODE me@localhost       on the other one

`HostKeyAlias` lets ssh keep that machine's key under a name of its own, since all of them come from localhost.
"""

import os
import sys

import trio

import iceagent

SSHD = "tcp:localhost:" + os.environ.get("SSHD_PORT", "22")


async def serve() -> None:
    async with iceagent.invite() as invitation:
        print(invitation.code, flush=True)
        async with invitation.accept() as link, link.serve_forwards([SSHD]):
            await link.wait_closed()


async def ssh(code: str, arguments: list[str]) -> int:
    async with iceagent.join(code) as link, link.forward_local(SSHD.replace("tcp", "0", 1)) as forward:
        port = forward.bind.rpartition(":")[2]
        command = ["ssh", "-p", port, "-o", "HostKeyAlias=iceagent-example", *arguments]
        return (await trio.run_process(command, stdin=None, check=False)).returncode


if __name__ == "__main__":
    sys.exit(trio.run(ssh, sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else trio.run(serve))
