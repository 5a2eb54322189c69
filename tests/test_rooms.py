"""The plan of the house: which folder may import which."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"runtime"},
    {"records"},
    {"answers"},
    {"datamodules/media", "datamodules/prompts"},
    {"datamodules/reading", "datamodules/batching"},
    {"datamodules"},
    {"inference/chat_api", "inference/vllm"},
    {"inference/server_process", "inference/weight_transfer"},
    {"inference"},
    {"lightning_modules/models/architectures"},
    {"lightning_modules/models/checkpoints"},
    {"lightning_modules/models", "lightning_modules/objectives"},
    {"lightning_modules"},
    {"planning"},
    {"callbacks/rollout", "callbacks/tracking", "callbacks/checkpoints"},
    {"callbacks/writers"},
    {"callbacks"},
    {"evaluation"},
    {"corpus/browsing"},
    {"corpus/clips"},
    {"corpus/gates"},
    {"corpus"},
    {"cli"},
    {"."},
    {"mini/world"},
    {"mini"},
    {"benchmarks/measuring"},
    {"benchmarks"},
    {"benchmarks/gpu", "benchmarks/learner"},
    {"benchmarks/peers"},
)
"""Folders from the ground up; those of one floor do not know each other. ``.`` is ``train.py``."""


def folder_of(module: str) -> str | None:
    """The folder in which a module of this project lies, None for one from elsewhere."""
    path = ROOT / module.replace(".", "/")
    if path.with_suffix(".py").is_file():
        return path.parent.relative_to(ROOT).as_posix()
    return path.relative_to(ROOT).as_posix() if (path / "__init__.py").is_file() else None


def imported_modules(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if folder_of(name) else node.module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported(file: Path) -> set[str]:
    """Folders that a file imports from."""
    return {folder for name in imported_modules(file) if (folder := folder_of(name))}


def test_imports_go_down() -> None:
    floor = {folder: height for height, folders in enumerate(FLOORS) for folder in folders}
    files = [p for folder in floor if folder != "." for p in (ROOT / folder).glob("*.py")] + [ROOT / "train.py"]
    wrong = []
    for file in files:
        here = file.parent.relative_to(ROOT).as_posix()
        above = [there for there in imported(file) if there != here and floor.get(there, 99) >= floor[here]]
        wrong += [f"{file.relative_to(ROOT)} imports {there}" for there in above]
    assert not wrong


def test_every_folder_has_its_floor() -> None:
    folders = {
        p.parent.relative_to(ROOT).as_posix()
        for p in ROOT.rglob("*.py")
        if not any(part.startswith(".") or part in ("tests", "runs", "data") for part in p.relative_to(ROOT).parts)
    }
    assert folders == set().union(*FLOORS)


def test_no_circle_of_benchmarks() -> None:
    """Who compares imports who measures, and nobody imports back."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in ROOT.glob("benchmarks/**/*.py")}
    waiting = {name: imported_modules(file) & files.keys() - {name} for name, file in files.items()}
    while free := {name for name, below in waiting.items() if not below}:
        waiting = {name: below - free for name, below in waiting.items() if name not in free}
    assert not waiting
