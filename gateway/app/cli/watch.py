"""`meter feeders`, `meter suspicions`, `meter acknowledge`: what is watched."""

from typing import Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, ask, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

Answer = dict[str, object]
MINUTES_MAX: Final = 480


def add_to(group: typer.Typer) -> None:
    """Add the commands to `meter`."""
    group.command()(feeders)
    group.command()(suspicions)
    group.command()(acknowledge)


def feeders(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show feeders with a check meter: what went in, what the meters behind counted, the loss."""
    with local_client(config) as north:
        found = north.call("GET", "/feeders")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    columns = ("feeder", "half hour", "supplied Wh", "used Wh", "loss Wh", "loss %", "alarm")
    show_table("Feeders", columns, [_row(item) for item in items])


def suspicions(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show signs of tampering that nobody answered for, and suspect current transformers."""
    with local_client(config) as north:
        found = north.call("GET", "/suspicions")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    show_table(
        "Suspicions",
        ("meter", "kind", "what", "since", "detail"),
        [
            (one["meter_id"], one["kind"], one["what"], one["since"] or "", one["detail"])
            for one in items
        ],
    )


def acknowledge(
    meter: Annotated[str, typer.Argument(metavar="ID", help="The meter.")],
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="What was found or done; it is kept.")],
    minutes: Annotated[
        int,
        typer.Option(
            "--minutes",
            min=0,
            max=MINUTES_MAX,
            help="Announce work instead: changes of the next so many minutes are yours.",
        ),
    ] = 0,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer for signs of tampering at a meter, or announce work at it."""
    body = {"reason": reason, "for_s": 60 * minutes}
    path = f"/meters/{meter}/changes-acknowledgement"
    answer = ask(config, "POST", path, body, key)
    done = f"{meter}: announced for {minutes} minutes" if minutes else f"{meter}: acknowledged"
    tell(answer, done, as_json=as_json)


def _row(feeder: Answer) -> tuple[object, ...]:
    last = cast("Answer | None", feeder["last"])
    alarm = feeder["alarm"] or ""
    if last is None:
        return (feeder["id"], "none yet", "", "", "", "", alarm)
    doubtful = cast("list[str]", last["doubtful_meters"])
    percent = last["loss_percent"]
    judged = "" if percent is None else percent
    if doubtful:
        judged = f"not judged: {len(doubtful)} meters"
    figures = (last["supplied_wh"], last["used_wh"], last["loss_wh"])
    return (feeder["id"], last["start_at"], *figures, judged, alarm)
