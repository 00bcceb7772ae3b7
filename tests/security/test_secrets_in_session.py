"""No `repr` of anything in a living session shows a secret: logs, tracebacks and debuggers print them unasked."""

from __future__ import annotations

import gc
import traceback

import pytest
import trio

import iceagent
from iceagent.link import LinkIdentity, generate_identity
from iceagent.session import establish as establishing
from iceagent.session.description import DescriptionMessage, parse_untrusted
from iceagent.session.errors import CodeError

PASSWORD = "p" * 22 + "secret"


def test_trap_67_a_description_hides_its_password():
    """With it anybody can answer our checks, and so become the path."""
    message = {
        "type": "description", "version": 2, "ufrag": "abcd", "pwd": PASSWORD, "fingerprint": bytes(32),
    }  # fmt: skip
    description = parse_untrusted(message)
    assert isinstance(description, DescriptionMessage)
    assert PASSWORD not in repr(description)
    assert PASSWORD not in repr([description, description.described()])
    assert "abcd" in repr(description)  # what tells descriptions apart stays


def test_trap_67_an_identity_hides_its_key():
    """Who has it is the peer."""
    identity = generate_identity()
    assert isinstance(identity, LinkIdentity)
    assert "PRIVATE KEY" not in repr(identity)


async def test_trap_67_no_object_of_a_living_session_shows_a_secret(monkeypatch):
    """Every object of the link and the session, whatever it is, is looked at while all secrets are in use."""
    secrets: set[str] = set()
    open_link = establishing.open_link

    def remembering(transport, **options):
        secrets.add(repr(options["session_key"])[2:-1])
        secrets.add(options["session_key"].hex())
        secrets.add(transport.credentials.pwd)
        secrets.add(options["identity"].private_key_pem.decode().splitlines()[1])
        return open_link(transport, **options)

    monkeypatch.setattr(establishing, "open_link", remembering)
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:
        secrets.add("-".join(invitation.code.partition("@")[0].split("-")[1:]))
        looked = trio.Event()

        async def accept() -> None:
            async with invitation.accept() as link:
                await link.accept_stream()
                await looked.wait()

        nursery.start_soon(accept)
        async with iceagent.join(invitation.code) as link:
            stream = await link.open_stream("name")
            await stream.send_all(b"x")
            shown = dict(_shown())
            assert len(secrets) == 1 + 2 + 2 * 2  # the code, the key they share in two spellings, and two of each side
            assert len(shown) > 10
            for secret in secrets:
                assert [kind for kind, text in shown.items() if secret in text] == []
            looked.set()


def _shown() -> list[tuple[str, str]]:
    """Return what `repr` makes of every living object of the link and the session, by type, in one text each."""
    texts: dict[str, list[str]] = {}
    for one in gc.get_objects():
        home = type(one).__module__
        if isinstance(home, str) and home.startswith(("iceagent.link", "iceagent.session", "iceagent.tunnel.peer")):
            texts.setdefault(f"{home}.{type(one).__qualname__}", []).append(repr(one))
    return [(kind, "\n".join(found)) for kind, found in texts.items()]


async def test_trap_67_errors_do_not_repeat_the_words_of_a_code():
    """An error ends up in a log; the words of a code that was mistyped are nearly those of the right one."""
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:
        words = invitation.code.partition("@")[0].split("-", 1)[1]

        async def accept() -> None:
            with pytest.raises(CodeError) as caught:
                async with invitation.accept():
                    pass
            assert words not in "".join(traceback.format_exception(caught.value))

        nursery.start_soon(accept)
        nameplate, _, rest = invitation.code.partition("-")
        other = "guitar-ozone" if words != "guitar-ozone" else "ozone-guitar"
        with pytest.raises(CodeError):
            async with iceagent.join(f"{nameplate}-{other}@{rest.partition('@')[2]}"):
                pass
