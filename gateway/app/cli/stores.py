"""`init` and `ledger`: the stores."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, cast

import typer

from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.store.db import Connection
    from gateway.store.replay import ReplayReport

# What customers paid and used is their own.
PRIVATE_MODE: Final = 0o600
# Beside an export: needs no more than a Python.
CHECKER: Final = "check_export.py"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    group = typer.Typer(help="Proof of the ledger.", no_args_is_help=True)
    group.command()(verify)
    group.command()(export)
    group.command()(audit)
    app.add_typer(group, name="ledger")


def audit(
    config: ConfigOption,
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, max=10_000, help="How many, newest first.")
    ] = 20,
    actor: Annotated[str, typer.Option("--actor", help="Only what this one did or tried.")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log: who did what, and what was refused with its place."""
    from gateway.app.cli.local import local_client

    found: list[dict[str, object]] = []
    with local_client(config) as north:
        for one in north.pages("/audit-log"):
            record = cast("dict[str, object]", one["record"])
            told = record.get("result", "")
            if actor not in ("", record.get("actor")) or (refused and told in ("", "executed")):
                continue
            found.append(one)
            if len(found) == last:
                break
    if as_json:
        show_json(found)
        return
    columns = ("seq", "at", "actor", "action", "about", "result", "place")
    show_table("Audit log", columns, [_audit_row(one) for one in found])


def _audit_row(one: dict[str, object]) -> list[object]:
    record = cast("dict[str, object]", one["record"])
    about = record.get("object")
    words = " ".join(map(str, about.values())) if isinstance(about, dict) else about or ""
    told = [record.get(name) or "" for name in ("actor", "action", "result", "place")]
    return [one["seq"], one["at"], told[0], told[1], f"{words:.60}", told[2], told[3]]


def init(config: ConfigOption) -> None:
    """Create the stores of a new installation, once."""
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.stores import create_stores

    for path in create_stores(load_config(config), clock_of_environment()):
        typer.echo(f"created {path}")


def verify(
    config: ConfigOption,
    as_json: JsonOption = False,
    since_checkpoint: Annotated[
        bool,
        typer.Option("--since-checkpoint", help="Only what came after the last signed checkpoint."),
    ] = False,
    chain_only: Annotated[
        bool,
        typer.Option("--chain-only", help="Leave out SQLite's own check of every page."),
    ] = False,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Compute every transaction again, from the beginning."),
    ] = False,
) -> None:
    """Prove the ledger: chain, sums, checkpoints, registers against charges. Exit 0 or 1."""
    from rich.progress import Progress

    from gateway.app.checkpoints import published_trust
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.store.checkpoints import trusted_checkpoint
    from gateway.store.db import check_whole, open_reader
    from gateway.store.ledger import LEDGER
    from gateway.store.verify import verify_ledger

    paths = paths_of(load_config(config))
    connection = open_reader(paths.ledger, LEDGER)
    base, newer_problems = None, list[str]()
    try:
        with Progress(transient=True, disable=as_json) as bar:
            task = bar.add_task("verifying", total=None)
            trust = published_trust(paths.control_dir)
            if not chain_only:
                check_whole(connection, paths.ledger)
            if since_checkpoint and trust is not None:
                base, newer_problems = trusted_checkpoint(connection, trust)
            report = verify_ledger(
                connection,
                lambda done, total: bar.update(task, completed=done, total=total),
                since=base,
                trust=trust,
            )
            replayed = _replay(connection, bar) if replay else None
    finally:
        connection.close()
    problems = [*dict.fromkeys([*newer_problems, *report.problems])]
    foreign = _foreign(report.foreign_checkpoints, paths.control_dir / "former-keys")
    facts: dict[str, object] = {
        "ok": not problems and not foreign and (replayed is None or replayed.proved),
        "since": base.day if base is not None else None,
        "transactions": report.transactions,
        "checkpoints": report.checkpoints,
        "problems": problems,
        "problem_count": max(report.problem_count, len(problems)),
        "foreign_checkpoints": list(report.foreign_checkpoints),
        "head": report.head.hash.hex(),
    }
    if as_json:
        show_json(facts if replayed is None else {**facts, "replay": _replay_facts(replayed)})
    else:
        complain(*problems, *foreign[-3:])
        _show_proof(facts)
        _show_replay(replayed)
    if not facts["ok"]:
        raise typer.Exit(EXIT_FAILED)


