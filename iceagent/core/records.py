"""`dataclass` as in the standard library, made in a third of the time: some 160 of them are made at every start.

The standard one compiles each method of each class, six to eight of them. Here only `__init__` is compiled; the others
read the fields by their names. What an instance does is the same, and type checkers see the standard one. Fields are
declared with `dataclasses.field` as ever, without `InitVar`.
"""

from __future__ import annotations

import dataclasses
import sys
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from dataclasses import Field, dataclass
else:

    def dataclass(
        *, slots: bool, frozen: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Callable[[type], type]:
        """Return a decorator; the arguments mean what they mean to `dataclasses.dataclass`."""

        def make(written: type) -> type:
            parents = [getattr(parent, "__dataclass_params__", None) for parent in written.__mro__[1:]]
            inherits = frozen and any(parent is not None and parent.frozen for parent in parents)  # has to say so
            bare = dataclasses.dataclass(
                init=False, repr=False, eq=False, slots=slots, kw_only=kw_only, frozen=inherits
            )
            made = bare(written)
            made.__dataclass_params__.frozen = frozen  # whoever inherits is asked for the same
            for name, method in _methods(made, written, frozen=frozen, eq=eq).items():
                setattr(made, name, method)
            return made

        return make


def _methods(made: type, written: type, *, frozen: bool, eq: bool) -> dict[str, object]:
    """Return what a dataclass has and its writer has not written."""
    fields: Sequence[Field[object]] = dataclasses.fields(made)
    own = dict(vars(written))
    methods: dict[str, object] = {"__init__": _init(made, fields, frozen=frozen), "__repr__": _repr(fields)}
    if eq:
        methods["__eq__"] = _eq(_reader(field.name for field in fields if field.compare))
        methods["__hash__"] = None
    if eq and frozen:
        hashed = (field.compare if field.hash is None else field.hash for field in fields)
        methods["__hash__"] = _hash(_reader(field.name for field, is_in in zip(fields, hashed, strict=True) if is_in))
    if frozen:
        methods |= {"__setattr__": _refuse_change, "__delattr__": _refuse_removal}
        methods |= {"__getstate__": _state, "__setstate__": _set_state}
    if own.get("__hash__") is None and "__eq__" in own:
        own.pop("__hash__", None)  # Python put that None there
    return {name: method for name, method in methods.items() if name not in own}


def _init(made: type, fields: Sequence[Field[object]], *, frozen: bool) -> object:
    """Compile `__init__`. Defaults and their factories are variables of the function around it."""
    around: dict[str, object] = {"_absent": dataclasses.MISSING, "_set": object.__setattr__}
    parameters: dict[bool, list[str]] = {False: [], True: []}
    body = []
    for field in fields:
        name, default, value = field.name, f"_default_{field.name}", field.name
        if field.default_factory is not dataclasses.MISSING:
            around[default] = field.default_factory
            value = f"{default}() if {name} is _absent else {name}" if field.init else f"{default}()"
            parameter = f"{name}=_absent"
        elif field.default is not dataclasses.MISSING:
            around[default] = field.default
            value = name if field.init else default
            parameter = f"{name}={default}"
        elif field.init:
            parameter = name
        else:
            continue  # `__post_init__` sets it
        if field.init:
            parameters[bool(field.kw_only)].append(parameter)
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    keywords = ["*", *parameters[True]] if parameters[True] else []
    lines = "\n  ".join(body) or "pass"
    head = f"def __init__({', '.join(['self', *parameters[False], *keywords])})"
    variables: dict[str, Callable[..., object]] = {}
    source = f"def _around({', '.join(around)}):\n {head}:\n  {lines}\n return __init__"
    exec(source, vars(sys.modules[made.__module__]), variables)  # noqa: S102
    init = variables["_around"](**around)
    annotations = {field.name: field.type for field in fields if field.init}
    init.__annotations__ = {**annotations, "return": None}
    init.__qualname__ = f"{made.__qualname__}.__init__"  # type: ignore[attr-defined]
    return init


def _reader(names: Iterable[str]) -> Callable[[object], tuple[object, ...]]:
    """Return what reads the fields of an instance."""
    match tuple(names):
        case ():
            return lambda _: ()
        case (name,):
            return lambda one: (getattr(one, name),)
        case several:
            return attrgetter(*several)


def _eq(read: Callable[[object], tuple[object, ...]]) -> object:
    def __eq__(self: object, other: object) -> bool:
        return read(self) == read(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(read: Callable[[object], tuple[object, ...]]) -> object:
    def __hash__(self: object) -> int:
        return hash(read(self))

    return __hash__


def _repr(fields: Sequence[Field[object]]) -> object:
    names = [field.name for field in fields if field.repr]

    @recursive_repr()
    def __repr__(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _refuse_change(_: object, name: str, __: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_removal(_: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: object) -> list[object]:
    """Return what is copied and pickled, since what is frozen cannot be set field by field from outside."""
    return [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]


def _set_state(self: object, state: Sequence[object]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):  # type: ignore[arg-type]
        object.__setattr__(self, field.name, value)
