"""The fixture `vnet` as a user's own test-suite meets it."""

from __future__ import annotations

import subprocess
import sys

pytest_plugins = ["pytester"]

FAILING = """
import trio

async def test_async(vnet):
    start = trio.current_time()
    net = vnet()
    alice = net.host(net.internet, name="alice")
    async with net:
        udp = await alice.open_udp("0.0.0.0")
        await udp.send([b"x"], (await alice.resolve("203.0.113.200", 9))[0])
        await trio.sleep(3600)
    assert trio.current_time() - start >= 3600
    assert False, f"seed is {net.seed}"

def test_sync(vnet):
    async def main():
        await trio.sleep(3600)
        return vnet.seed
    assert vnet.run(main) == vnet.seed

async def test_own_clock_wins(vnet, mock_clock):
    mock_clock.jump(5)
    assert trio.current_time() == 5
"""


def run_pytest(pytester, *options):
    pytester.makepyfile(test_mine=FAILING)
    others = [word for name in ("cacheprovider", "xdist", "hypothesispytest") for word in ("-p", f"no:{name}")]
    return pytester.runpytest_subprocess(*others, "-c", "/dev/null", "--rootdir=.", *options)


def test_failure_names_the_seed_and_shows_the_last_packets(pytester):
    """Without trio_mode, without a clock: `vnet` alone makes an async test run in virtual time."""
    result = run_pytest(pytester, "--vnet-seed=77")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*seed is 77*", "*seed 77; to repeat: pytest --vnet-seed=77 *test_async*", "*alice send *:9 udp 1 *"]
    )


def test_random_seed_is_printed_too(pytester):
    """Explore by night, repeat by day."""
    result = run_pytest(pytester, "--vnet-seed=random")
    result.stdout.re_match_lines([r".*to repeat: pytest --vnet-seed=\d+ .*"])


def test_nonsense_seed_is_a_usage_error(pytester):
    """Not a silent 1."""
    result = run_pytest(pytester, "--vnet-seed=seven")
    result.stderr.fnmatch_lines(["*--vnet-seed=seven: a whole number or the word random*"])


def test_plugin_is_light_to_import():
    """Every pytest run of every user who has iceagent installed loads it."""
    code = "import sys, iceagent.vnet.pytest_plugin; print('trio' in sys.modules, 'iceagent.agent' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
