"""The commissioning report of a meter and of a site: JSON that is signed, a page that is read."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from gateway.app.commission.findings import SWITCH_PROOF, Result
from gateway.app.commission.run import ACCEPTED, PASSED, Examined
from gateway.app.commission.survey import Survey
from gateway.app.config import Config, MeterConfig
from gateway.app.control.polls import fail_safe_of
from gateway.app.paths import paths_of
from gateway.app.regular import open_regular
from gateway.app.site_key import KEY_NAME, PUBLIC_NAME, read_site_key, signature_fits
from gateway.core.errors import GatewayError, RefusedError
from gateway.core.ledger import canonical_json
from gateway.core.signing import Signer
from gateway.store.db import sync_directory

FORMAT: Final = "prepaid-gateway commissioning 1"
SITE_FORMAT: Final = "prepaid-gateway site commissioning 1"
ALGORITHM: Final = "Ed25519"
# No meter can be called so: ids are of small letters, digits and hyphens.
SITE_NAME: Final = "_site"
UNSIGNED: Final = "the report is not signed"
KEY_AWAY: Final = f"not compared with this site's key: {PUBLIC_NAME} cannot be read"
OUTDATED: Final = "the configuration changed since"
NO_REPORT: Final = "no report"
GOOD_VERDICTS: Final = frozenset({PASSED, ACCEPTED})
MAX_BYTES: Final = 4_000_000
MEASURED: Final = (
    *(f"voltage_l{phase}_n_v" for phase in (1, 2, 3)),
    *(f"current_l{phase}_a" for phase in (1, 2, 3)),
    *(f"active_power_l{phase}_w" for phase in (1, 2, 3)),
    *(f"reactive_power_l{phase}_var" for phase in (1, 2, 3)),
    *("active_power_total_w", "frequency_hz", "energy_import_t1_wh", "energy_import_t2_wh"),
    *("energy_export_t1_wh", "energy_export_t2_wh"),
)

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a signature is worth: `is_valid` against `public_key`; why not, in words."""

    is_valid: bool
    public_key: str
    problem: str = ""


def meter_report(
    config: Config, meter: MeterConfig, examined: Examined, *, by: str, at: str
) -> dict[str, object]:
    """A meter's report as plain JSON values. `at` is RFC 3339."""
    document: dict[str, object] = {
        "format": FORMAT,
        "site": config.site.id,
        "site_name": config.site.name,
        "meter": meter.meter_id,
        "service_point": meter.service_point_id,
        "address": _address(meter),
        "at": at,
        "by": by,
        "verdict": examined.verdict,
        "findings": [finding.as_json() for finding in examined.findings],
        "accepted": [
            {"check": code, "reason": why} for code, why in sorted(examined.accepted.items())
        ],
        "fixed": list(examined.fixed),
        "configured": _configured(meter),
    }
    if examined.seen is not None:
        document["found"] = _found(examined.seen)
    return document


def _address(meter: MeterConfig) -> str:
    return f"{meter.host}:{meter.settings.port} unit {meter.settings.unit}"


def _configured(meter: MeterConfig) -> dict[str, object]:
    settings = meter.settings
    # Not with hold_last, where it means nothing: reports from before it was known stay good.
    rule = fail_safe_of(meter)
    fail_safe = {} if rule is None else {"fail_safe_after_s": rule.after_s}
    return {
        "serial_number": meter.serial_number,
        "ct_ratio": settings.ct_ratio,
        "p_max_w": settings.p_max_w,
        "output": settings.output,
        "output_on": settings.output_on,
        "contactor": settings.contactor,
        "feedback": settings.feedback,
        "fail_safe": settings.fail_safe,
        **fail_safe,
        "sources": [settings.t1_source, settings.t2_source],
    }


def _found(seen: Survey) -> dict[str, object]:
    identity, settings, timing = seen.identity, seen.settings, seen.timing
    ratio = (settings.primary_current_a, settings.secondary_current_a)
    return {
        "manufacturer": identity.manufacturer,
        "device": identity.device_name,
        "firmware": identity.firmware,
        "order_number": identity.order_number,
        "serial_number": identity.serial_number,
        "connection": settings.connection,
        "ct_ratio": None if None in ratio else f"{ratio[0]}/{ratio[1]}",
        "tariff_input_use": settings.tariff_input_use,
        "output_mode": seen.output.mode,
        "remote_timeout_s": seen.output.remote_timeout_s,
        "measured": {name: _rounded(seen.last[name]) for name in MEASURED if name in seen.last},
        "round_trip_ms": [_rounded(value) for value in timing.round_trips_ms],
        "refresh_s": None if timing.refresh_s is None else _rounded(timing.refresh_s),
        "pipeline": timing.pipeline,
        "clock_offset_s": _rounded(seen.clock_offset_s),
    }


