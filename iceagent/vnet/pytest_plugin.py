"""The pytest fixture `vnet`: virtual networks whose seed a failing test reports.

```python
async def test_echo(vnet):          # pytest-trio runs it, in virtual time and repeatably
    async with vnet() as net:
        ...

def test_echo_without_pytest_trio(vnet):
    vnet.run(main)
```

An async test that asks for `vnet` is run by `iceagent.vnet.run`, with the seed given by `--vnet-seed`: through the
`run` argument of pytest-trio's marker, so that nothing else needs to be asked for.
A clock fixture of the test itself has precedence.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from iceagent.vnet.factory import NetworkFactory

_SEED = pytest.StashKey[int]()
_FACTORY = pytest.StashKey["NetworkFactory"]()
_SHOWN_LINES = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--vnet-seed`."""
    parser.getgroup("iceagent").addoption(
        "--vnet-seed",
        default="1",
        metavar="N|random",
        help="seed of the virtual networks and of Trio's scheduler in tests that use the fixture `vnet` (default: 1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Settle the seed of this session."""
    text = str(config.getoption("--vnet-seed"))
    if text != "random" and not text.lstrip("-").isdigit():
        raise pytest.UsageError(f"--vnet-seed={text}: a whole number or the word random")
    config.stash[_SEED] = random.SystemRandom().randrange(2**32) if text == "random" else int(text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have pytest-trio run async tests that use `vnet` in virtual time."""
    if not config.pluginmanager.hasplugin("trio"):
        return
    seed = config.stash[_SEED]
    for item in items:
        if isinstance(item, pytest.Function) and "vnet" in item.fixturenames and _is_async(item.obj):
            item.add_marker(pytest.mark.trio(run=_runner(seed)), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the seed, and how the networks' traces end, with a failure."""
    report = yield
    factory = item.stash.get(_FACTORY, None)
    if report.failed and factory is not None:
        lines = [f"seed {factory.seed}; to repeat: pytest --vnet-seed={factory.seed} {item.nodeid!r}"]
        for number, net in enumerate(factory.networks, 1):
            lines.append(f"network {number}, seed {net.seed}, the last packets:")
            lines += [f"  {record}" for record in net.trace[-_SHOWN_LINES:]]
        report.sections.append(("Virtual network", "\n".join(lines)))
    return report


@pytest.fixture
def vnet(request: pytest.FixtureRequest) -> NetworkFactory:
    """Give the test a factory of virtual networks, with the session's seed (`--vnet-seed`)."""
    from iceagent.vnet.factory import NetworkFactory

    factory = NetworkFactory(request.config.stash[_SEED])
    request.node.stash[_FACTORY] = factory
    return factory


def _is_async(test: Any) -> bool:
    hypothesis = getattr(test, "hypothesis", None)
    return iscoroutinefunction(hypothesis.inner_test if hypothesis else test)


def _runner(seed: int) -> Callable[..., object]:
    def run_in_virtual_time(async_fn: Callable[..., Awaitable[object]], **options: Any) -> object:
        from iceagent.vnet.scheduling import run

        return run(async_fn, seed=seed, **options)

    return run_in_virtual_time
