"""Slips of vouchers as the command line shows them; loads a QR library, so only when needed."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.app.config import Config
from gateway.app.config_site import currency_of
from gateway.core.errors import RefusedError
from gateway.core.money import display_amount, parse_amount
from gateway.core.voucher_slip import Slip, slip_text


def shown_slip(
    config: Config, sold: Mapping[str, object], token: str, *, width: int, qr: bool
) -> str:
    """The slip of a voucher as the API shows it, with its QR code below where asked for."""
    currency = currency_of(config.site)
    sold_at = datetime.fromisoformat(str(sold["issued_at"]))
    slip = Slip(
        site=config.site.name,
        service_point=str(sold["service_point_id"]),
        amount=display_amount(parse_amount(sold["amount"], currency), currency),
        currency=currency.code,
        token=token,
        sold_at=f"{sold_at.astimezone(ZoneInfo(config.site.timezone)):%Y-%m-%d %H:%M}",
        reference=str(sold["payment_reference"]),
        note=config.vouchers.note,
    )
    text = slip_text(slip, width)
    if qr:
        from gateway.north.qr import qr_text

        text += qr_text(token)
    return text


def write_codes(token: str, files: Mapping[str, Path | None]) -> None:
    """Write the QR code to new files, by kind. Raises RefusedError FILE_EXISTS, FILE_REFUSED."""
    for kind, path in files.items():
        if path is None:
            continue
        from gateway.north.qr import write_qr

        try:
            write_qr(token, path, kind)
        except FileExistsError as error:
            raise RefusedError("FILE_EXISTS", f"{path} is there already") from error
        except OSError as error:
            raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error