def _rounded(value: float) -> float | None:
    """Three decimals; a value that the meter leaves undefined is null."""
    return round(value, 3) if math.isfinite(value) else None


def signer_of(control_dir: Path) -> tuple[Signer | None, str]:
    """The site's key where this user may read it, else why not.

    Never makes a file: one that another user owns would lock control out of its own.
    """
    path = control_dir / KEY_NAME
    try:
        found = path.exists()
    except OSError as error:
        return None, f"{path}: {error.strerror}"
    if not found:
        return None, f"there is no {path}: run as the user of control, or on the gateway"
    if not os.access(path, os.R_OK):
        return None, f"this user may not read {path}"
    try:
        key = read_site_key(path)
        is_in_use = key.public_key().hex() == site_public_key(control_dir)
    except GatewayError as error:
        return None, str(error)
    if not is_in_use:
        return None, f"{path} is not the key of {PUBLIC_NAME} there: control has another one"
    return key, ""


def write_report(
    directory: Path, name: str, document: Document, page: str, signer: Signer | None
) -> Path:
    """Write NAME.json, signed where there is a key, and NAME.md; the JSON's path.

    Each file is replaced whole. Raises RefusedError REPORT_FILE.
    """
    signature: dict[str, str] | None = None
    if signer is not None:
        signature = {
            "algorithm": ALGORITHM,
            "public_key": signer.public_key().hex(),
            "value": signer.sign(canonical_json(document)).hex(),
        }
    signed = {"report": document, "signature": signature}
    path = directory / f"{name}.json"
    require_directory(directory)
    try:
        _replace(path, json.dumps(signed, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _replace(path.with_suffix(".md"), page)
    except OSError as error:
        raise RefusedError("REPORT_FILE", f"{error.filename or path}: {error.strerror}") from error
    return path


def require_directory(directory: Path) -> None:
    """Make the directory of the reports. Raises RefusedError REPORT_FILE where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError("REPORT_FILE", f"{directory}: {error.strerror}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RefusedError("REPORT_FILE", f"{directory}: this user may not write there")


def read_report(path: Path) -> tuple[Document, Mapping[str, object] | None]:
    """Report and signature of a file. Raises RefusedError REPORT_FILE where it is none."""
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_BYTES + 1)
        is_small = len(content) <= MAX_BYTES
        signed: Any = json.loads(content, object_pairs_hook=_object) if is_small else None
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError("REPORT_FILE", f"{path}: {error}") from error
    document, signature = (
        (signed.get("report"), signed.get("signature"))
        if isinstance(signed, dict)
        else (None, None)
    )
    if not isinstance(document, dict) or document.get("format") not in {FORMAT, SITE_FORMAT}:
        raise RefusedError("REPORT_FILE", f"{path}: no commissioning report of this program")
    return document, signature if isinstance(signature, dict) else None


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Of two values under one name a person may read the one, and the signature mean the other."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def verify(
    document: Document, signature: Mapping[str, object] | None, site_public_key: str | None
) -> Verified:
    """Whether a report is as it was signed, by the site's key where that is known (hex)."""
    if signature is None:
        return Verified(is_valid=False, public_key="", problem=UNSIGNED)
    public_key = str(signature.get("public_key"))
    try:
        key, value = bytes.fromhex(public_key), bytes.fromhex(str(signature.get("value")))
        message = canonical_json(document)
    except (ValueError, RecursionError):
        return Verified(
            is_valid=False, public_key=public_key, problem="the signature is not of its form"
        )
    if signature.get("algorithm") != ALGORITHM or not signature_fits(key, message, value):
        return Verified(
            is_valid=False,
            public_key=public_key,
            problem="the signature does not fit: the report was changed after it was signed",
        )
    if site_public_key is not None and site_public_key != public_key:
        return Verified(
            is_valid=False, public_key=public_key, problem="signed by another key than this site's"
        )
    return Verified(is_valid=True, public_key=public_key)


def verify_here(
    config: Config, document: Document, signature: Mapping[str, object] | None
) -> Verified:
    """As `verify`, against this site's key; never valid where that cannot be read."""
    wanted = site_public_key(paths_of(config).control_dir)
    checked = verify(document, signature, wanted)
    return (
        replace(checked, is_valid=False, problem=KEY_AWAY)
        if (checked.is_valid and wanted is None)
        else checked
    )


def site_public_key(control_dir: Path) -> str | None:
    """The site's public key in hex, None where this user cannot read it."""
    try:
        return (control_dir / PUBLIC_NAME).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def open_points(document: Document) -> list[str]:
    """What of a meter's report is left to do, by check."""
    accepted = {row["check"] for row in rows_of(document, "accepted")}
    left = [
        f"{row['check']} {row['result']}"
        for row in rows_of(document, "findings")
        if row["result"] == Result.NOT_DONE
        or (row["result"] == Result.FAILED and row["check"] not in accepted)
    ]
    return left + [f"{code} accepted" for code in sorted(map(str, accepted))]


@dataclass(frozen=True, slots=True)
class SiteRow:
    """What a meter's report is worth: `problem` says what is wrong with its signature."""

    meter: str
    verdict: str = NO_REPORT
    at: str = ""
    by: str = ""
    is_signed: bool = False
    problem: str = ""
    open_points: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the meter is done."""
        return self.verdict in GOOD_VERDICTS and self.is_signed

    @property
    def signature(self) -> str:
        """The signature in words."""
        return "yes" if self.is_signed else self.problem


def site_report(config: Config, rows: Sequence[SiteRow], at: str, by: str) -> dict[str, object]:
    """The report of a whole site from one row per configured meter."""
    done = sum(row.is_good for row in rows)
    return {
        "format": SITE_FORMAT,
        "site": config.site.id,
        "site_name": config.site.name,
        "at": at,
        "by": by,
        "meters": len(rows),
        "commissioned": done,
        "percent": done * 100 // len(rows) if rows else 0,
        "rows": [{**asdict(row), "open_points": list(row.open_points)} for row in rows],
    }


def site_rows(config: Config, directory: Path) -> list[SiteRow]:
    """What the reports in a directory say of every configured meter."""
    return [site_row(config, directory, meter) for meter in config.meters]


def site_row(config: Config, directory: Path, meter: MeterConfig) -> SiteRow:
    """What one meter's report says. A file that is none is a verdict too."""
    path = directory / f"{meter.meter_id}.json"
    if not path.exists():
        return SiteRow(meter.meter_id)
    try:
        document, signature = read_report(path)
        checked = verify_here(config, document, signature)
        if (document["site"], document["meter"]) != (config.site.id, meter.meter_id):
            return SiteRow(meter.meter_id, verdict="report of another meter")
        is_current = (document["address"], document["configured"]) == (
            _address(meter),
            _configured(meter),
        )
        return SiteRow(
            meter=meter.meter_id,
            verdict=str(document["verdict"]) if is_current else OUTDATED,
            at=str(document["at"]),
            by=str(document["by"]),
            is_signed=checked.is_valid,
            problem=checked.problem,
            open_points=tuple(open_points(document)),
        )
    except (RefusedError, KeyError, TypeError) as error:
        return SiteRow(meter.meter_id, verdict="unreadable report", problem=str(error))


def is_done(config: Config, directory: Path, meter: MeterConfig, *, with_load: bool) -> bool:
    """Whether a good report of a meter is there already, with a switch proof where asked.

    A report that nobody could sign counts, one with a signature that does not fit does not.
    """
    row = site_row(config, directory, meter)
    proved = not any(point.startswith(SWITCH_PROOF) for point in row.open_points)
    is_own = row.is_signed or row.problem in {UNSIGNED, KEY_AWAY}
    return row.verdict in GOOD_VERDICTS and is_own and (proved or not with_load)


def utc_text(utc_ms: int) -> str:
    """An instant as RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(utc_ms // 1000, UTC).isoformat().replace("+00:00", "Z")


def rows_of(document: Document, key: str) -> Sequence[Mapping[str, object]]:
    """A list of objects in a report."""
    return cast("Sequence[Mapping[str, object]]", document[key])


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    # "x": a link that somebody puts there is not written through.
    with temporary.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
