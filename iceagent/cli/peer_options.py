"""What verbs have in common that know paired peers: a name in the place of a code, and five words to compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click
import trio

from iceagent.cli.output import Output

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig
    from iceagent.session.pairing.words import Verify
    from iceagent.session.progress import Progress
    from iceagent.tunnel.peer import Link

F = TypeVar("F", bound=Callable[..., object])


def verify_option(function: F) -> F:
    """Add `--verify`."""
    return click.option(
        "--verify",
        is_flag=True,
        help="Ask first whether both sides show the same five words.",
    )(function)


def verification(output: Output, *, wanted: bool) -> Verify | None:
    """Return what shows the words and asks; None unless it is wanted."""
    if not wanted:
        return None

    async def verify(words: Sequence[str]) -> None:
        from iceagent.session.errors import WordsRefused

        show_words(words, output)
        if not await confirmed():
            raise WordsRefused("the words were not said to be the same; nothing was opened. Make a new code")

    return verify


def show_words(words: Sequence[str], output: Output) -> None:
    """Print five words."""
    text = " ".join(words)
    output.line("words", f"words: {text}  (the other side must see the same)", essential=True, words=list(words))


async def confirmed(question: str = "Does the other side show these words?", *, unasked: bool = True) -> bool:
    """Ask on the terminal, by default whether the words are the same; `unasked` without one: there is nobody to ask."""
    if not sys.stderr.isatty():
        return unasked
    return await trio.to_thread.run_sync(_ask, question, abandon_on_cancel=True)


def _ask(question: str) -> bool:
    """Ask; standard input may carry payload, so the terminal itself is read."""
    try:
        with open("/dev/tty", encoding="utf-8", errors="replace") as terminal:
            sys.stderr.write(f"{question} [y/N] ")
            sys.stderr.flush()
            return terminal.readline(64).strip().casefold() in ("y", "yes")
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class JoinWish:
    """Whom a verb is to join: by a code, or a paired peer by its name."""

    code_or_name: str
    relay: Sequence[str]
    verify: Verify | None
    timeout_s: float | None

    def check(self) -> None:
        """Refuse what is neither a code nor a name.

        Raises:
            CodeError: so it is.
            IdentityError: the files of the identity or of the peers cannot be used.
        """
        self.peer()

    def join(self, config: AgentConfig | None, progress: Progress) -> AbstractAsyncContextManager[Link]:
        """Return the session with it; see `iceagent.join`."""
        from iceagent.tunnel.peer import join

        name = self.peer()
        return join(
            self.code_or_name if name is None else None,
            peer=name,
            relay=self.relay,
            config=config,
            progress=progress,
            verify=self.verify,
            timeout_s=None if name is None else self.timeout_s,
        )

    def peer(self) -> str | None:
        """Return the name of the paired peer, None for a code.

        Raises:
            CodeError: it is neither.
        """
        from iceagent.session.errors import CodeError
        from iceagent.session.relay import parse_code

        try:
            parse_code(self.code_or_name)
        except CodeError as error:
            from difflib import get_close_matches

            from iceagent.session.pairing.identity import identity_path
            from iceagent.session.pairing.store import PeerStore, is_name

            if not is_name(self.code_or_name):
                raise
            peers = PeerStore.at(identity_path()).peers()
            if self.code_or_name in peers:
                return self.code_or_name
            near = get_close_matches(self.code_or_name, peers, n=1)
            hint = f"did you mean {near[0]}? (`iceagent peers` lists them)" if near else "`iceagent peers` lists them"
            raise CodeError(f"{error}; and no paired peer is called {self.code_or_name!r}: {hint}") from None
        return None
