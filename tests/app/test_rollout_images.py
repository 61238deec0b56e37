"""Images that a site takes: signed with a key of its configuration, few, durable, in the backup."""

import sqlite3
from pathlib import Path

import pytest

from gateway.app.config import load_config
from gateway.app.firmware.bundle import Release, pack, read_bundle, sign
from gateway.app.paths import paths_of
from gateway.core.errors import ConfigurationError
from gateway.core.requests import AddImage, RemoveImage, Role
from gateway.core.rollout_plan import IMAGES_MAX
from gateway.store.backup import copy_store, opened_copy
from gateway.store.firmware import read_image_bytes, read_images
from gateway.store.ledger import LEDGER
from tests.app.rollout_site import CONFIG, RolloutSite
from tests.firmware.releases import bundle, key

pytestmark = pytest.mark.slow

NEW = bundle("2.0.0", 1)


async def test_an_image_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Form, every file, purpose and signature; nothing of what is refused stays."""
    site = RolloutSite(tmp_path, 1883, 1)
    forged, damaged = bytearray(NEW.raw), bytearray(NEW.raw)
    forged[-400] ^= 1
    unsigned = read_bundle(pack(Release("esp32-pzem-1", "2.0.0", 1), NEW.files))
    other = read_bundle(pack(Release("esp32-pzem-1", "2.0.0", 1, product="another"), NEW.files))
    for raw, code in (
        (bundle("2.0.0", 1, "next").raw, "BUNDLE_FORGED"),
        (unsigned.raw, "BUNDLE_UNSIGNED"),
        (sign(other, key("current")), "BUNDLE_INVALID"),
        (bytes(forged), "BUNDLE_INVALID"),
        (NEW.raw[:-1], "BUNDLE_INVALID"),
        (NEW.raw + b"x", "BUNDLE_INVALID"),
        (b"PGN1", "BUNDLE_INVALID"),
        (b"{}", "BUNDLE_INVALID"),
    ):
        assert (await site.add_raw(raw), code) == (code, code)
    damaged[100] ^= 1  # within the header, under the signature
    assert await site.add_raw(bytes(damaged)) in ("BUNDLE_FORGED", "BUNDLE_INVALID")
    assert read_images(site.file.connection) == {}
    site.crash()


async def test_bytes_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """An upload that is gone, another size, and whatever else stands in north's file."""
    site = RolloutSite(tmp_path, 1883, 1)
    await site.do(AddImage(NEW.sha256, len(NEW.raw)), Role.MANAGER, "a-1")
    assert site.code("a-1") == "IMAGE_MISSING"
    assert await site.add(NEW, size=5) == "IMAGE_MISSING"
    with sqlite3.connect(paths_of(site.config).north_dir / "north.db") as north:
        north.execute("DROP TABLE upload_part")
        north.execute("CREATE TABLE upload_part (upload, number, content)")
        north.execute("INSERT INTO upload_part SELECT id, 0, 'text' FROM upload")
    await site.do(AddImage(NEW.sha256, len(NEW.raw)), Role.MANAGER, "a-2")
    assert site.code("a-2") == "IMAGE_MISSING"
    site.crash()


async def test_images_are_few_survive_and_are_in_the_backup(tmp_path: Path) -> None:
    """Twice the same is one; two of one version cannot be told apart; a restart forgets none."""
    site = RolloutSite(tmp_path, 1883, 1)
    assert await site.add(NEW) == ""
    assert await site.add(NEW) == ""
    assert await site.add(bundle("2.0.0", 2)) == "IMAGE_VERSION"
    for number in range(1, IMAGES_MAX):
        assert await site.add(bundle(f"3.{number}.0", 1)) == ""
    assert await site.add(bundle("4.0.0", 1)) == "IMAGES_FULL"
    site.restart()
    assert len(site.nodes.rollouts.images) == IMAGES_MAX
    assert site.events("FIRMWARE_IMAGE_ADDED") == [("site", "notice")] * IMAGES_MAX
    await site.do(RemoveImage(NEW.sha256), Role.TECHNICIAN, "d-1")
    await site.do(RemoveImage(NEW.sha256), Role.TECHNICIAN, "d-2")
    assert (site.code("d-1"), site.code("d-2")) == ("", "IMAGE_UNKNOWN")
    assert await site.add(bundle("4.0.0", 1)) == ""
    copy = tmp_path / "copy.db"
    copy_store(paths_of(site.config).ledger, copy, LEDGER)
    with opened_copy(copy, LEDGER) as connection:
        found = read_images(connection)
        raw = bundle("4.0.0", 1).raw
        assert len(found) == IMAGES_MAX
        assert read_image_bytes(connection, bundle("4.0.0", 1).sha256) == raw
    site.crash()


async def test_without_keys_no_image_is_taken(tmp_path: Path) -> None:
    """A site that names no key cannot be given firmware by anybody."""
    site = RolloutSite(tmp_path, 1883, 1)
    path = tmp_path / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[firmware.pem.pub]", "[]"), encoding="utf-8")
    site.config = load_config(path)
    site.restart()
    assert await site.add(NEW) == "IMAGE_KEYS_MISSING"
    site.crash()


def test_a_key_that_is_none_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    """Named with the key's place in the file."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(port=1883) + "  - {id: flat-1, model: pzem-node}\n", "utf-8")
    (tmp_path / "firmware.pem.pub").write_text("no key", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"south\.firmware\.public.*not a public key"):
        load_config(path)
