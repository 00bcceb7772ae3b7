"""What an operator may get wrong about the engine: one sentence, exit code 2, and no password in it."""

from __future__ import annotations

import pytest
import trio
from click.testing import CliRunner
from coturn import free_port
from icesignal.engines.choice import ENGINE_VARIABLE, make_engine
from icesignal.engines.redis import RedisStore
from icesignal.engines.redis_url import RedisAddress, parse_redis_url
from icesignal.engines.shared import StoreRefused
from icesignal.main import main
from icesignal.registry import RoomLimits
from redis_process import running_redis


def test_each_part_of_a_url_counts() -> None:
    """Those that are left out have the usual values."""
    assert parse_redis_url("redis://10.0.0.9") == RedisAddress("10.0.0.9", 6379)
    whole = parse_redis_url("rediss://a:b%40c@[::1]:7000/3?cluster=yes")
    assert whole == RedisAddress("::1", 7000, 3, "a", "b@c", is_tls=True, is_cluster=True)
    assert str(whole) == "rediss://[::1]:7000"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "http://host:1",
        "redis://",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@host/x",
        "redis://:hunter2@host/1/2",
        "redis://:hunter2@host?x=1",
        "redis://:hunter2@host#hunter2",
    ],
)
def test_trap_76_a_url_that_is_none_is_one_sentence_without_its_password(url: str) -> None:
    """It is printed, and logged by who starts us."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        make_engine(url, RoomLimits())
    assert "hunter2" not in str(caught.value)


def test_trap_76_a_password_is_not_taken_from_the_command_line() -> None:
    """Everybody on the machine reads it there; in the environment it is read by us alone."""
    # What is wrong besides is told only where the password was taken, and ends the command there, too.
    result = CliRunner().invoke(main, ["--engine", "redis://:hunter2@127.0.0.1:1", "--drain", "-1"])
    assert result.exit_code == 2
    assert ENGINE_VARIABLE in result.output
    assert "hunter2" not in result.output
    assert "hunter2" not in repr(parse_redis_url("redis://:hunter2@127.0.0.1:1"))


def test_an_engine_that_nobody_knows_is_exit_code_2() -> None:
    """And the sentence names those that there are."""
    result = CliRunner().invoke(main, ["--engine", "mysql://127.0.0.1"])
    assert result.exit_code == 2
    assert "redis://" in result.output


@pytest.mark.processes
async def test_a_password_that_is_not_taken_ends_the_start() -> None:
    """To try again would not help; and the sentence does not have it."""
    async with running_redis(password="right") as redis:
        for given in ("", ":hunter2@"):
            store = RedisStore(parse_redis_url(f"redis://{given}127.0.0.1:{redis.port}"), max_rooms=1)
            with pytest.raises(StoreRefused, match="user and password") as caught:
                await store.check()
            assert "hunter2" not in str(caught.value)
        await RedisStore(parse_redis_url(redis.url), max_rooms=1).check()


async def test_a_redis_that_is_not_there_yet_is_no_reason_to_end() -> None:
    """It may be started after the relay."""
    await RedisStore(parse_redis_url(f"redis://127.0.0.1:{free_port()}"), max_rooms=1).check()


@pytest.mark.processes
async def test_what_is_no_redis_ends_the_start() -> None:
    """Somebody has named another service."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some(4096)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        with pytest.raises(StoreRefused, match="no Redis"):
            await RedisStore(parse_redis_url(f"redis://127.0.0.1:{port}"), max_rooms=1).check()
        nursery.cancel_scope.cancel()
