"""The node key: made once, closed to others, kept by a restore and asked for on a new PC."""

from pathlib import Path

import pytest

from gateway.app.archive import read_manifest
from gateway.app.config import load_config
from gateway.app.node_key import NODE_KEY_NAME, load_node_key
from gateway.app.paths import paths_of
from gateway.app.restore import RestoreOptions, restore_backup
from gateway.core.errors import ConfigurationError
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices, read_devices
from tests.app.backup_site import backed_up, silent
from tests.app.control_site import CONFIG, ControlSite


def test_a_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    """32 random bytes, mode 0600; open to others or damaged it is refused."""
    made = load_node_key(tmp_path)
    path = tmp_path / NODE_KEY_NAME
    assert (len(made), load_node_key(tmp_path)) == (32, made)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_node_key(tmp_path)
    path.chmod(0o600)
    path.write_text("ab" * 31)
    with pytest.raises(ConfigurationError, match="64 hex digits"):
        load_node_key(tmp_path)


def test_a_credential_of_systemd_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadCredential hands the key over, and none is made."""
    (tmp_path / "node-key").write_text("ab" * 32)
    (tmp_path / "control").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_node_key(tmp_path / "control") == b"\xab" * 32
    assert not (tmp_path / "control" / NODE_KEY_NAME).exists()


def test_a_site_without_a_broker_makes_no_key(tmp_path: Path) -> None:
    """Whoever has no nodes has nothing to keep."""
    site = ControlSite(tmp_path)
    assert not (paths_of(site.config).control_dir / NODE_KEY_NAME).exists()
    site.crash()


@pytest.mark.slow
def test_a_restore_keeps_the_key_and_a_new_pc_is_told_that_it_is_missing(tmp_path: Path) -> None:
    """It is in no archive; the devices are."""
    (tmp_path / "site").mkdir()
    site = ControlSite(tmp_path / "site")
    site.read(1_000)
    key = load_node_key(paths_of(site.config).control_dir)
    record = DeviceRecord("node-1", DeviceStatus.APPROVED, "flat-1", 3, "1.0", 1, 1)
    with site.file.connection as connection:
        put_devices(connection, [record])
    made = backed_up(site, tmp_path / "off")
    assert [one.name for one in read_manifest(made.path).members if "key" in one.name] == []
    site.crash()
    options = RestoreOptions(made.path, older=True)
    done = restore_backup(site.config, site.clock, options, silent)
    assert load_node_key(paths_of(site.config).control_dir) == key
    assert [note for note in done.notes if "nodes are approved" in note] == []
    site.open()
    assert read_devices(site.file.connection) == {"node-1": record}
    site.crash()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(tmp_path / "new" / "config.yaml")
    done = restore_backup(config, site.clock, RestoreOptions(made.path), silent)
    (note,) = [note for note in done.notes if "nodes are approved" in note]
    assert str(paths_of(config).control_dir / NODE_KEY_NAME) in note
