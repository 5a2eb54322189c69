"""What vLLM finds a plugin by: a folder on its ``PYTHONPATH`` with metadata that name the function to call."""

from pathlib import Path


def install(directory: Path, name: str, target: str) -> Path:
    """Write the metadata of a plugin.

    Args:
        directory: Where; made where it is missing.
        name: Of the plugin.
        target: Its function as ``module:function``, which vLLM calls in each of its processes.

    Returns:
        The directory, which belongs on the server's ``PYTHONPATH``.
    """
    metadata = directory / f"{name}-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{name} = {target}\n")
    return directory
