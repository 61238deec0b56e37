"""`supply`: limits, shedding and overrides, and restoring a whole site."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, ask, is_pending, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

MeterArgument = Annotated[str, typer.Argument(metavar="ID", help="The meter.")]
FeederArgument = Annotated[str, typer.Argument(metavar="FEEDER", help="The feeder.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")]
HoursOption = Annotated[
    float, typer.Option("--hours", min=0.01, max=72.0, help="How long from now.")
]
NO_LIMIT: Final = "0 is no limit."


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Limits, shedding, overrides.", no_args_is_help=True)
    group.command()(limit)
    group.command()(unlock)
    group.command()(shed)
    group.command("end-shed")(end_shed)
    group.command()(keep)
    group.command()(maintenance)
    group.command()(overrides)
    group.command("end-override")(end_override)
    group.command("restore-all")(restore_all)
    app.add_typer(group, name="supply")


def limit(
    meter: MeterArgument,
    config: ConfigOption,
    reason: ReasonOption,
    t1: Annotated[int, typer.Option("--t1", help=f"W while T1 (grid) counts. {NO_LIMIT}")],
    t2: Annotated[int, typer.Option("--t2", help=f"W while T2 (generator) counts. {NO_LIMIT}")],
    emergency: Annotated[
        int, typer.Option("--emergency", help=f"W while emergency credit is in use. {NO_LIMIT}")
    ] = 0,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Limit the power of a meter's point, in place of what the configuration says."""
    body = {
        "limit_t1_w": t1,
        "limit_t2_w": t2,
        "limit_emergency_w": emergency,
        "reason": reason,
    }
    done = f"{meter}: limited"
    tell(ask(config, "POST", f"/meters/{meter}/limits", body, key), done, as_json=as_json)


def unlock(
    meter: MeterArgument,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the lock-out of a point that went over its limit too often."""
    path, done = f"/meters/{meter}/overload-release", f"{meter}: unlocked"
    tell(ask(config, "POST", path, {"reason": reason}, key), done, as_json=as_json)


def shed(
    feeder: FeederArgument,
    config: ConfigOption,
    reason: ReasonOption,
    to: Annotated[int | None, typer.Option("--to", help="Shed down to so many W.")] = None,
    below: Annotated[
        int | None, typer.Option("--below-priority", help="Shed every lower priority.")
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shed load of a feeder until `end-shed`, the lowest priority first."""
    if (to is None) is (below is None):
        raise typer.BadParameter("give one of --to and --below-priority", param_hint="--to")
    body = {"to_w": to, "below_priority": below, "reason": reason}
    done = f"{feeder}: load is shed"
    tell(ask(config, "POST", f"/feeders/{feeder}/shedding", body, key), done, as_json=as_json)


def end_shed(
    feeder: FeederArgument,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End an order to shed: points come back one after the other."""
    path, done = f"/feeders/{feeder}/shedding/end", f"{feeder}: points come back"
    tell(ask(config, "POST", path, {"reason": reason}, key), done, as_json=as_json)


def keep(
    point: Annotated[str, typer.Argument(metavar="ID", help="The service point.")],
    config: ConfigOption,
    hours: HoursOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a supply from being cut for credit or shed; brings no supply back."""
    _override(config, "KEEP_CONNECTED", ("point", point), hours, reason, key, as_json=as_json)


def maintenance(
    config: ConfigOption,
    hours: HoursOption,
    reason: ReasonOption,
    feeder: Annotated[
        str, typer.Option("--feeder", help="The feeder; the whole site unless given.")
    ] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Suspend cuts for credit and shedding on a feeder or the site."""
    where = ("feeder", feeder) if feeder else ("site", "")
    _override(config, "MAINTENANCE", where, hours, reason, key, as_json=as_json)


def overrides(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the overrides that stand."""
    with local_client(config) as north:
        found = list(north.pages("/overrides"))
    if as_json:
        show_json({"items": found})
        return
    columns = ("number", "kind", "scope", "target", "until", "owner", "reason")
    rows = [tuple(item[column] for column in columns) for item in found]
    show_table("Overrides that stand", columns, rows)


def end_override(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As `overrides` shows it.")],
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End an override before its time: what it held back is cut."""
    path, done = f"/overrides/{number}/end", f"override {number} has ended"
    tell(ask(config, "POST", path, {"reason": reason}, key), done, as_json=as_json)


def restore_all(
    config: ConfigOption,
    hours: HoursOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be one of the two managers who bring every supply back that rules had cut."""
    body = {"until": _until(hours), "reason": reason}
    answer = ask(config, "POST", "/restoration", body, key)
    done = "supplies come back, one after the other"
    if not is_pending(answer) and not cast("dict[str, object]", answer["result"])["restored"]:
        done = "noted; a second, different manager has to ask within ten minutes"
    tell(answer, done, as_json=as_json)


def _override(
    config: Path,
    kind: str,
    where: tuple[str, str],
    hours: float,
    reason: str,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    scope, target = where
    body = {
        "kind": kind,
        "scope": scope,
        "target": target,
        "until": _until(hours),
        "reason": reason,
    }
    answer = ask(config, "POST", "/overrides", body, key)
    number = "" if is_pending(answer) else cast("dict[str, object]", answer["result"])["override"]
    tell(answer, f"override {number} stands until {body['until']}", as_json=as_json)


def _until(hours: float) -> str:
    """So many hours from now, RFC 3339 UTC."""
    from gateway.app.cli.serve import clock_of_environment

    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=clock_of_environment().utc_ms())
    return (now + timedelta(hours=hours)).isoformat(timespec="milliseconds")
