"""Field types of the configuration: what a text in the file has to be, and how to say it is not."""

import re
import stat
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo

from gateway.app.config_place import quote, unknown
from gateway.south.metering import NODE_MODEL
from gateway.south.models import model_names

ID_FORM: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
DEVICE_FORM: Final = r"^[a-z0-9][a-z0-9-]{1,31}$"
RATIO_FORM: Final = r"^[1-9][0-9]{0,4}/[15]$"
# Exact at both money scales, and within 64 bits.
SIX_DECIMALS_FORM: Final = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
AMOUNT_FORM: Final = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"
# sockaddr_un holds 107 characters; the longest name in the directory takes what is left.
RUNTIME_DIR_CHARACTERS: Final = 90
# What a pattern means, for a person who got it wrong.
FORMS: Final[Mapping[str, str]] = {
    ID_FORM: "1 to 63 small letters, digits and hyphens, no hyphen first",
    DEVICE_FORM: "2 to 32 small letters, digits and hyphens, no hyphen first",
    r"^[A-Z]{3}$": "the three capital letters of ISO 4217, such as INR",
    SIX_DECIMALS_FORM: "an amount such as 5000.00",
    RATIO_FORM: "primary over secondary amperes, the secondary 5 or 1, such as 200/5",
    AMOUNT_FORM: "a decimal number without a sign, such as 0.50",
    r"^[0-9]\.[0-9]$": "a channel, such as 0.0 (a spreadsheet shortens it to 0: format as text)",
}
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_-]+)*", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        by_small = {zone.lower(): zone for zone in available_timezones()}
        close = get_close_matches(name.lower(), by_small, n=1, cutoff=0.6)
        example = by_small[close[0]] if close else "Asia/Kolkata"
        remedy = f"did you mean {example!r}?" if close else f"expected one such as {example!r}"
        raise ValueError(f"unknown time zone {quote(name)}: {remedy}") from error
    return name


def _host(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    # Digits and dots alone are a mistyped address: no resolver may be asked for it.
    if _HOST.fullmatch(name) is None or re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{quote(name)} is neither an IP address nor a host name")
    return name.lower()


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError(f"{quote(text)} is not an IP address") from error


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"{quote(text)} holds a control character")
    return text


def _money_scale(scale: int) -> int:
    if scale not in {6, 9}:
        raise ValueError(f"is {scale}: expected 9, or 6 for currencies of large amounts")
    return scale


def _meter_model(name: str) -> str:
    if name != NODE_MODEL and name not in model_names():
        raise ValueError(unknown("meter model", name, (*model_names(), NODE_MODEL)))
    return name


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path())
    return Path(base / path)


def _room_for_sockets(path: Path, info: ValidationInfo) -> Path:
    found = _absolute(path, info)
    if len(str(found)) > RUNTIME_DIR_CHARACTERS:
        raise ValueError(
            f"{quote(str(found))} is longer than {RUNTIME_DIR_CHARACTERS} characters: the names of "
            "its sockets need room"
        )
    return found


def may_be_file(path: Path) -> bool:
    """False only when there is surely no file.

    `check` may run as another user than the one that may enter a directory of secrets.
    """
    try:
        return path.is_file()
    except PermissionError:
        return True


def _existing_file(path: Path, info: ValidationInfo) -> Path:
    found = _absolute(path, info)
    if not may_be_file(found):
        raise ValueError(f"there is no file {str(found)!r}")
    return found


def _private_file(path: Path, info: ValidationInfo) -> Path:
    found = _existing_file(path, info)
    try:
        mode = found.stat().st_mode
    except OSError:
        return found
    if mode & stat.S_IRWXO:
        raise ValueError(f"{str(found)!r} is open to everybody: chmod o= {found.name}")
    return found


def split_listener(text: str) -> tuple[str, int]:
    """`address:port` as address and port; an IPv6 address stands in brackets.

    Raises ValueError when it is anything else: a name would be looked up, and could move.
    """
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address("127.0.0.1" if bare == "localhost" else bare)
    except ValueError:
        address = None
    if not separator or address is None or (address.version == 6) != (bare != host):
        raise ValueError(f"{quote(text)} is not address:port, such as 127.0.0.1:8080")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ValueError(f"{quote(text)} has no port within 1 … 65535")
    return str(address), int(port)


def is_loopback(text: str) -> bool:
    """Whether a listener is reachable from this machine only."""
    return ip_address(split_listener(text)[0]).is_loopback


def is_own_host(name: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


DeviceId = Annotated[str, StringConstraints(pattern=DEVICE_FORM)]
Identifier = Annotated[str, StringConstraints(pattern=ID_FORM)]
CurrencyCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Channel = Annotated[str, StringConstraints(pattern=r"^[0-9]\.[0-9]$")]
AmountText = Annotated[str, StringConstraints(pattern=AMOUNT_FORM)]
TransformerRatio = Annotated[str, StringConstraints(pattern=RATIO_FORM)]
SixDecimals = Annotated[str, StringConstraints(pattern=SIX_DECIMALS_FORM)]
OneLine = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]
OptionalLine = Annotated[str, StringConstraints(max_length=200), AfterValidator(_one_line)]
Zone = Annotated[str, AfterValidator(_zone)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_host)]
Address = Annotated[str, AfterValidator(_address)]
MoneyScale = Annotated[int, AfterValidator(_money_scale), Field(json_schema_extra={"enum": [6, 9]})]
AnyModel = Annotated[str, AfterValidator(_meter_model)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Directory = Annotated[Path, AfterValidator(_absolute)]
RuntimeDirectory = Annotated[Path, AfterValidator(_room_for_sockets)]
ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
PrivateFile = Annotated[Path, AfterValidator(_private_file)]
