"""The TURN servers that members are told of: near ones first, by weight, with credentials that few requests make."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import click
import icesignal
import pytest
import trio
from click.testing import CliRunner
from coturn import running_coturn
from icesignal.config import RelayConfig, read_config
from icesignal.config_checks import problems_of, turn_offers
from icesignal.ice_urls import check_stun, check_turn
from icesignal.main import main
from icesignal.server import serve
from icesignal.turn_servers import AGAIN_S, MAX_KEPT, MAX_OFFERED, TTL_S, Minted, TurnDirectory, TurnOffer
from turn_wire import udp_client

from iceagent.cli.serve import command as serve_command
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import SharedSecretUsers

SECRET = "north-north-north-north-north"
REGIONS = {"eu": ["192.0.2.0/24", "2001:db8:1::/48"], "city": ["192.0.2.128/25"], "us": ["198.51.100.0/24"]}


def offer(name: str, region: str = "", weight: float = 1.0) -> TurnOffer:
    return TurnOffer((f"turn:{name}.example:3478",), SECRET.encode(), region, weight)


def directory(*offers: TurnOffer, clock: list[float] | None = None) -> TurnDirectory:
    times = clock or [0.0]
    return TurnDirectory(
        offers, REGIONS, unix_time=lambda: 1e9 + times[0], clock=lambda: times[0], draw=random.Random(1).random
    )


def first(found: list[dict[str, object]]) -> str:
    urls = found[0]["urls"]
    assert isinstance(urls, list)
    return str(urls[0]).removeprefix("turn:").partition(".")[0]


@pytest.mark.parametrize(
    ("source", "region"),
    [
        ("192.0.2.1", "eu"),
        ("192.0.2.200", "city"),
        ("2001:db8:1:2::/64", "eu"),
        ("2001:db8:2:2::/64", ""),
        ("203.0.113.1", ""),
        ("unknown", ""),
    ],
)
def test_a_source_is_in_the_region_of_its_smallest_network(source: str, region: str) -> None:
    """A city has a server of its own within a continent that has one, too."""
    assert directory().region_of(source) == region


def test_near_servers_come_first_and_others_stand_by() -> None:
    """A path through a far server is better than none; many would only make gathering slow."""
    many = directory(*(offer(f"us{n}", "us", 100) for n in range(4)), offer("eu", "eu", 0.01))
    for source, near in (("192.0.2.1", "eu"), ("198.51.100.7", "us")):
        found = many.entries(source)
        assert first(found).startswith(near)
        assert len(found) == MAX_OFFERED


def test_servers_that_are_as_near_take_turns_by_weight() -> None:
    """Three quarters for the one with three times the weight, within what 4,000 draws leave to chance."""
    both = directory(offer("big", "eu", 3), offer("small", "eu", 1))
    firsts = Counter(first(both.entries("192.0.2.1")) for _ in range(4000))
    assert firsts["big"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_trap_80_a_source_gets_the_same_credentials_again() -> None:
    """However often it joins, resumes and asks: what it could collect would be what quotas are to bind."""
    clock = [0.0]
    one = directory(offer("eu"), clock=clock)
    before = one.entries("192.0.2.1")[0]
    clock[0] = AGAIN_S - 1
    again = one.entries("192.0.2.1")[0]
    assert (again["username"], again["credential"]) == (before["username"], before["credential"])
    assert again["ttl"] == TTL_S - AGAIN_S + 1
    clock[0] = AGAIN_S
    later = one.entries("192.0.2.1")[0]
    assert later["username"] != before["username"]
    assert later["username"].partition(":")[2] == before["username"].partition(":")[2], "quotas bind the person"


def test_a_home_is_one_person_and_its_address_is_not_told() -> None:
    """An IPv6 /56 counts as one; the name of the user reveals no address."""
    one = directory(offer("eu"))
    names = {one.entries(source)[0]["username"] for source in ("2001:db8:1:2::/64", "2001:db8:1:ff::/64")}
    assert len(names) == 1
    assert "2001" not in names.pop()
    assert one.entries("2001:db8:1:100::/64")[0]["username"] != one.entries("2001:db8:1:2::/64")[0]["username"]


def test_the_table_of_credentials_is_bounded() -> None:
    """Sources are many, and IPv6 has more."""
    minted = Minted(lambda: 0.0)
    for person in range(MAX_KEPT + 10):
        minted.get(person, lambda: ("u", "p"), 60)
    assert len(minted) == MAX_KEPT


def test_our_own_server_takes_them() -> None:
    """`iceagent turn --secret-file` and coturn read the same names."""
    entry = directory(offer("eu")).entries("192.0.2.1")[0]
    (account,) = SharedSecretUsers([SECRET], lambda: 1e9).find(str(entry["username"]))
    assert account.password == entry["credential"]
    assert not account.expired


def test_secrets_are_in_no_repr() -> None:
    """They end up in logs."""
    assert SECRET not in repr(offer("eu"))


def configured(folder: Path, text: str, *, mode: int = 0o640, secret: str = SECRET) -> Path:
    (folder / "secret").write_text(f"{secret}\n")
    (folder / "secret").chmod(mode)
    path = folder / "relay.toml"
    path.write_text(text)
    return path


GOOD = '[[turn]]\nurls = ["turn:t.example"]\nsecret_file = "secret"\nregion = "eu"\n[regions]\neu = ["192.0.2.0/24"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD, ""),
        (GOOD.replace("turn:t", "stun:t"), "turn[0].urls: 'stun:t.example' is not a TURN URL"),
        (GOOD.replace("turn:t", "turn:t t"), "turn[0].urls: 'turn:t t.example' is not a TURN URL"),
        (
            GOOD.replace("turn:t", f"turn:{'t' * 300}"),
            "turn[0].urls: 'turn:tttttttttttttttttttttttttt",
        ),
        (GOOD.replace('"eu"\n', '"ue"\n'), "turn[0].region: 'ue' is not among regions"),
        (GOOD.replace("192.0.2.0/24", "here"), "regions.eu: 'here'"),
        (GOOD.replace('"secret"', '"none"'), "none cannot be read: no such file"),
    ],
)
def test_check_config_looks_at_turn_servers(tmp_path: Path, text: str, words: str) -> None:
    """A server that nobody can use is worse than none: each member asks it."""
    path = configured(tmp_path, text)
    problems = list(problems_of(path, read_config(path, RelayConfig)))
    assert len(problems) == (1 if words else 0)
    assert words in "".join(problems)


GOOD_URLS = ("stun:a.example", "stuns:[2001:db8::1]:5349", "stun::3478", "turn:1.2.3.4?transport=udp", "turns::1")
BAD_URLS = (
    *("stun:", "turn:", "stun", "stun:a b", "stun:a:0", "stun:a:65536", "stun:a:", "stun:a:x", "stun://a", "stun:[a]"),
    *("stun:a?transport=udp", "turn:a?transport=tls", "turn:?transport=udp", "turn:a#b", "http:a", "STUN:a"),
)


@pytest.mark.parametrize("url", [*GOOD_URLS, *BAD_URLS])
def test_urls_are_those_that_browsers_take(url: str) -> None:
    """An empty host is the relay's own, and then there is a port."""
    check = check_turn if url.startswith("turn") else check_stun
    if url in GOOD_URLS:
        check((url,))
    else:
        with pytest.raises(ValueError, match="as in"):
            check((url,))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stun", "stun:"],
        ["--stun", f"stun:{'a' * 600}"],
        [word for number in range(33) for word in ("--stun", f"stun:{number}.example")],
        ["--turn-url", "turn:a b", "--turn-secret-file", "secret"],
        [*(["--turn-url", "turn:a"] * 9), "--turn-secret-file", "secret"],
    ],
)
@pytest.mark.parametrize("command", [main, serve_command], ids=["icesignal-relay", "serve"])
def test_what_no_frame_could_hold_stops_the_start(command: click.Command, arguments: list[str]) -> None:
    """Else every join would end by it."""
    done = CliRunner().invoke(command, [*arguments, "--listen", "127.0.0.1:0"])
    assert done.exit_code == 2
    assert "URL" in done.output
    assert len(done.output.splitlines()) < 6


