"""Environment variables that configurations read, checked where YAML could not say which one is at fault."""

import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from cli.config_files import ConfigError

DATA = "SIGHTSOUND_DATA"
SERVERS = "SIGHTSOUND_SERVERS"
_ADDRESS = r"\s*(['\"]?)https?://[^\s,\[\]'\"]+\{}\s*"
_SERVERS = re.compile(rf"\s*\[{_ADDRESS.format(1)}(?:,{_ADDRESS.format(2)})*\]\s*")


def check_variables(environment: MutableMapping[str, str], configs: Sequence[str]) -> None:
    """Take an empty folder of the datasets for none, and refuse addresses of servers that cannot be read.

    Args:
        environment: The environment, changed in place.
        configs: The configuration files in use.

    Raises:
        ConfigError: A file reads the addresses, and they are no list of addresses.
    """
    if not environment.get(DATA, "unset").strip():
        del environment[DATA]
    value = environment.get(SERVERS)
    if value is None or _SERVERS.fullmatch(value):
        return
    if any(SERVERS in Path(config).read_text(encoding="utf-8") for config in configs):
        raise ConfigError(
            f"the environment variable {SERVERS} is {value!r}: it must look like [http://127.0.0.1:8000] or "
            "[http://a:8000,http://b:8000], or be unset"
        )
