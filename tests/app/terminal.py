"""A person's terminal at a small running north of any number of meters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.config import load_config
from gateway.app.north import north_settings
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.north.context import Listen
from tests.app.test_cli_site import Desk
from tests.north.conftest import serving
from tests.north.small_site import Executor

CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
meters_file: meters.csv
defaults: {pac3220: {port: 1, p_max_w: 7360}}
"""


@asynccontextmanager
async def terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], *, meters: int
) -> AsyncIterator[Desk]:
    """Serve a site with points flat-1 … flat-N, of which flat-1 has an open account."""
    rows = [f"flat-{n},pac3220,127.0.{n // 250}.{n % 250 + 1}" for n in range(1, meters + 1)]
    (folder / "meters.csv").write_text("\n".join(["id,model,host", *rows]), encoding="utf-8")
    path = folder / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    config = load_config(path)
    make_runtime_dir(paths_of(config).north_runtime_dir)
    settings = replace(north_settings(config), listen=(Listen("127.0.0.1", 0),))
    executor = Executor(settings)
    executor.start()
    try:
        async with serving(settings, executor) as site:
            yield Desk(site, path, capsys)
    finally:
        executor.stop()
