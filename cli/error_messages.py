"""One clear sentence out of an exception that the user can put right.

jsonargparse has no hook for its reports. That of one misspelt option has ten lines, of which one names it; the others
go through all that a callback or a module could have been, and the user would look for the mistake there. What an
upgrade words otherwise, ``tests/cli/test_errors.py`` finds.
"""

import argparse
import re
from collections.abc import Sequence

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException
from wandb.errors import UsageError

from cli.config_files import find_key
from runtime.errors import UserError

# lines of jsonargparse's reports that name neither the thing nor the way out
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|- Expected a path but|- Expected a <class"
    r"|- Not a valid subclass|Subclass types expect|- a class path|- a dict with|Not a valid subclass"
)
RENAMED = {
    "optimization_epochs": "num_iterations",
    "importance_limit": "objective.importance.init_args.cap",
    "importance_sampling_cap": "objective.importance.init_args.cap",
    "epsilon": "objective.policy.init_args.epsilon",
    "length_pool": "length_bucket",
}
"""Options that had another name or place before."""

_PARSING = (argparse.ArgumentError, OmegaConfBaseException, yaml.YAMLError)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def user_sentence(error: BaseException, configs: Sequence[str] = ()) -> tuple[str, int] | None:
    """Return the sentence to print and the exit status, or None where the traceback should be seen.

    Args:
        error: What was raised.
        configs: The configuration files in use, to name the one at fault.
    """
    if isinstance(error, argparse.ArgumentError):
        return parser_sentence(str(error), configs), 2
    if isinstance(error, OmegaConfBaseException):
        return interpolation_sentence(error, configs), 2
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split()), 2
    if isinstance(error, UserError):
        return _of_worker(error), 1
    if isinstance(error, UsageError):
        return f"Weights & Biases: {_one_line(error)} (without an account: --trainer.logger.init_args.offline true)", 1
    if isinstance(error, _MISSING):
        named = isinstance(error, OSError) and error.filename is not None
        return (f"{error.filename}: {(error.strerror or 'not accessible').lower()}" if named else _of_worker(error)), 1
    if isinstance(error, MisconfigurationException):
        return _one_line(error), 1
    return None


def parser_sentence(report: str, configs: Sequence[str] = ()) -> str:
    """Return the point of one of jsonargparse's reports.

    Args:
        report: The report, often of a dozen lines.
        configs: The configuration files in use, to name the one at fault.
    """
    keys: list[str] = []
    points: list[str] = []
    indent_of_problem: int | None = None
    for line in report.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if indent_of_problem is not None and text.startswith("- ") and indent <= indent_of_problem:
            break  # the next type that the value could have been
        if not text or _NOISE.search(text):
            continue
        if key := re.fullmatch(r'Parser key "([^"]+)":\s*(.*)', text):
            keys.append(key[1].removeprefix("fit."))
            text = key[2]
        elif problem := re.fullmatch(r"- Problem with given class_path '([^']+)':", text):
            keys.append(problem[1])
            indent_of_problem = indent
            continue
        if text:
            points.append(text.removeprefix("- "))
    point = " ".join(points) or " ".join(report.split())
    point = re.sub(r"[Ee]xpected a <class '([\w.]+)'>", r"expected \1", point).replace(". Got value:", ", found")
    point = re.sub(r"[Ee]xpected a typing\.Literal\[([^\]]+)\]", r"expected one of \1", point)
    point = point[0].lower() + point[1:] if point.startswith(("Option", "Subcommand")) else point
    sentence = ": ".join([*keys, point])
    named = re.search(r"[Oo]ption '([\w.]+)'", point) or re.search(r"^([\w.]+)$", keys[-1] if keys else "")
    place = find_key(named[1].rpartition(".")[2], configs) if named else None
    value = re.search(r"found (.*)$", point)
    if place and (value is None or value[1] in place.text):
        sentence += f" ({place.where})"
    if named and (now := RENAMED.get(named[1].rpartition(".")[2])):
        return f"{sentence}; it is called {now} now"
    classes = [key for key in keys if "." in key and key[0].islower() and key.rpartition(".")[2][:1].isupper()]
    if classes and "not accepted" in point:
        group = keys[0] if keys[0] != classes[-1] else "model"
        sentence += f"; its options: python train.py fit --{group}.help {classes[-1]}"
    elif "unrecognized" in point or "does not accept" in point:
        sentence += "; all options: python train.py fit --help"
    return sentence


def interpolation_sentence(error: OmegaConfBaseException, configs: Sequence[str] = ()) -> str:
    """Return which ``${...}`` of which option could not be filled in.

    Args:
        error: OmegaConf's complaint.
        configs: The configuration files in use, to name the one at fault.
    """
    point = re.sub(r"'\.+", "'", str(error).splitlines()[0].split(" (resolved to")[0])  # '..x' is our absolute 'x'
    key = re.sub(r"^(fit|validate|test|predict)\.", "", str(error.full_key or ""))
    place = find_key(key.rpartition(".")[2], configs) if key else None
    return (f"{key}: " if key else "") + point + (f" ({place.where})" if place else "")


def _of_worker(error: BaseException) -> str:
    """Return the message of an error, without the traceback that a DataLoader's worker wraps it in."""
    message = str(error)
    if message.startswith("Caught ") and "Traceback (most recent call last)" in message:
        marker = f"{type(error).__name__}: "
        lines = [line for line in message.splitlines() if marker in line]
        if lines:
            message = lines[-1].split(marker, 1)[1]
    return " ".join(message.split())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
