"""The whole ledger as lines of JSON that a stranger can check (`gateway/app/check_export.py`)."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from gateway.core.ledger import canonical_json, transaction_body
from gateway.core.money import Currency
from gateway.core.rates import rates_of
from gateway.core.tariff_document import tariff_from_document
from gateway.store.accounts import AccountPoint, all_points
from gateway.store.ledger import (
    ChainHead,
    ledger_head,
    read_balances,
    read_epoch,
    read_site,
    read_transactions,
)
from gateway.store.registry import TariffVersion, read_tariffs
from gateway.store.verify import slice_end

FORMAT: Final = "prepaid-gateway ledger 1"

Progress = Callable[[int, int], None]


def export_lines(
    connection: sqlite3.Connection, progress: Progress | None = None
) -> Iterator[bytes]:
    """The lines of an export, each with its newline; `connection` is in autocommit mode.

    First the site; then every transaction with its hash, and before the first that may use it each
    tariff version with the price of each rate cell (`version/feed_in`: of what is fed in) and each
    stay of an account at a point; at the
    end the head and the balances as they
    are stored. Reads in slices like `verify_ledger`, so that it may run beside the writer; what is
    posted meanwhile is part of it. `progress` is called between two slices with the transactions
    done and those there are. Raises ValueError, StoreCorruptError where the ledger cannot be read
    as one (`ledger verify` says where).
    """
    site = read_site(connection)
    currency = Currency(site.currency, site.money_scale, site.minor_digits).as_stored()
    yield _line(
        {
            "format": FORMAT,
            "site": site.site_id,
            "currency": site.currency,
            "money_scale": site.money_scale,
            "timezone": site.zone,
            "epoch": read_epoch(connection),
        }
    )
    done, written, stays = 0, set[tuple[str, int]](), 0
    while True:
        connection.execute("BEGIN")
        try:
            head = ledger_head(connection)
            last = slice_end(connection, done, head.seq)
            versions = _tariffs_beside(connection, written)
            begun = all_points(connection, stays)
            transactions = read_transactions(connection, done + 1, last)
            balances = read_balances(connection) if last >= head.seq else None
        finally:
            connection.execute("ROLLBACK")
        for version in versions:
            written.add((version.tariff_id, version.version))
            yield _tariff_line(version, currency)
        for stay in begun:
            yield _stay_line(stay)
        for seq, (transaction, link) in enumerate(transactions, start=done + 1):
            yield _line({"transaction": transaction_body(seq, transaction), "hash": link.hex()})
        done, stays = last, stays + len(begun)
        if progress is not None:
            progress(done, head.seq)
        if balances is not None:
            yield _end_line(head, balances)
            return


def _tariffs_beside(
    connection: sqlite3.Connection, written: Collection[tuple[str, int]]
) -> list[TariffVersion]:
    """The versions that are not written yet: none is ever changed or deleted."""
    if connection.execute("SELECT count(*) FROM tariff").fetchone()[0] == len(written):
        return []
    return [one for one in read_tariffs(connection) if (one.tariff_id, one.version) not in written]


def _tariff_line(version: TariffVersion, currency: Currency) -> bytes:
    rates = rates_of(tariff_from_document(version.document, currency, version=version.version))
    cells = {
        cell.key: price_micro
        for cell, price_micro in zip(rates.cells, rates.prices_micro, strict=True)
    }
    if rates.feed_in_micro:
        cells[f"{version.version}/feed_in"] = rates.feed_in_micro
    return _line(
        {
            "tariff": version.tariff_id,
            "version": version.version,
            "effective_from_utc_ms": version.effective_from_utc_ms,
            "document": version.document,
            "cells": cells,
        }
    )


def _stay_line(stay: AccountPoint) -> bytes:
    return _line(
        {
            "stay": stay.account_id,
            "service_point": stay.service_point_id,
            "tariff": stay.tariff_id,
            "from_utc_ms": stay.from_utc_ms,
        }
    )


def _end_line(head: ChainHead, balances: Mapping[str, int]) -> bytes:
    return _line({"head": head.hash.hex(), "seq": head.seq, "balances": balances})


def _line(record: Mapping[str, object]) -> bytes:
    return canonical_json(record) + b"\n"
