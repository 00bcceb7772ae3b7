"""A Redis of the system's, for one test: its own port, its own folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import coredis
import pytest
import trio
from coturn import free_port


@dataclass
class RunningRedis:
    """One that can be killed and started again. What it has said it has written."""

    port: int
    folder: str
    options: tuple[str, ...] = ()
    password: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}"

    def client(self) -> coredis.Redis[bytes]:
        return coredis.Redis("127.0.0.1", self.port, password=self.password or None)

    async def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        password = ["--requirepass", self.password] if self.password else []
        self.process = subprocess.Popen(
            [*command, "--appendonly", "yes", *password, *self.options], stdout=subprocess.DEVNULL
        )
        with trio.fail_after(60):
            while not await self._answers():
                await trio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            async with self.client() as client:
                return bool(await client.ping())
        except (coredis.exceptions.RedisError, OSError, BaseExceptionGroup):
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@asynccontextmanager
async def running_redis(*options: str, password: str = "") -> AsyncIterator[RunningRedis]:
    """Run a Redis while the block lasts; skip the test where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        redis = RunningRedis(free_port(), folder, options, password)
        try:
            await redis.start()
            yield redis
        finally:
            redis.kill()


@asynccontextmanager
async def running_cluster(servers: int = 3) -> AsyncIterator[list[RunningRedis]]:
    """Run so many servers, the fewest of a cluster being three, which share the slots while the block lasts."""
    async with AsyncExitStack() as stack:
        running = []
        for _ in range(servers):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            running.append(await stack.enter_async_context(running_redis(*options)))
        places = [f"127.0.0.1:{redis.port}" for redis in running]
        await trio.run_process(["redis-cli", "--cluster", "create", *places, "--cluster-yes"], capture_stdout=True)
        with trio.fail_after(60):
            for redis in running:
                async with redis.client() as client:
                    while (await client.cluster_info())["cluster_state"] != "ok":
                        await trio.sleep(0.05)
        yield running