def export(
    config: ConfigOption,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")
    ],
) -> None:
    """Write the whole ledger to a file that anybody can check, and the script that checks it."""
    from rich.progress import Progress

    from gateway.app import check_export
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.core.errors import RefusedError
    from gateway.store.db import open_reader
    from gateway.store.export import export_lines
    from gateway.store.ledger import LEDGER

    checker = file.with_name(CHECKER)
    if file == checker:
        raise RefusedError("FILE_EXISTS", f"{file} is the checker's name")
    ledger = paths_of(load_config(config)).ledger
    with closing(open_reader(ledger, LEDGER)) as connection, _created(file) as stream:
        with Progress(transient=True) as bar:
            task = bar.add_task("exporting", total=None)
            stream.writelines(
                export_lines(
                    connection, lambda done, total: bar.update(task, completed=done, total=total)
                )
            )
        checker.write_bytes(Path(check_export.__file__).read_bytes())
    typer.echo(f"wrote {file}; anybody checks it with: python3 {checker} {file}")


@contextmanager
def _created(file: Path) -> Iterator[BinaryIO]:
    """A new file of its owner's, which is there in the end if nothing was raised."""
    from gateway.core.errors import RefusedError

    try:
        stream = open(file, "xb", opener=partial(os.open, mode=PRIVATE_MODE))  # noqa: SIM115
    except FileExistsError as error:
        raise RefusedError("FILE_EXISTS", f"{file} is there already") from error
    except OSError as error:
        raise RefusedError("EXPORT_FAILED", f"{file}: {error}") from error
    try:
        with stream:
            yield stream
    except (OSError, ValueError) as error:
        file.unlink(missing_ok=True)
        raise RefusedError("EXPORT_FAILED", f"{file}: {error}") from error
    except BaseException:
        # What is half written proves nothing.
        file.unlink(missing_ok=True)
        raise


def _show_proof(facts: dict[str, object]) -> None:
    show_table(
        "Ledger",
        ("what", "value"),
        [
            ("proved since", facts["since"] or "the beginning"),
            ("transactions", facts["transactions"]),
            ("checkpoints", facts["checkpoints"]),
            ("chain head", f"{str(facts['head'])[:16]}…"),
            ("problems", facts["problem_count"]),
        ],
    )


def _foreign(days: Iterable[str], former: Path) -> list[str]:
    return [
        f"the checkpoint of {day} was signed with a key that is not known as this site's: if its "
        f"PC was replaced, write the former public key into {former}"
        for day in days
    ]


def _replay(connection: "Connection", bar: "Progress") -> "ReplayReport":
    from gateway.store.replay import replay_ledger

    task = bar.add_task("computing again", total=None)
    return replay_ledger(
        connection, lambda done, total: bar.update(task, completed=done, total=total)
    )


def _replay_facts(report: "ReplayReport") -> dict[str, object]:
    return {
        "transactions": report.transactions,
        "difference_count": report.difference_count,
        "differences": [
            {
                "seq": one.seq or None,
                "what": one.what,
                "account": one.account or None,
                "found_nano": one.found_nano,
                "expected_nano": one.expected_nano,
            }
            for one in report.differences
        ],
        "unproved": dict(report.unproved),
        "balances": [
            {"account": name, "found_nano": found_nano, "expected_nano": expected_nano}
            for name, (found_nano, expected_nano) in report.balances.items()
        ],
    }


def _show_replay(report: "ReplayReport | None") -> None:
    if report is None:
        return
    complain(*(difference.words for difference in report.differences))
    show_table(
        "Replay",
        ("what", "value"),
        [
            ("computed again", report.transactions),
            ("differences", report.difference_count),
            *((f"taken as they stand: {reason}", n) for reason, n in report.unproved.items()),
        ],
    )
    if report.balances:
        show_table(
            "Balances, in the smallest unit kept",
            ("account", "is", "computed again"),
            [(name, *both) for name, both in report.balances.items()],
        )
