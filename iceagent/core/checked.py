"""Checks arguments against their annotations: a wrong type is refused at the call, with a clear message.

    @checked
    def forward_local(self, spec: str | ForwardSpec) -> …      # WrongType: spec must be str or ForwardSpec, not int

    def __post_init__(self) -> None:
        check_fields(self)                                     # each field that is not its default

Annotations are read at the first call, so that they cost no time at import. A name that is imported for type checkers
alone is looked for among the names of the value's classes. No message shows a value: it may be a password.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache, partial, wraps
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from iceagent.errors import WrongType

_F = TypeVar("_F", bound=Callable[..., Any])
_UNKNOWN: Final = "iceagent.core.checked: by name"
_LISTS: Final = (Sequence, Collection, Iterable)
_UNIONS: Final = (Union, types.UnionType)
_ONE: Final = (str, bytes, bytearray, memoryview, Mapping)  # no lists, though they can be iterated over


def checked(function: _F) -> _F:
    """Refuse calls of a function whose arguments are not of the types that its annotations name.

    Raises (the calls):
        WrongType: an argument is of another type.
    """
    inner: Any = function
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    names = inner.__code__.co_varnames[: inner.__code__.co_argcount]
    annotations, module = inner.__annotations__, inner.__module__

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            text = annotations.get(name)
            if text is not None and not _test_of(text, module)(value):
                raise WrongType(_sentence(name, value, _hint(text, module)))
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def check_fields(value: Any) -> None:
    """Refuse a dataclass that holds what its annotations do not name; what is a field's default is not looked at.

    Raises:
        WrongType: a field is of another type; the sentence names it.
    """
    kind = type(value)
    for name, field in kind.__dataclass_fields__.items():
        given = getattr(value, name)
        if given is not field.default and not _test_of(field.type, home := _home(kind, name))(given):  # type: ignore[arg-type]
            raise WrongType(_sentence(f"{kind.__name__}.{name}", given, _hint(field.type, home)))


@lru_cache(maxsize=1024)
def _home(kind: type, field: str) -> str:
    """Return the module that an annotation of a class, or of one above it, was written in."""
    return next(one.__module__ for one in kind.__mro__ if field in vars(one).get("__annotations__", {}))


def check_datagrams(datagrams: Sequence[bytes]) -> Sequence[bytes]:
    """Return datagrams as they can be sent: `bytes` as they are, other buffers copied.

    Raises:
        WrongType: one of them is something else, or it is one datagram and no sequence of them.
    """
    if type(datagrams) in _PLAIN_LISTS and _ONLY_BYTES.issuperset(map(type, datagrams)):
        return datagrams
    if not isinstance(datagrams, Sequence) or isinstance(datagrams, _ONE):
        raise WrongType(_sentence("datagrams", datagrams, Sequence[bytes]))
    return [check_bytes("a datagram", datagram) for datagram in datagrams]


def check_bytes(name: str, value: object) -> bytes:
    """Return a buffer as `bytes`.

    Raises:
        WrongType: it is none.
    """
    check_buffer(name, value)
    return value if isinstance(value, bytes) else bytes(value)  # type: ignore[call-overload]


def check_buffer(name: str, value: object) -> None:
    """Refuse what is neither `bytes` nor a `bytearray` or a `memoryview`.

    Raises:
        WrongType: so it is.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return
    hint = "; encode text first, as by .encode()" if isinstance(value, str) else ""
    raise WrongType(f"{name} must be bytes, not {type(value).__name__}{hint}")


_ONLY_BYTES: Final = frozenset((bytes,))
_PLAIN_LISTS: Final = (list, tuple)


class _Names(dict[str, Any]):
    """What annotations of a module may name."""

    def __missing__(self, name: str) -> Any:
        """Return a stand-in for what the module imports for type checkers alone."""
        if name.startswith("_"):
            raise KeyError(name)
        builtin = getattr(builtins, name, None)
        return type(name, (), {"__doc__": _UNKNOWN}) if builtin is None else builtin


