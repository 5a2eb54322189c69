"""Classes of a package under names that stay: ``lightning_modules.GRPOModule``, wherever its file is."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def short_names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562) whose names are imported when they are asked for.

    Args:
        package: The package's name.
        places: By name, the module of the package in which it is defined, such as ``rollout.vllm_rollout``.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return get, lambda: sorted(places)