async def test_servers_that_are_none_stop_the_start() -> None:
    """A function is asked once for a sample."""
    for entries in ([{"urls": ["turn:a"] * 9}], [{"urls": ["stun:a"]}] * 33):
        with pytest.raises(ValueError):
            async with serve(ice_servers=lambda _, found=entries: found):  # type: ignore[misc]
                pass


async def test_a_member_without_servers_is_a_member() -> None:
    """Where they cannot be made its room is there all the same."""
    fails: list[bool] = []

    def make(source: str) -> list[dict[str, object]]:
        if fails:
            raise ZeroDivisionError
        return [{"urls": ["stun:a"]}]

    async with serve(ice_servers=make) as server:
        fails.append(True)
        async with icesignal.open_client(server.url) as client:
            await client.allocate()
            assert client.ice_servers == []
        assert server.counters["servers_failed"] == 2  # at the welcome, too


def test_a_secret_that_is_none_is_told(tmp_path: Path) -> None:
    """Too short, and open to everybody; on the command line, too."""
    path = configured(tmp_path, GOOD, secret="short")
    assert "at least 16 characters" in "".join(problems_of(path, read_config(path, RelayConfig)))
    configured(tmp_path, GOOD, mode=0o644)
    for arguments in (
        ["--config", str(path)],
        ["--turn-url", "turn:t", "--turn-secret-file", str(tmp_path / "secret")],
    ):
        done = CliRunner().invoke(main, [*arguments, "--listen", "127.0.0.1:0"])
        assert done.exit_code == 2
        assert "chmod 640" in done.output
    assert "belong together" in CliRunner().invoke(main, ["--turn-url", "turn:t"]).output


@pytest.mark.processes
async def test_members_allocate_at_a_real_coturn_and_others_get_nothing(tmp_path: Path) -> None:
    """What the relay hands out is good there; who is in no room is handed nothing."""
    with running_coturn("--use-auth-secret", "--static-auth-secret", SECRET) as coturn:
        text = GOOD.replace("turn:t.example", f"turn:127.0.0.1:{coturn.port}")
        path = configured(tmp_path, text)
        config = read_config(path, RelayConfig)
        turn = TurnDirectory(turn_offers(config, (), None), config.regions)
        async with serve(ice_servers=turn.entries) as server, icesignal.open_client(server.url) as client:
            assert client.ice_servers == []
            await client.allocate()
            (entry,) = client.ice_servers
            with trio.fail_after(60):
                async with udp_client(TransportAddress("127.0.0.1", coturn.port)) as (member, _):
                    member.maker.username, member.maker.password = entry["username"], entry["credential"]
                    member.maker.realm = "example.org"
                    assert (await member.allocate()).host == "127.0.0.1"
            assert await client.renew_ice_servers() == [entry | {"ttl": client.ice_servers[0]["ttl"]}]
