"""What a bench puts on boards: bench.json and all it names, checked before the first board."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.app.firmware.bundle import Bundle, read_bundle
from gateway.app.firmware.image import IMAGE_OFFSET, make_image, node_files
from gateway.app.firmware.signing import load_public, read_file
from gateway.app.firmware.sources import firmware_directory
from gateway.app.node_key import NODE_KEY_NAME, load_node_key
from gateway.core.errors import ConfigurationError, RefusedError, StoreError
from gateway.core.sealing import device_secret, portal_password

# An ESP32's first boot loader stands here; MicroPython's images begin with it.
BASE_OFFSET: Final = 0x1000
# NVS keeps more, in pieces; a chain of two certificates has about 4,000 characters.
CA_MAX: Final = 6_000
WITHOUT_TIME: Final = (
    "BENCH_NTP: broker.ca without broker.ntp: a new board does not know what day it is and may "
    "take the broker's certificate for a bad one; name a time server that nodes reach "
    "(docs/broker.md)"
)

# In place of a pattern or of pydantic's words, by key or kind of error.
_EXPECTED: Final = {
    "base.sha256": "expected 64 hex digits in small letters: sha256sum FILE",
    "wifi.password": "expected 8 to 63 characters, or none for an open network",
    "serials": "expected 1 to 12 capital letters, digits and hyphens",
    "extra_forbidden": "unknown key",
    "missing": "is missing",
}

_Pin = Annotated[int, Field(ge=0, le=39)]
_Text = Annotated[str, Field(min_length=1, max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseImage(_Strict):
    """MicroPython for the ESP32, supplied by the operator and pinned by its hash."""

    image: Path
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    offset: int = Field(default=BASE_OFFSET, ge=0, lt=IMAGE_OFFSET, multiple_of=0x1000)


class Wifi(_Strict):
    """The network of the site; an open one has an empty password."""

    ssid: Annotated[str, Field(min_length=1, max_length=32)]
    password: Annotated[str, Field(pattern=r"^(.{8,63})?$")] = ""


class Broker(_Strict):
    """Where nodes report. `ca`: PEM file of who signed its certificate; without it no TLS.

    `ntp`: time server. A certificate is good or not at a time, and a new board knows none.
    """

    host: _Text
    port: int = Field(default=8883, ge=1, le=65_535)
    ca: Path | None = None
    ntp: _Text | None = None


class Relay(_Strict):
    """The relay's pin, and the level that closes it."""

    pin: _Pin = 26
    closes: int = Field(default=1, ge=0, le=1)


class Meter(_Strict):
    """The UART of the PZEM and its pins."""

    uart: int = Field(default=2, ge=0, le=2)
    tx: _Pin = 17
    rx: _Pin = 16


class Tests(_Strict):
    """What a board is tested for. `relay`: it may move; nothing but a test load hangs on it."""

    meter: bool = True
    wifi: bool = True
    relay: bool = False


class BenchFile(_Strict):
    """bench.json; paths are relative to it."""

    base: BaseImage
    release: Path
    public: list[Path] = Field(min_length=1, max_length=2)
    firmware: Path | None = None
    node_key: Path
    wifi: Wifi
    broker: Broker
    record: Path = Path("boards.jsonl")
    serials: Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,12}$")] = "PG-"
    relay: Relay = Relay()
    meter: Meter = Meter()
    tests: Tests = Tests()


@dataclass(frozen=True)
class Bench:
    """A bench whose files were all read and checked."""

    file: BenchFile
    base: bytes
    bundle: Bundle
    files: Mapping[str, bytes]
    image: bytes
    ca: str
    node_key: bytes
    record: Path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will work at the bench and may not at the site; each begins with its code."""
        if self.ca and self.file.broker.ntp is None:
            return (WITHOUT_TIME,)
        return ()

    @property
    def base_sha256(self) -> str:
        """Of the base image, in hex."""
        return self.file.base.sha256

    @property
    def image_sha256(self) -> str:
        """Of the file system image, in hex."""
        return hashlib.sha256(self.image).hexdigest()

    def settings_of(self, device_id: str, generation: int, utc_ms: int) -> dict[str, bytes]:
        """What the node keeps in its NVS, by key; holds secrets.

        `utc_ms` is now: a new node dates the broker's certificate by it until it is told the time.
        """
        wifi, broker, relay = self.file.wifi, self.file.broker, self.file.relay
        return {
            "device_id": device_id.encode(),
            "secret": device_secret(self.node_key, device_id, generation),
            "wifi": _json({"ssid": wifi.ssid, "password": wifi.password}),
            "broker": _json(
                {"host": broker.host, "port": broker.port, "ca": self.ca}
                | ({"ntp": broker.ntp} if broker.ntp else {})
            ),
            "hardware": self.bundle.release.hardware.encode(),
            "security": self.bundle.release.security.to_bytes(4, "big"),
            "relay_pin": bytes([relay.pin, relay.closes]),
            "time": (utc_ms // 1_000).to_bytes(4, "big"),
        }

    def setup_secret(self, device_id: str, generation: int) -> str:
        """The password of the node's set-up portal, for its label."""
        return portal_password(device_secret(self.node_key, device_id, generation))