@lru_cache(maxsize=1024)
def _hint(annotation: str, module: str) -> Any:
    return eval(annotation, {}, _Names(vars(sys.modules[module])))  # noqa: S307 - our own source text


@lru_cache(maxsize=1024)
def _test_of(annotation: str, module: str) -> Callable[[Any], bool]:
    return _test(_hint(annotation, module))


def _test(hint: Any) -> Callable[[Any], bool]:
    """Return a function that checks a value against an annotation. Of iterators the elements are not looked at."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if hint is None:
        return lambda value: value is None
    if origin in _UNIONS:
        tests = [_test(one) for one in arguments]
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        kinds = tuple({type(one) for one in arguments})
        return lambda value: isinstance(value, kinds)  # which of them is for the place to say
    if origin is Callable:
        return callable
    if origin is tuple and ... not in arguments:
        tests = [_test(one) for one in arguments]
        return lambda value: (
            isinstance(value, tuple | list)
            and len(value) == len(tests)
            and all(test(one) for test, one in zip(tests, value, strict=True))
        )
    if origin in _LISTS or origin is tuple:
        return partial(_is_list, Sequence if origin is tuple else origin, _test(arguments[0]))
    return _test_of_class(hint if origin is None else origin)


def _is_list(kind: Any, test: Callable[[Any], bool], value: Any) -> bool:
    if not isinstance(value, kind) or isinstance(value, _ONE):
        return False
    return not isinstance(value, Collection) or all(map(test, value))


def _test_of_class(kind: Any) -> Callable[[Any], bool]:
    if not isinstance(kind, type):
        return lambda value: True  # a type variable, say
    if kind is int or kind is float:
        numbers = int if kind is int else (int, float)
        return lambda value: isinstance(value, numbers) and not isinstance(value, bool)
    if kind.__doc__ == _UNKNOWN:
        return lambda value: any(one.__name__ == kind.__name__ for one in type(value).__mro__)
    if getattr(kind, "_is_protocol", False):
        needed = [name for name in vars(kind) if not name.startswith("_")]
        return lambda value: all(hasattr(value, name) for name in needed)
    return lambda value: isinstance(value, kind)


def _fits(value: Any, hint: Any) -> bool:
    return _test(hint)(value)


def _sentence(name: str, value: Any, hint: Any) -> str:
    return f"{name} must be {_words(hint)}, not {_kind_of(value, hint)}{_advice(value, hint)}"


def _kind_of(value: Any, hint: Any) -> str:
    """Return the type of a value, and that of its first element that is wrong."""
    name = type(value).__name__
    for one in (hint, *get_args(hint)):
        if get_origin(one) in (*_LISTS, tuple) and isinstance(value, tuple | list) and get_args(one):
            wrong = [type(element).__name__ for element in value if not _fits(element, get_args(one)[0])]
            return f"{name} with {wrong[0]}" if wrong else name
    return name


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return " or ".join(_words(one) for one in arguments)
    if hint is None or hint is type(None):
        return "None"
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is Callable:
        return "a function"
    if origin is tuple and ... not in arguments:
        return f"a tuple of {len(arguments)}: {', '.join(map(_words, arguments))}"
    if origin in _LISTS or origin is tuple:
        return f"a list of {_words(arguments[0])}"
    return str(getattr(hint if origin is None else origin, "__name__", hint))


def _advice(value: Any, hint: Any) -> str:
    """Return what to write instead, if that is plain: a member of an enum for its name, a list for its one element."""
    kinds = [one for one in (get_args(hint) or (hint,)) if get_origin(one) is None and isinstance(one, type)]
    for kind in kinds:
        if isinstance(value, str) and issubclass(kind, Enum):
            for member in kind:
                if value.lower() in (member.name.lower(), str(member.value).lower()):
                    return f"; write {kind.__name__}.{member.name}"
    for one in (hint, *get_args(hint)):
        if get_origin(one) in (*_LISTS, tuple) and get_args(one) and _fits(value, get_args(one)[0]):
            return "; write a list, if need be of one"
    return ""
