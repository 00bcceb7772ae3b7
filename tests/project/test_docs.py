"""The pages: every public name has its place, every block of Python is Python, and whole programs among them run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import icesignal
import pytest
import trio

import iceagent
from iceagent.servers import open_stun_server
from iceagent.vnet import PORT_RESTRICTED

ROOT = Path(__file__).resolve().parents[2]
API = sorted((ROOT / "docs" / "api").glob("*.rst"))
PUBLIC = [
    "iceagent",
    "iceagent.agent",
    "iceagent.link",
    "iceagent.net",
    "iceagent.servers",
    "iceagent.vnet",
    "icesignal",
]
PUBLIC += ["iceagent.core.ice", "iceagent.core.stun", "iceagent.core.turn"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "<!-- run by "


def documented() -> list[str]:
    directive = re.compile(r"^\.\. (?:auto\w+|py:data):: (\S+)$", re.MULTILINE)
    return [name for page in API for name in directive.findall(page.read_text(encoding="utf-8"))]


def value_of(name: str) -> Any:
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_its_place(package: str) -> None:
    """Under its own name, or that under which another package hands out the same thing."""
    places = {id(value_of(name)) for name in documented()}
    names = [name for name in import_module(package).__all__ if name != "__version__"]
    assert [name for name in names if id(value_of(f"{package}.{name}")) not in places] == []


def test_no_name_has_two_places() -> None:
    """Who looks it up would have to read both."""
    found = [id(value_of(name)) for name in documented() if not isinstance(value_of(name), int | str)]
    assert len(found) == len(set(found))
    assert {name.rpartition(".")[0] for name in documented()} == set(PUBLIC)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split()
    pages = [*(f"api/{page.stem}" for page in API), *(page.stem for page in (ROOT / "docs").glob("*.md"))]
    assert set(pages) - set(index) == {"index"}


def blocks(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Give (line, text, whether it is marked as one that is run) of each block of Python."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        before = text[: found.start()].rstrip().rpartition("\n")[2]
        yield text[: found.start()].count("\n") + 1, found.group(1), before.startswith(MARK)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_python_is_python(page: Path) -> None:
    for line, text, _ in blocks(page):
        compile("\n" * line + text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", API, ids=lambda page: page.stem)
def test_every_page_of_names_begins_with_an_example(page: Path) -> None:
    """That is Python, and uses names that there are."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    assert found is not None
    tree = compile(dedent(found.group(1)), str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    public = {name for package in PUBLIC for name in import_module(package).__all__}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id[0].isupper():
            assert node.id in public, node.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PUBLIC:
            assert hasattr(import_module(node.value.id), node.attr)


def test_every_program_is_run() -> None:
    """What begins with its imports is typed as it stands; the mark beside it names the test that does so."""
    for page in PAGES:
        for line, text, is_marked in blocks(page):
            assert is_marked or not text.startswith(("import ", "from ")), f"{page.name}:{line}"
        for name in re.findall(rf"{MARK}(\S+) -->", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file()


async def run_block(text: str, **names: Any) -> dict[str, Any]:
    """Run a block, which may await, and return its names."""
    given = dict(names)
    code = compile(text, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, given)
    if code.co_flags & 0x80:  # CO_COROUTINE
        await result
    return given


def readme(beginning: str) -> str:
    (text,) = [text for _, text, _ in blocks(ROOT / "README.md") if beginning in text]
    return text


async def test_the_readmes_two_programs_meet(capsys: Any) -> None:
    """One makes the code, the other uses it, at a relay that stands in for the one named there."""
    async with icesignal.serve() as relay, trio.open_nursery() as nursery:
        text = readme("async def there()").replace("ws://relay.example:4433", relay.url)
        assert relay.url in text
        names = await run_block(text)
        nursery.start_soon(names["there"])
        printed = ""
        while "tell them:" not in printed:
            printed += capsys.readouterr().out
            await trio.sleep(0.01)
        await names["here"](printed.split()[-1])
    assert "b'hello over the best path there is'" in capsys.readouterr().out


async def test_the_readmes_agent_connects(vnet: Any, monkeypatch: Any, capsys: Any) -> None:
    """With a peer behind another NAT, on a network that has the server named there."""
    net = vnet(1)
    server = net.host(net.internet, name="stun.example.org")
    here, there = (net.host(net.router(net.internet, nat=PORT_RESTRICTED)) for _ in range(2))
    monkeypatch.setattr("iceagent.agent.agent.SystemNetwork", lambda: here)
    text = readme("async def tell(here, there)")
    assert "\n    ... " in text
    text = text.replace("\n    ... ", "\n    await signal(agent, tell) ")

    async def answer(agent: iceagent.Agent) -> None:
        async for datagram in agent:
            await agent.send(datagram.upper())

    config = iceagent.AgentConfig(network=there, servers=["stun:stun.example.org"])
    async with (
        net,
        open_stun_server("0.0.0.0", 3478, network=server),
        iceagent.open_agent(config, role=iceagent.Role.CONTROLLED) as peer,
        trio.open_nursery() as nursery,
    ):

        async def signal(agent: iceagent.Agent, tell: Any) -> None:
            await trio.lowlevel.checkpoint()
            nursery.start_soon(tell, agent, peer)
            nursery.start_soon(tell, peer, agent)

        nursery.start_soon(answer, peer)
        with trio.fail_after(30):
            await run_block(text, iceagent=iceagent, signal=signal)
        nursery.cancel_scope.cancel()
    printed = capsys.readouterr().out
    assert printed.startswith("b'A DATAGRAM' Connected directly")
