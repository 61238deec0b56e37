"""`status`, `recovery`, `doctor`, `request`: how the site is, what became of a wish, what next."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, ask, local_client, tell
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from gateway.app.clock import SystemClock
    from gateway.app.config import Config
    from gateway.app.doctor.findings import Finding

Answer = dict[str, object]
MAX_DIGITS: Final = 6


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(doctor)
    app.command("request")(show_request)
    group = typer.Typer(help="After a restore: look, then release.", no_args_is_help=True)
    group.command("show")(show_recovery)
    group.command("release")(release_recovery)
    app.add_typer(group, name="recovery")


def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the site on one screen; exit 0, or 1 while a process is away."""
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.status import status_of_files
    from gateway.core.errors import StoreAwayError

    try:
        with local_client(config) as north:
            found = north.call("GET", "/status")
    except StoreAwayError as error:
        complain(f"north is away, this is what the files tell: {error}")
        found = status_of_files(load_config(config), clock_of_environment()).model_dump(mode="json")
    if as_json:
        show_json(found)
    else:
        rows = list(_status_rows(found))
        show_table(f"{found['site']}, prepaid-gateway {found['version']}", ("what", "is"), rows)
    if found["control"] != "present" or found["north_since"] is None:
        raise typer.Exit(EXIT_FAILED)


