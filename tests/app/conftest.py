"""What tests of nodes share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.south.mosquitto import Mosquitto


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that runs."""
    made = Mosquitto(tmp_path)
    await made.start()
    yield made
    await made.kill()