def load_bench(path: Path) -> Bench:
    """Read bench.json and all that it names.

    Raises RefusedError BENCH_INVALID, FILE_REFUSED, KEY_REFUSED, IMAGE_REFUSED, FIRMWARE_TOOL,
    BUNDLE_INVALID, BUNDLE_UNSIGNED, BUNDLE_FORGED.
    """
    file = read_bench(path)
    folder = path.parent
    base = read_file(folder / file.base.image)
    found = hashlib.sha256(base).hexdigest()
    if found != file.base.sha256:
        raise RefusedError(
            "IMAGE_REFUSED", f"{file.base.image} has SHA-256 {found}, {path} names another"
        )
    if file.base.offset + len(base) > IMAGE_OFFSET:
        raise RefusedError("IMAGE_REFUSED", f"{file.base.image} reaches into the file system")
    bundle = _signed_bundle(folder, file)
    firmware = firmware_directory() if file.firmware is None else folder / file.firmware
    files = node_files(firmware, bundle)
    ca = ""
    if file.broker.ca is not None:
        ca = read_file(folder / file.broker.ca).decode("ascii", "replace")
        if "BEGIN CERTIFICATE" not in ca or len(ca) > CA_MAX:
            raise RefusedError(
                "BENCH_INVALID", f"{file.broker.ca}: no certificate in PEM of at most {CA_MAX} B"
            )
    return Bench(
        file=file,
        base=base,
        bundle=bundle,
        files=files,
        image=make_image(files),
        ca=ca,
        node_key=read_node_key(folder / file.node_key),
        record=folder / file.record,
    )


def read_bench(path: Path) -> BenchFile:
    """bench.json alone; it holds the Wi-Fi password, so nobody else may read it.

    Raises RefusedError BENCH_INVALID, FILE_REFUSED.
    """
    if not path.exists():
        raise RefusedError(
            "FILE_REFUSED", f"{path} is not there: docs/flashing.md shows what to write into it"
        )
    content = read_file(path)
    if path.stat().st_mode & 0o077:
        raise RefusedError("BENCH_INVALID", f"others may read {path}: chmod 600 {path}")
    try:
        return BenchFile.model_validate(json.loads(content))
    except ValidationError as error:
        raise RefusedError("BENCH_INVALID", f"{path}: {_problems(error)}") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError("BENCH_INVALID", f"{path} is not JSON: {error}") from error


def read_node_key(path: Path) -> bytes:
    """The site's node key, which is never made here: the gateway would have another.

    Raises RefusedError KEY_REFUSED.
    """
    if path.name != NODE_KEY_NAME or not path.is_file():
        raise RefusedError(
            "KEY_REFUSED",
            f"{path}: no {NODE_KEY_NAME} there; copy the one of control's directory on the "
            "gateway's PC",
        )
    try:
        return load_node_key(path.parent)
    except ConfigurationError as error:
        raise RefusedError("KEY_REFUSED", "; ".join(error.problems)) from error
    except StoreError as error:
        raise RefusedError("KEY_REFUSED", str(error)) from error


def _problems(error: ValidationError) -> str:
    """Every problem with its key, in words. Never the value: it may be a password."""
    told = []
    for one in error.errors(include_input=False, include_url=False):
        place = ".".join(str(step) for step in one["loc"])
        plain = _EXPECTED.get(place if one["type"] == "string_pattern_mismatch" else one["type"])
        told.append(f"{place or 'it'}: {plain or one['msg']}")
    return "; ".join(told)


def _signed_bundle(folder: Path, file: BenchFile) -> Bundle:
    try:
        bundle = read_bundle(read_file(folder / file.release))
    except RefusedError as error:
        if error.refusal_code != "BUNDLE_INVALID":
            raise
        raise RefusedError("BUNDLE_INVALID", f"{file.release}: {error.message}") from error
    if not bundle.is_signed:
        raise RefusedError("BUNDLE_UNSIGNED", f"{file.release} is not signed")
    if bundle.signer([load_public(folder / path) for path in file.public]) is None:
        raise RefusedError("BUNDLE_FORGED", f"{file.release} is signed with none of the keys")
    return bundle


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
