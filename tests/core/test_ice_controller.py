"""The replaceable controller: quite another policy works whole, and a broken one breaks nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from ice_harness import A4, B4, Link, World, both, connected_pair

from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.ice import AgentState, CandidateType, PairFacts

A_WIFI, A_LTE, A_RELAY = (make_address("192.0.2.1", 1), make_address("192.0.2.2", 2), make_address("192.0.2.3", 3))
B_WIFI, B_RELAY = make_address("198.51.100.1", 1), make_address("198.51.100.3", 3)


@dataclass(frozen=True)
class Thrifty:
    """Cheapest network first and for good: pays for no direct path; nominates the first that answers, as RFC 5245's
    aggressive nomination did; moves to a cheaper one whatever its round trip; gives a path a second."""

    price: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def cost(self, pair: PairFacts) -> tuple[int, bool]:
        return self.price.get(pair.path[0].host, 1), not pair.is_relayed

    def choose_check(self, question: ice.CheckQuestion) -> PairFacts | None:
        self.asked.append("check")
        return min((*question.triggered, *question.waiting), key=self.cost)

    def choose_nomination(self, question: ice.NominationQuestion) -> ice.Choice | None:
        self.asked.append("nomination")
        return ice.Choice(min(question.valid, key=self.cost), question.now)

    def choose_switch(self, question: ice.SwitchQuestion) -> ice.Choice | None:
        self.asked.append("switch")
        best = min(question.others, key=self.cost)
        return ice.Choice(best, question.now) if self.cost(best) < self.cost(question.selected) else None

    def search_on(self, question: ice.SearchQuestion) -> ice.Search | None:
        self.asked.append("search")
        cheaper = tuple(pair for pair in question.unchecked if self.cost(pair) < self.cost(question.selected))
        return ice.Search(cheaper, question.now) if cheaper else None

    def gives_way_at(self, question: ice.FalterQuestion) -> float:
        self.asked.append("falter")
        return question.probed_at + 1.0


def home(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """A has Wi-Fi, LTE and a relay; B Wi-Fi and a relay. Everything reaches everything."""
    for one, hosts, relay in ((a, (A_WIFI, A_LTE), A_RELAY), (b, (B_WIFI,), B_RELAY)):
        world.host(one, *hosts)
        world.owner[relay] = one
        one.add_local_candidate(world.now, ice.relay_candidate(relay, "192.0.2.99"))
        world.drain(one)
    for one, other in ((a, b), (b, a)):
        one.set_remote_credentials(world.now, other.credentials, options=("renomination",))
    world.introduce(a, b)


def bases(a: ice.IceAgent, b: ice.IceAgent) -> tuple[TransportAddress, TransportAddress]:
    assert a.selected_pair is not None
    assert b.selected_pair is not None
    return a.selected_pair.local.path_base, b.selected_pair.local.path_base


def test_quite_another_controller_decides_everything() -> None:
    """It checks, nominates, moves and gives way by its own lights, where the default would do the opposite."""
    world = World(1, Link(delay_s=0.02))
    thrifty = Thrifty({A_WIFI.host: 5, A_LTE.host: 9})
    a, b = world.pair(controller=thrifty)
    home(world, a, b)
    first = next(transmit for _, one, transmit in world.sent if one is a)
    assert first.local == A_RELAY, "the dearest path of the default is the first checked here"
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert world.now < 0.04 * 2 + 0.05, "the first answer was nominated at once"
    assert bases(a, b)[0] == A_RELAY
    world.run(60)
    assert bases(a, b)[0] == A_RELAY, "and relayed it stays, although direct pairs are there"
    assert not world.of_kind(a, ice.ControllerFailed) + world.of_kind(b, ice.ControllerFailed)
    died = world.now
    world.link.blocked = lambda source, destination: A_RELAY in (source, destination)
    world.run_until(lambda: a.selected_pair is not None and a.selected_pair.local.path_base == A_WIFI)
    assert 1.0 < world.now - died < 10.0, "a path is given a second after suspicion"
    assert set(thrifty.asked) == {"check", "nomination", "switch", "search", "falter"}


def test_the_default_prefers_the_direct_path_there() -> None:
    """The same house under the default: what the test above shows is the controller's doing."""
    world = World(1, Link(delay_s=0.02))
    a, b = world.pair()
    home(world, a, b)
    world.run_until(lambda: both(a, b, AgentState.COMPLETED))
    assert bases(a, b) == (A_WIFI, B_WIFI)


def test_a_controller_may_wait_for_ever_with_nomination() -> None:
    """What is good enough is the user's business; data flows without nomination, and consent is kept up."""

    class Never(ice.DefaultController):
        def choose_nomination(self, question: ice.NominationQuestion) -> ice.Choice | None:
            return ice.Choice(question.valid[0], question.now + 1.0)

    class NotAtAll(ice.DefaultController):
        def choose_nomination(self, question: ice.NominationQuestion) -> ice.Choice | None:
            return None

    for controller in (Never(), NotAtAll()):
        world = World(1)
        a, b = world.pair(controller=controller)
        world.host(a, A4)
        world.host(b, B4)
        world.introduce(a, b)
        world.run(100)
        assert both(a, b, AgentState.CONNECTED)


