"""A few worlds of `make sim` with every run of the tests, those first that once showed a bug; CI runs many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from amount import amount

sys.path.insert(0, str(Path(__file__).parent))

from sim_draw import draw
from sim_lessons import FIRST_SEED
from sim_run import run_seed
from sim_truth import OURS, THEIRS, Truth

from iceagent.agent import RelayReason, Verdict, VerdictKind

# What they showed: a relay with two addresses that went away, and took the agent with it; sessions that stayed relayed
# after a router's new address; a restarted server asked so hastily that a slow line never got its answer; a session
# given up for the sake of a backup pair asked long ago, though its peer had answered elsewhere; components that were
# closed for a slow relay, or for an end of candidates that a restart had overtaken; a role conflict never settled; a
# session over TCP that consent ended, as it had to; sides that both tried another port, and each closed the one that
# the other had found its way to.
REMEMBERED = (628, 761, 30316, 32137, 32781, 40005, 40078, 7770226, 7771006, 7771164, 7771265, 20261130202, 20261206615)
TAUGHT = range(FIRST_SEED, FIRST_SEED + 12)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [*REMEMBERED, *range(1, 1 + amount(24, 3)), *TAUGHT[: amount(12, 3)]])
def test_what_must_hold_does(seed):
    """Whatever the network is like: agreement, the best there is, no stranger's byte, no flood, nothing left."""
    outcome = run_seed(seed)
    assert not outcome.failure, f"{outcome.failure} [{outcome.words}]"


def test_a_seed_repeats_byte_for_byte():
    """A failure that a seed does not bring back is lost."""
    digests = {run_seed(3, with_digest=True).digest for _ in range(3)}
    assert len(digests) == 1
    assert digests.isdisjoint({"", run_seed(1, with_digest=True).digest})


# In the second one a relay's permissions were asked for in the order of a set, so that six salts gave four worlds.
ORDERED = (3, 20261130180)


def test_a_seed_repeats_in_another_process_whatever_the_order_of_its_sets_is():
    """Python hashes text with a salt of each process's own; what sends in a set's order is another world each time."""
    code = (
        "import sys; from sim_run import run_seed;"
        "print([run_seed(int(one), with_digest=True).digest for one in sys.argv[1:]])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, ORDERED)],
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
        )
        for salt in ("0", "1", "2")
    ]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1, answers
    assert answers.pop().count(b"'") == 2 * len(ORDERED)


def untrue(seed, summary, evidence=(), because=None):
    drawn, truth = draw(seed), Truth()
    truth.look(drawn, 0.0)
    return truth.contradiction(drawn, [], 0, Verdict(VerdictKind.RELAYED, summary, evidence, because=because))


def test_a_reason_that_the_world_contradicts_fails_a_seed():
    """Each seed holds what both agents say against the routers; what could not fail would show nothing."""
    plain, symmetric = 20000005, 20000002  # one home that maps all alike; both below a carrier that does not
    for reason in (RelayReason.ONE_MAPS_PER_DESTINATION, RelayReason.BOTH_MAP_PER_DESTINATION):
        assert untrue(plain, "", because=reason)
        assert not untrue(symmetric, "", because=reason)
    for words in (OURS, THEIRS):
        assert untrue(plain, "", (words,))
        assert not untrue(symmetric, "", (words,))
    assert untrue(plain, "Relayed, because UDP does not get out of this network.")
    assert not untrue(plain, "Relayed.", because=RelayReason.NO_DIRECT_ANSWER)
