"""What the pytest fixture `vnet` gives to a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from iceagent.vnet.network import Network
from iceagent.vnet.scheduling import run
from iceagent.vnet.trace import TRACE_LIMIT

T = TypeVar("T")


class NetworkFactory:
    """Makes networks with the test's seed; call it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.networks: list[Network] = []

    def __call__(
        self, seed: int | None = None, *, families: Iterable[int] = (4,), trace_limit: int = TRACE_LIMIT
    ) -> Network:
        """Return a new network, by default with the test's seed; the report of a failing test will show its end."""
        net = Network(self.seed if seed is None else seed, families=families, trace_limit=trace_limit)
        self.networks.append(net)
        return net

    def run(self, async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function from a test that is not async itself, in virtual time; see `iceagent.vnet.run`."""
        return run(async_fn, *args, seed=self.seed)
