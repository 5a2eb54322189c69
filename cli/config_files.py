"""Finding the configuration files named on the command line, and checking that they are readable YAML."""

import importlib
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from runtime.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
PACKAGES = ("lightning_modules", "datamodules", "callbacks")
"""Folders whose classes have short names, see :mod:`runtime.short_names`."""


class ConfigError(UserError):
    """The command line or a configuration file cannot be understood."""


def find_config(name: str) -> str:
    """Return the path of a configuration file: as given, else below ``configs/``.

    Args:
        name: A path, or a name below ``configs/`` such as ``grpo.yaml`` or ``mini/grpo.yaml``.

    Raises:
        ConfigError: There is no such file.
    """
    if os.path.isfile(name):
        return name
    if not os.path.isabs(name) and (CONFIG_FOLDER / name).is_file():
        return os.path.relpath(CONFIG_FOLDER / name)
    folder = (CONFIG_FOLDER / name).resolve()
    while not folder.is_dir():  # the nearest folder of the name that there is
        folder = folder.parent
    if not folder.is_relative_to(CONFIG_FOLDER):
        folder = CONFIG_FOLDER
    shipped = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    raise ConfigError(
        f"config file {name!r} exists neither at that path nor in {os.path.relpath(CONFIG_FOLDER)}/; "
        f"{os.path.relpath(folder)}/ has: " + ", ".join(shipped)
    )


def check_yaml(path: str) -> None:
    """Check that a file is a YAML mapping.

    Args:
        path: The configuration file.

    Raises:
        ConfigError: It is not; the message names the file and, where known, the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise ConfigError(f"{where}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        found = "an empty file" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected options such as 'model:' and 'data:', found {found}")
    refuse_loop(root, path)
    check_node(root, path)
    if "trainer" in values and not isinstance(values["trainer"], dict):
        raise ConfigError(f"{path}: 'trainer' has no options: give it some, or remove the line")
    for group in ("model", "data"):
        if isinstance(values.get(group), list):
            raise ConfigError(f"{path}: '{group}' takes one class with its options, found a list: remove the hyphens")


def refuse_loop(node: yaml.Node | None, path: str, above: tuple[int, ...] = ()) -> None:
    """Refuse an alias of something that it is a part of.

    Args:
        node: A part of the file.
        path: The file.
        above: The parts that it lies in.

    Raises:
        ConfigError: There is one; the message names the line of what contains itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    if id(node) in above:
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: contains itself by an alias (*): write it out instead")
    for part in node.value:
        for inside in part if isinstance(part, tuple) else (part,):
            refuse_loop(inside, path, (*above, id(node)))


def check_node(node: yaml.Node | None, path: str, known: set[int] | None = None) -> None:
    """Check what YAML allows and a configuration does not mean.

    Args:
        node: A part of the file.
        path: The file.
        known: Parts that were checked; aliases may lead to one again.

    Raises:
        ConfigError: A key stands twice, of which YAML silently takes the last, or is no text; ``init_args`` has no
            options; or a class has another name now. The message names the line.
    """
    known = set() if known is None else known
    if node is None or id(node) in known:
        return
    known.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        refuse_moved_class(node.value, f"{path}: ")
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            check_node(value, path, known)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            where = f"{path}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise ConfigError(f"{where}: {key.value or key.id} is no name of an option")
            if (mark := first.setdefault(key.value, key.start_mark)) is not key.start_mark:
                raise ConfigError(f"{where}: {key.value!r} stands twice, see line {mark.line + 1}: remove one of them")
            if key.value == "init_args" and value.tag == "tag:yaml.org,2002:null":
                raise ConfigError(f"{where}: 'init_args' has no options: indent them below it, or remove the line")
            check_node(value, path, known)


def refuse_moved_class(class_path: str, where: str = "") -> None:
    """Say how a class is called now whose file has moved.

    Args:
        class_path: Anything; it is looked at where it names a class of this project by a module that is not there.
        where: Stands before the sentence.

    Raises:
        ConfigError: The class has another name now.
    """
    module, _, name = class_path.rpartition(".")
    package = module.partition(".")[0]
    if package == module or package not in PACKAGES or not re.fullmatch(r"[\w.]+", class_path):
        return
    if name in dir(importlib.import_module(package)) and not _exists(module):
        raise ConfigError(f"{where}{class_path} is now {package}.{name}")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class Place(NamedTuple):
    """A line of a configuration file.

    Attributes:
        where: ``file:line``.
        text: The line.
    """

    where: str
    text: str


def find_key(key: str, paths: Iterable[str]) -> Place | None:
    """Return the last place where a key is written, or None.

    Args:
        key: A YAML key.
        paths: Configuration files.
    """
    pattern = re.compile(rf"(^|[\s{{,\"'-]){re.escape(key)}[\"']?\s*:")
    found = None
    for path in paths:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line.partition(" #")[0]):
                found = Place(f"{path}:{number}", line)
    return found
