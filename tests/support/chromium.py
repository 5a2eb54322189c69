"""A real browser for pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser, find_or_install


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium, which is installed where there is none; without it the tests fail and say why."""
    try:
        return find_or_install()
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with an empty page."""
    profile: Path = tmp_path_factory.mktemp("chromium")
    with Browser(chromium, profile) as started:
        yield started
