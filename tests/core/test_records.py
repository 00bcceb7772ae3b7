"""Records behave as the dataclasses they look like."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field

import pytest

import iceagent.core
from iceagent.core.records import dataclass

Make = Callable[..., Callable[[type], type]]


@dataclass(frozen=True, slots=True)
class Point:
    """For copies and pickles, which need a name."""

    x: int
    y: int = 0


def written() -> list[type]:
    """Return classes with one of everything that the tree uses, not yet decorated."""

    class Plain:
        """Doc."""

        a: int
        b: list[int] = field(default_factory=list)
        c: str = field(default="x", repr=False, compare=False)
        d: int = field(default=7, init=False)

        def __post_init__(self) -> None:
            assert self.a >= 0

    class Empty:
        """Doc."""

    class Own:
        """Doc."""

        a: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return other == 3

        def __hash__(self) -> int:
            return 5

    class Equal:
        """Doc."""

        a: int

        def __eq__(self, other: object) -> bool:
            return True

    return [Plain, Empty, Own, Equal]


def families(make: Make) -> list[type]:
    """Return the classes, decorated in all ways."""
    ways: list[dict[str, bool]] = [{"frozen": True}, {}, {"frozen": True, "kw_only": True}, {"eq": False}]
    kinds = [make(slots=True, **way)(kind) for way in ways for kind in written()]

    class Child(kinds[0]):  # type: ignore[misc, valid-type]
        """Doc."""

        e: float = 0.5

    return [*kinds, make(frozen=True, slots=True)(Child)]


def described(kind: type) -> dict[str, object]:
    """Return what a class lets one do."""
    return {
        "parameters": [(one.name, one.kind) for one in inspect.signature(kind).parameters.values()],
        "hints": inspect.get_annotations(kind.__init__),
        "slots": kind.__dict__.get("__slots__"),
        "match": getattr(kind, "__match_args__", None),
        "hashed": kind.__hash__ is not None,
        "fields": [one.name for one in dataclasses.fields(kind)],  # type: ignore[arg-type]
    }


def used(kind: type) -> list[object]:
    """Return what instances do."""
    arguments = [{}] if not dataclasses.fields(kind) else [{"a": 1}, {"a": 2}]  # type: ignore[arg-type]
    ones = [kind(**one) for one in arguments for _ in range(2)]
    told: list[object] = [repr(ones[0]), [[one == other for other in ones] for one in ones], ones[0] == 3]
    told.append([outcome(lambda one=one: hash(one) == hash(ones[0])) for one in ones])
    told.append([outcome(lambda: setattr(ones[0], "a", 9)), outcome(lambda: delattr(ones[0], "a"))])
    told.append(outcome(lambda: kind(1, 2, 3, 4, 5, 6)))
    told.append(repr(copy.copy(ones[-1])))
    return told


def outcome(call: Callable[[], object]) -> object:
    """Return what a call gives, or that it is refused."""
    try:
        return call()
    except (AttributeError, TypeError):  # the standard one has one or the other for one cause, by its slots
        return "refused"


def test_a_record_does_what_a_standard_dataclass_does() -> None:
    """Only the making differs; whoever reads the code expects the standard one."""
    standard = families(dataclasses.dataclass)
    for mine, other in zip(families(dataclass), standard, strict=True):
        assert described(mine) == described(other)
        assert used(mine) == used(other)


def test_a_frozen_record_is_copied_pickled_and_replaced() -> None:
    """Its state is set by no assignment."""
    point = Point(1, 2)
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    assert dataclasses.replace(point, y=5) == Point(1, 5)
    with pytest.raises(FrozenInstanceError, match="'x'"):
        point.x = 3  # type: ignore[misc]


def test_a_standard_dataclass_may_inherit_a_record() -> None:
    """Users' controllers inherit the default one; what is frozen stays so."""

    @dataclasses.dataclass(frozen=True)
    class Named(Point):
        name: str = ""

    assert Named(1, name="x") == Named(1, 0, "x")
    with pytest.raises(TypeError, match="frozen"):
        dataclasses.dataclass(type("Loose", (Point,), {}))
    with pytest.raises(TypeError, match="frozen"):
        dataclass(slots=True)(type("Loose", (Point,), {}))


def test_every_record_of_the_core_can_be_built_as_it_says() -> None:
    """The names that `__init__` takes are those of the fields, in their order, and none is lost."""
    found = 0
    for module in pkgutil.walk_packages(iceagent.core.__path__, "iceagent.core."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and kind.__module__ == module.name and dataclasses.is_dataclass(kind):
                taken = sorted(inspect.signature(kind).parameters)
                assert taken == sorted(one.name for one in dataclasses.fields(kind) if one.init)
                found += 1
    assert found > 100
