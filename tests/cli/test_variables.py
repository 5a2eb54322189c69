"""Environment variables that configurations read."""

from pathlib import Path

import pytest

from cli.config_files import ConfigError
from cli.variables import DATA, SERVERS, check_variables

GRPO = str(Path(__file__).parents[2] / "configs" / "grpo.yaml")
TEACHER = str(Path(__file__).parents[2] / "configs" / "teacher.yaml")


@pytest.mark.parametrize("value", ["", " ", "http://a", "http://a,", "[http://a", "[]", "[http://a,]", "[a:8000]"])
def test_servers_that_cannot_be_read(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{SERVERS} is '.*must look like \[http"):
        check_variables({SERVERS: value}, [GRPO])
    check_variables({SERVERS: value}, [TEACHER])  # which does not read them


@pytest.mark.parametrize("value", ["[http://a]", "[http://a:8000,https://b:1]", " [ 'http://a:1' , \"http://b\" ] "])
def test_servers(value: str) -> None:
    check_variables({SERVERS: value}, [GRPO])


def test_an_empty_folder_of_the_datasets_is_none() -> None:
    environment = {DATA: " "}
    check_variables(environment, [])
    assert environment == {}