def show_request(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The idempotency key.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Show who asked for something, when, as whom, and what became of it."""
    from urllib.parse import quote

    from gateway.app.cli.civil import Civil

    with local_client(config) as north:
        found = north.call("GET", f"/requests/{quote(key, safe='')}")
    if as_json:
        show_json(found)
        return
    civil = Civil(config)
    rows: list[tuple[str, object]] = [
        ("what", found["type"]),
        ("asked by", f"{found['made_by']} as {found['role']}, {found['source']}"),
        ("asked at", f"{civil.time(found['made_at'])} {civil.timezone}"),
        *((f"asked: {name}", value) for name, value in cast("Answer", found["asked"]).items()),
        ("state", found["state"]),
    ]
    if found["finished_at"] is not None:
        rows.append(("ended at", f"{civil.time(found['finished_at'])} {civil.timezone}"))
    if found["code"] is not None:
        rows.append(("refused", f"{found['code']}: {found['message']}"))
    result = cast("Answer | None", found["result"]) or {}
    rows += [(f"result: {name}", value) for name, value in result.items()]
    show_table(f"Request {key}", ("what", "is"), rows)


def show_recovery(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show whether the site is in RECOVERY, and what came of the requests since."""
    with local_client(config) as north:
        found = north.call("GET", "/recovery")
    if as_json:
        show_json(found)
        return
    standing = cast("Answer | None", found["standing"])
    if standing is None:
        typer.echo("not in RECOVERY: cuts for credit go on as always")
        return
    counts = cast("dict[str, int]", found["requests"])
    rows: list[tuple[str, object]] = [
        ("since", standing["since"]),
        ("reason", standing["reason"]),
        ("transactions brought back", standing["ledger_transactions"]),
        ("transactions known before", standing["known_transactions"] or "unknown"),
    ]
    rows += [(f"requests {state}", number) for state, number in sorted(counts.items())]
    show_table("RECOVERY: nobody is cut for credit", ("what", "is"), rows)
    refused = cast("list[Answer]", found["refused"])
    if refused:
        columns = ("key", "type", "code", "message")
        show_table(
            "Not carried out: look at each",
            columns,
            [tuple(item[column] for column in columns) for item in refused],
        )
    complain("next: compare accounts with receipts, then `prepaid-gateway recovery release`")


def release_recovery(
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="What was compared and put right.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be the manager who ends the RECOVERY: cuts for credit go on."""
    answer = ask(config, "POST", "/recovery/release", {"reason": reason}, key)
    tell(answer, "released: cuts for credit go on", as_json=as_json)


def doctor(
    config: ConfigOption,
    meters: Annotated[
        str, typer.Option("--meters", metavar="N|all", help="How many meters to connect to.")
    ] = "20",
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong or soon will be, with the next step; exit 1 for any problem."""
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.doctor.findings import Finding, fine, wrong
    from gateway.app.doctor.host import look_at_host
    from gateway.app.doctor.network import look_at_network
    from gateway.app.doctor.nodes import look_at_nodes
    from gateway.app.doctor.stores import look_at_stores
    from gateway.core.errors import ConfigurationError

    count = _count_of(meters)
    findings: list[Finding] = []
    try:
        found = load_config(config)
    except ConfigurationError as error:
        step = "Correct the file; `prepaid-gateway check` shows it again."
        findings = [wrong("configuration", problem, step) for problem in error.problems]
    else:
        clock = clock_of_environment()
        findings.append(fine("configuration", f"{config} is good, {len(found.meters)} meters."))
        for look in (look_at_host, look_at_stores, look_at_network, look_at_nodes):
            findings += look(found, clock)
        findings += _look_at_meters(found, clock, count, hidden=as_json)
    bad = any(finding.verdict == "problem" for finding in findings)
    if as_json:
        show_json({"ok": not bad, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:8} {finding.area}: {finding.sentence}")
            if finding.next_step:
                typer.echo(f"{'':8} → {finding.next_step}")
    if bad:
        raise typer.Exit(EXIT_FAILED)


def _look_at_meters(
    config: "Config", clock: "SystemClock", count: int | None, *, hidden: bool
) -> "list[Finding]":
    from rich.console import Console
    from rich.progress import Progress

    from gateway.app.cli.serve import run_loop
    from gateway.app.doctor.meters import look_at_meters

    with Progress(transient=True, disable=hidden, console=Console(stderr=True)) as bar:
        task = bar.add_task("asking meters", total=None)
        return run_loop(
            lambda: look_at_meters(
                config,
                clock,
                count,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        )


def _count_of(text: str) -> int | None:
    """`all` as None, a number as it is. Raises typer.BadParameter."""
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise typer.BadParameter(f"{text!r} is neither a number nor `all`", param_hint="--meters")
    return int(text)


def _status_rows(found: Answer) -> list[tuple[str, object]]:
    from gateway.app.doctor.findings import named

    recovery = cast("Answer | None", found["recovery"])
    halted = found["mass_cut_halted"]
    faults = cast("list[str]", found["faults"])
    rows: list[tuple[str, object]] = [
        ("control", _since(found["control"], found["control_since"])),
        ("north", _since("present" if found["north_since"] else "away", found["north_since"])),
        ("clock", _either(found["clock_trusted"], "trusted", "NOT TRUSTED")),
        ("ledger's chain", _either(found["chain_verified"], "verified", "not verified yet")),
        ("cuts for credit", "HALTED by the mass-cut breaker" if halted else "as they fall due"),
        ("meters", _counted(found["meters"])),
        ("meters away", named(cast("list[str]", found["meters_away"])) or "none"),
        ("points", _counted(found["points"])),
        ("blocked by", _counted(found["blocked"])),
        ("alarms of supplies", ", ".join(faults) or "none"),
        ("requests waiting", _known(found["requests_waiting"])),
    ]
    if recovery is not None:
        words = f"none: RECOVERY since {recovery['since']} ({recovery['reason']})"
        rows = [("cuts for credit", words) if row[0] == "cuts for credit" else row for row in rows]
    ledger = cast("Answer | None", found["ledger"])
    if ledger is None:
        rows.append(("ledger", "cannot be read"))
    else:
        rows += [
            ("last sweep", ledger["last_sweep_at"] or "never"),
            ("last posting", ledger["last_posting_at"] or "never"),
            ("transactions", ledger["transactions"]),
            ("chain head", f"{str(ledger['head'])[:16]}…"),
            ("open accounts", ledger["open_accounts"]),
        ]
    sizes = cast("Mapping[str, int] | None", found["store_bytes"]) or {}
    rows += [(f"{name} on disk", spoken_bytes(size)) for name, size in sizes.items()]
    free = cast("int | None", found["disk_free_bytes"])
    rows.append(("disk free", "unknown" if free is None else spoken_bytes(free)))
    rows.append(("readings", _either(found["telemetry_working"], "are kept", "ARE NOT KEPT")))
    return rows


def spoken_bytes(size: int) -> str:
    """A size for people, in powers of ten."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def _since(state: object, since: object) -> str:
    return f"{state} since {since}" if since else str(state)


def _either(value: object, yes: str, no: str) -> str:
    return "unknown" if value is None else (yes if value else no)


def _known(value: object) -> object:
    return "unknown" if value is None else value


def _counted(value: object) -> str:
    if value is None:
        return "unknown"
    counts = cast("Mapping[str, int]", value)
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"
