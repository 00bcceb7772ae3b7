"""`iceagent pair`: two sides come to know each other, so that they connect by name from then on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from iceagent.cli.codes import qr_option, show_code
from iceagent.cli.options import Common, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import confirmed, show_words
from iceagent.cli.run import run_verb
from iceagent.session.errors import WordsRefused
from iceagent.session.pairing.pair import pair

_EXAMPLE = """
Example:  office$ iceagent pair --name home
          home$   iceagent pair --name office 7-guitar-ozone
"""


@click.command("pair", epilog=_EXAMPLE)
@click.argument("code", nargs=-1, metavar="[CODE]")
@click.option("--name", metavar="NAME", help="Call the other side NAME here; else as it calls itself.")
@click.option("--verify", is_flag=True, help="Ask whether both sides show the same five words.")
@timeout_option("Without CODE: give up if nobody comes.")
@qr_option
@relay_option
@output_options
def command(
    code: Sequence[str],
    name: str | None,
    verify: bool,
    timeout_s: float | None,
    relay: Sequence[str],
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Pair with another machine: from then on connect by name.

    Without CODE, print one for the other side; with CODE, use the one that the other side printed (docs/pairing.md).
    """
    output = Common(as_json, quiet, verbose).open_output()
    text = " ".join(code) or None
    return run_verb(lambda: _pair(text, name, timeout_s, relay, output, verify=verify), output, has_peer=True)


async def _pair(
    code: str | None, name: str | None, timeout_s: float | None, relay: Sequence[str], output: Output, *, verify: bool
) -> None:
    async with pair(code, name=name, relay=relay) as pairing:
        if code is None:
            named = [] if "@" in pairing.code else ["--relay", pairing.relay_url]
            other = shlex.join(["iceagent", "pair", *named, pairing.code])
            show_code(output, code=pairing.code, relay=pairing.relay_url, command=other)
        show_words(await pairing.wait_peer(timeout_s=timeout_s), output)
        if verify and not await confirmed():
            await pairing.refuse()
            raise WordsRefused("the words were not said to be the same; nothing was kept, on neither side")
        fingerprint = pairing.peer.fingerprint
        pinned = await pairing.accept()
    text = f"paired with {pinned} ({fingerprint}); it is reached by `iceagent connect {pinned}`, and let in by "
    output.line("paired", f"{text}`iceagent listen --name {pinned}`", name=pinned, fingerprint=fingerprint)
