"""Registries: whatever there can be another of is found by name, built in or from another installed package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from acoustic_env.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one sort of thing and where each is defined.

    A name is listed without importing what it stands for, so a worker loads only the libraries of what it uses. Another
    package adds names by an entry point in the group `acoustic_env.<plural>`:

        [project.entry-points."acoustic_env.blocks"]
        loudness = "my_package.loudness:LoudnessBlock"

    Args:
        plural: what is registered, the last word of the entry-point group ("blocks").
        noun: one of them, for messages ("feature block").
        built_in: name -> "module:attribute".

    >>> maths = Registry("maths", "function", {"root": "math:sqrt"})
    >>> maths.names(), maths.load("root")(9.0)
    (('root',), 3.0)
    """

    def __init__(self, plural: str, noun: str, built_in: Mapping[str, str]) -> None:
        self.group = f"acoustic_env.{plural}"
        self._noun, self._built_in = noun, dict(built_in)

    @cached_property
    def _targets(self) -> dict[str, EntryPoint]:
        own = [EntryPoint(name, target, self.group) for name, target in self._built_in.items()]
        found = {entry.name: entry for entry in own}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            if found.get(entry.name, entry).value != entry.value:
                raise UsageError(
                    f"{self._noun} {entry.name!r} is defined twice: {found[entry.name].value} and {entry.value}"
                    f"{_origin(entry)}; uninstall one of them"
                )
            found[entry.name] = entry
        return found

    def names(self) -> tuple[str, ...]:
        """Return the registered names: the built-in ones first, in their order."""
        return tuple(self._targets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def check(self, name: str) -> None:
        """Raise UsageError with the registered names unless this is one of them."""
        if name not in self:
            raise UsageError(f"no {self._noun} named {name!r}; expected one of: {', '.join(self.names())}")

    def load(self, name: str) -> T:
        """Import and return what the name stands for.

        Raises:
            UsageError: no such name, or the package that defines it cannot be imported.
        """
        self.check(name)
        entry = self._targets[name]
        try:
            made: Any = import_module(entry.module)
            for attribute in entry.attr.split("."):
                made = getattr(made, attribute)
        except (ImportError, AttributeError) as error:
            msg = f"{self._noun} {name!r} ({entry.value}{_origin(entry)}) cannot be loaded: {error}"
            raise UsageError(msg) from error
        return cast(T, made)


def _origin(entry: EntryPoint) -> str:
    """Name the distribution that brings an entry point; empty for the built-in ones."""
    return f" of package {entry.dist.name}" if entry.dist is not None else ""