FOREIGN = PairFacts(
    (A4, B4),
    ice.host_candidate(A4),
    ice.host_candidate(B4),
    ice.PairState.SUCCEEDED,
    1,
    1,
    True,
    False,
    False,
    0.01,
    1,
    0.0,
    0.0,
    True,
    0,
)


def broken(method: str, answer: Callable[[object], object]) -> ice.DefaultController:
    return type("Broken", (ice.DefaultController,), {method: lambda self, question: answer(question)})()


def raises(question: object) -> object:
    raise RuntimeError("out of ideas")


def foreign(question: object) -> object:
    """A pair of nobody's, in the form the question wants."""
    if isinstance(question, ice.CheckQuestion | ice.FalterQuestion):
        return FOREIGN
    return ice.Search((FOREIGN,), 0.0) if isinstance(question, ice.SearchQuestion) else ice.Choice(FOREIGN, 0.0)


@pytest.mark.parametrize("method", ["choose_check", "choose_nomination", "choose_switch", "search_on", "gives_way_at"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raises, "RuntimeError: out of ideas"),
        (foreign, ""),
        (lambda question: float("nan"), ""),
        (lambda question: "nonsense", ""),
    ],
)
def test_a_broken_controller_is_told_of_once_and_the_default_goes_on(
    method: str, answer: Callable[[object], object], reason: str
) -> None:
    """It runs while bytes of the network are dealt with: nothing is raised, and the session ends as with the default.

    The harness asserts that no timer is left due (rule 3); pacing is looked at here.
    """
    world = World(3, Link(delay_s=0.02, loss=0.1))
    a, b = world.pair(controller=broken(method, answer))
    home(world, a, b)
    world.run(6)
    world.link.loss = 1.0
    world.run(6)  # so that all methods have been asked
    world.link.loss = 0.0
    world.run(6)
    assert both(a, b, AgentState.COMPLETED)
    assert bases(a, b)[0] in (A_WIFI, A_LTE)
    for one in (a, b):
        failures = world.of_kind(one, ice.ControllerFailed)
        assert len(failures) <= 1
        assert all(failure.question == method and failure.reason.startswith(reason) for failure in failures)
    assert world.of_kind(a, ice.ControllerFailed), "the controlling side was asked everything"
    assert len(world.sent) < 1000


@pytest.mark.parametrize("greed", ["flaps", "searches", "is idle", "is early"])
def test_no_controller_breaks_the_pacing(greed: str) -> None:
    """Switching to and fro, searching without end, leaving slots empty: the mechanism has its floors."""

    class Greedy(ice.DefaultController):
        def choose_check(self, question: ice.CheckQuestion) -> PairFacts | None:
            if greed == "is idle" and question.now < 5:
                return None
            return ice.DefaultController.choose_check(self, question)

        def choose_switch(self, question: ice.SwitchQuestion) -> ice.Choice | None:
            return ice.Choice(question.others[0], float("-inf")) if greed == "flaps" else None

        def search_on(self, question: ice.SearchQuestion) -> ice.Search | None:
            return ice.Search((*question.unchecked, *question.failed), float("-inf"))

        def gives_way_at(self, question: ice.FalterQuestion) -> float:
            return float("-inf") if greed == "is early" else float("inf")

    world = World(1, Link(delay_s=0.0001))
    a, b = world.pair(controller=Greedy())
    dead = make_address("192.0.2.77", 7)
    world.host(a, dead)
    del world.owner[dead]
    home(world, a, b)
    world.run(100)
    assert both(a, b, AgentState.COMPLETED)
    checks = sum(one is a for _, one, _ in world.sent)
    assert checks < 100 * (2 / 0.1 + 10), "at most ten switches a second, each a check and its repeat"
    assert not world.of_kind(a, ice.ControllerFailed)


def test_whether_the_path_in_use_gives_way_is_asked_as_it_is_doubted() -> None:
    """The question tells the present, as all do: not when it was doubted the time before."""
    asked: list[ice.FalterQuestion] = []

    class Curious(ice.DefaultController):
        def gives_way_at(self, question: ice.FalterQuestion) -> float:
            asked.append(question)
            return ice.DefaultController.gives_way_at(self, question)

    world, a, _ = connected_pair(controller=Curious())
    for _ in range(3):
        world.run(20)
        doubted_at = world.now
        a.handle_network_changed(world.now)
        world.drain(a)
        assert (asked[-1].now, asked[-1].probed_at) == (doubted_at, doubted_at)


def test_equal_sessions_make_equal_traces_under_any_controller() -> None:
    """Rule 4: same seed and inputs, same outputs."""
    traces = []
    for _ in range(2):
        world = World(5, Link(delay_s=0.02, jitter_s=0.01, loss=0.2))
        a, b = world.pair(controller=Thrifty({A_WIFI.host: 5}))
        home(world, a, b)
        world.run(60)
        traces.append(world.trace)
    assert traces[0] == traces[1]
    assert CandidateType.RELAY in {pair.local.type for pair in a.pairs}
