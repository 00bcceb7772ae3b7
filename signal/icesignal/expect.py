"""Refuses arguments of a wrong type at the call, with a message that shows no value: it may be a secret."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def expect(*kinds: type | None, **values: object) -> None:
    """Refuse arguments, given by their names, that are of none of the kinds. An int is a float, a bool is no number.

    Raises:
        TypeError: one of them is something else.
    """
    wanted = tuple(kind for kind in kinds if kind is not None)
    for name, value in values.items():
        if value is None and None in kinds:
            continue
        if isinstance(value, bool):
            fits = bool in wanted
        else:
            fits = isinstance(value, wanted) or (float in wanted and isinstance(value, int))
        if not fits:
            words = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
            raise TypeError(f"{name} must be {words}, not {type(value).__name__}")


def expect_function(**values: object) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: one of them cannot.
    """
    for name, value in values.items():
        if not callable(value):
            raise TypeError(f"{name} must be a function, not {type(value).__name__}")


def expect_fields(value: Any) -> None:
    """Refuse a dataclass with a field of another type than that of the field's default.

    Raises:
        TypeError: so it is.
    """
    for field in fields(value):
        expect(type(field.default), **{f"{type(value).__name__}.{field.name}": getattr(value, field.name)})


def expect_list(**values: object) -> None:
    """Refuse what is no list or tuple of text: one text alone is none, though it can be iterated over.

    Raises:
        TypeError: so it is.
    """
    for name, value in values.items():
        expect(list, tuple, **{name: value})
        expect(str, **{f"each of {name}": one for one in value if not isinstance(one, str)})  # type: ignore[attr-defined]
