"""Sites for the end-to-end tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.gateway_site import Gateway, closing

MakeSite = Callable[..., Gateway]


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Make a site that lives as long as the tests of a module; nothing is started yet."""
    with ExitStack() as owned:

        def make(**terms: object) -> Gateway:
            directory: Path = tmp_path_factory.mktemp("site")
            site = Gateway(directory, **terms)  # type: ignore[arg-type]
            return owned.enter_context(closing(site))

        yield make
