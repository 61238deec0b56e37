"""Stores that cannot be used at the start: refused with the reason, left as they are."""

import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import ROOT, Gateway

pytestmark = pytest.mark.slow

UNSHARE = shutil.which("unshare")
PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """A site whose processes were killed: each store has commits in its WAL."""
    site = make_site(meters=1).start()
    site.open("flat-101", "10")
    site.kill("control", "north")
    return site


@pytest.mark.parametrize("name", ["control", "north"])
def test_a_corrupt_store_is_refused_and_left_as_it_is(site: Gateway, name: str) -> None:
    """Status 2, the file and the way back named; the store and its WAL stay for whoever looks."""
    store = {"control": site.paths.ledger, "north": site.paths.north_dir / "north.db"}[name]
    wal = store.with_name(f"{store.name}-wal")
    good, kept = store.read_bytes(), wal.read_bytes()
    assert kept, "nothing in the WAL: nothing that could be lost"
    bad = good[:PAGE_BYTES] + b"\xa5" * (len(good) - PAGE_BYTES)
    store.write_bytes(bad)
    try:
        answer = site.cli(name)
        assert answer.returncode == 2, answer.stderr
        assert "STORE_CORRUPT" in answer.stderr
        assert store.name in answer.stderr
        assert "restore" in answer.stderr
        assert store.read_bytes() == bad
        assert wal.read_bytes() == kept
    finally:
        store.write_bytes(good)
        wal.write_bytes(kept)


@pytest.mark.parametrize("name", ["control", "north"])
def test_a_read_only_disk_is_refused_in_one_line(site: Gateway, name: str) -> None:
    """As after a disk's error (errors=remount-ro): the system's word, no traceback."""
    if UNSHARE is None:
        pytest.skip("needs unshare(1) to mount a read-only file system")
    state = site.paths.control_dir.parent
    bind = f"mount --bind {state} {state} && mount -o remount,ro,bind {state}"
    probe = subprocess.run([UNSHARE, "--mount", "sh", "-c", bind], check=False)
    if probe.returncode != 0:
        pytest.skip("this machine lets nobody mount: no read-only file system")
    command = [sys.executable, "-m", "gateway", name, "--config", str(site.config)]
    answer = subprocess.run(
        [UNSHARE, "--mount", "sh", "-c", f'{bind} && exec "$@"', "sh", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
    )
    assert answer.returncode == 1, answer.stderr
    assert "Read-only file system" in answer.stderr
    assert "Traceback" not in answer.stderr
