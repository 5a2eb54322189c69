"""Configurations over others: files that extend a file, and callbacks that are changed without repeating the list.

jsonargparse merges the mappings of stacked files and replaces their lists, and its own ``callbacks+`` can only append:
an overlay for another token limit, or for rollouts in this process (``instead_of``), would have to repeat all seven
callbacks of its base and to follow each change of them. It knows no includes either: without ``extends`` each command
of a benchmark would name one file more. A list that is written as ``callbacks`` is left as it is.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cli.config_files import PACKAGES, ConfigError, check_yaml, find_config, refuse_moved_class

CONFIG = ("--config", "-c")

EXTENDS = "extends"
"""Key of the file that a configuration goes over."""

INSTEAD_OF = "instead_of"
"""Key beside ``class_path`` of the callback whose place is taken."""

_APPENDED = "callbacks+"


class Layer(NamedTuple):
    """One file of a configuration.

    Attributes:
        path: The file.
        values: What is in it.
    """

    path: str
    values: dict[str, Any]


def layers(path: str, above: Sequence[str] = ()) -> Iterator[Layer]:
    """Yield a file after those that it extends.

    Args:
        path: The file.
        above: Files that extend it.

    Raises:
        ConfigError: A file is missing, is no YAML, or extends itself.
    """
    if path in above:
        raise ConfigError(f"{' extends '.join([*above, path])}: a file cannot extend itself")
    check_yaml(path)
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if EXTENDS in values:
        below = values[EXTENDS]
        if not isinstance(below, str):
            raise ConfigError(f"{path}: {EXTENDS} must name one file, found {below!r}")
        try:
            found = find_config(below)
        except ConfigError as error:
            raise ConfigError(f"{path}: {EXTENDS}: {error}") from None
        yield from layers(found, [*above, path])
    yield Layer(path, values)


def resolve_configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace the configuration files among command-line arguments by what LightningCLI reads.

    Args:
        args: Arguments of ``train.py``.

    Returns:
        The arguments, and the paths of all files in their order.

    Raises:
        ConfigError: A file is missing or cannot be used, or a class has another name now.
    """
    resolved: list[str] = []
    paths: list[str] = []
    callbacks = CallbackLayers()
    names_file = False
    for argument in args:
        option, equals, value = argument.partition("=")
        if names_file or (option in CONFIG and equals):
            for layer in layers(find_config(argument if names_file else value)):
                paths.append(layer.path)
                resolved += ["--config", callbacks.add(layer)]
            names_file = False
        elif argument in CONFIG:
            names_file = True
        else:
            callbacks.told = callbacks.told or option.startswith("--trainer.callbacks")
            for named in re.findall(r"(?<![\w./-])[A-Za-z_][\w.]*(?![\w/-])", argument):
                refuse_moved_class(named)
            resolved.append(argument)
    return [*resolved, *(["--config"] if names_file else [])], paths


class CallbackLayers:
    """The callbacks of files that go over one another.

    Attributes:
        told: True when the command line has said something about callbacks already.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.told = False
        self._callbacks: list[Any] = []

    def add(self, layer: Layer) -> str:
        """Go over what came before with one more file.

        Args:
            layer: The file.

        Returns:
            What LightningCLI is given in its place: the file itself, or its text where it says what only this module
            understands.

        Raises:
            ConfigError: A callback is to take the place of one that is not there, or an option on callbacks that comes
                before the file would be lost.
        """
        values = layer.values
        trainer = values.get("trainer")
        trainer = trainer if isinstance(trainer, dict) else {}
        if "callbacks" in trainer:
            self._callbacks = _as_list(trainer["callbacks"])
        if _APPENDED not in trainer and EXTENDS not in values:
            return layer.path
        if _APPENDED in trainer:
            if self.told:
                raise ConfigError(f"{layer.path} changes callbacks: put --trainer.callbacks behind its --config")
            self._callbacks = changed(self._callbacks, _as_list(trainer[_APPENDED]), layer.path)
            trainer = {name: value for name, value in trainer.items() if name != _APPENDED}
            values = values | {"trainer": trainer | {"callbacks": self._callbacks}}
        return yaml.safe_dump({name: value for name, value in values.items() if name != EXTENDS}, sort_keys=False)


def changed(callbacks: Sequence[Any], changes: Sequence[Any], where: str = "configuration") -> list[Any]:
    """Return callbacks with changes: each goes over the callback of its class, or is appended where there is none.

    Args:
        callbacks: What is there: mappings with ``class_path`` and ``init_args``, or class paths.
        changes: The same; one with ``instead_of`` takes the place of the callback of that class.
        where: Names the file in errors.

    Raises:
        ConfigError: A callback is to take the place of one that is not there.
    """
    found = copy.deepcopy(list(callbacks))
    for change in changes:
        change = {"class_path": change} if isinstance(change, str) else dict(change or {})
        replaced = change.pop(INSTEAD_OF, None)
        names = [_class_of(callback) for callback in found]
        wanted = _short(replaced) if replaced is not None else _class_of(change)
        if wanted not in names:
            if replaced is not None:
                raise ConfigError(
                    f"{where}: {INSTEAD_OF} {replaced}, which is not among the callbacks: {', '.join(names) or 'none'}"
                )
            found.append(change)
            continue
        place = names.index(wanted)
        found[place] = change if replaced is not None else _over(found[place], change)
    return found


def _over(callback: Any, change: Mapping[str, Any]) -> dict[str, Any]:
    below: dict[str, Any] = {"class_path": callback} if isinstance(callback, str) else dict(callback)
    settings = {**(below.get("init_args") or {}), **(change.get("init_args") or {})}
    return {**below, **change, **({"init_args": settings} if settings else {})}


def _class_of(callback: Any) -> str:
    return _short(callback.get("class_path") if isinstance(callback, Mapping) else callback)


def _short(class_path: Any) -> str:
    """Return the short name of a class of this project; other names are left alone."""
    package, _, rest = str(class_path).partition(".")
    return f"{package}.{rest.rpartition('.')[2]}" if package in PACKAGES else str(class_path)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
