"""`firmware rollout`: an image for the nodes of a site, stage by stage."""

import time
from typing import Annotated, Final, Self, cast

import typer

from gateway.app.cli.civil import Civil
from gateway.app.cli.firmware_image import ImageArgument, image_named
from gateway.app.cli.local import KeyOption, ask, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

Answer = dict[str, object]
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Number of the roll-out.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept.")]
FOLLOW_EVERY_S: Final = 1.0
# What of a device counts as how much of its way.
SHARE: Final = {"waiting": 0.0, "offered": 0.02, "installing": 0.8, "trial": 0.9}
FETCHED: Final = 0.75
ENDED: Final = ("stopped", "completed")
UNDER_WAY: Final = ("offered", "fetching", "installing", "trial")


def register(group: typer.Typer) -> None:
    """Add `rollout` to `firmware`."""
    rollout = typer.Typer(help="Bring an image to nodes in stages.", no_args_is_help=True)
    rollout.command()(begin)
    rollout.command("list")(list_rollouts)
    rollout.command()(show)
    rollout.command()(pause)
    rollout.command()(resume)
    rollout.command()(stop)
    group.add_typer(rollout, name="rollout")


def begin(
    image: ImageArgument,
    config: ConfigOption,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Only this one; repeatable, in the order of turns."),
    ] = None,
    stages: Annotated[
        str, typer.Option("--stages", help="Percentages, the last 100; 0 is one device.")
    ] = "0,10,100",
    observe_minutes: Annotated[
        int, typer.Option("--observe-minutes", min=0, help="Without a failure between stages.")
    ] = 60,
    failures_max: Annotated[
        int, typer.Option("--failures-max", min=1, help="So many failures stop it.")
    ] = 1,
    parallel_max: Annotated[
        int, typer.Option("--parallel-max", min=1, max=16, help="So many devices at once.")
    ] = 4,
    offline_minutes: Annotated[
        int,
        typer.Option("--offline-minutes", min=1, help="A stage waits so long for absent devices."),
    ] = 60,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin to bring an image to all approved nodes, or to those named; first to one of them."""
    with local_client(config) as north:
        body: Answer = {
            "image": image_named(north, image),
            "stages": _percentages(stages),
            "observe_s": 60 * observe_minutes,
            "failures_max": failures_max,
            "parallel_max": parallel_max,
            "offline_s": 60 * offline_minutes,
        }
        if device:
            body["devices"] = device
        answer = north.call("POST", "/firmware-rollouts", body, key_or_new(key))
    result = cast("Answer", answer.get("result") or {})
    done = (
        f"roll-out {result.get('rollout')} of {result.get('version')} to {result.get('devices')} "
        f"devices has begun, {result.get('skipped')} are left out"
    )
    tell(answer, done, as_json=as_json)
    if not is_pending(answer) and not as_json:
        words = f"firmware rollout show {result['rollout']} --follow -c {config}"
        complain(f"watch it: prepaid-gateway {words}")


def list_rollouts(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show roll-outs, newest first."""
    with local_client(config) as north:
        found = north.call("GET", "/firmware-rollouts")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    columns = ("number", "image", "state", "stage", "done", "failed", "skipped", "begun")
    civil = Civil(config)
    show_table("Roll-outs", columns, [(*_row(one), civil.date(one["begun_at"])) for one in items])


def show(
    number: Number,
    config: ConfigOption,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay and show how far it is, until it has ended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a roll-out with every device. With --follow exit code 1 where it was stopped."""
    with local_client(config) as north:
        found = north.call("GET", f"/firmware-rollouts/{number}")
        if follow and not as_json:
            with _Bar() as bar:
                bar.show(found)
                while found["ended_at"] is None:
                    time.sleep(FOLLOW_EVERY_S)
                    found = north.call("GET", f"/firmware-rollouts/{number}")
                    bar.show(found)
    if as_json:
        show_json(found)
        return
    _show(found, Civil(config))
    if follow and found["state"] == "stopped":
        raise typer.Exit(EXIT_FAILED)


def pause(
    number: Number,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin and serve no node for now; what nodes install already they finish."""
    path = f"/firmware-rollouts/{number}/pause"
    answer = ask(config, "POST", path, {"reason": reason}, key)
    tell(answer, f"roll-out {number} is paused", as_json=as_json)


def resume(
    number: Number,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a roll-out that was paused."""
    path = f"/firmware-rollouts/{number}/resume"
    answer = ask(config, "POST", path, {"reason": reason}, key)
    tell(answer, f"roll-out {number} goes on", as_json=as_json)


def stop(
    number: Number,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a roll-out for good; nodes that did not install yet stay as they are."""
    path = f"/firmware-rollouts/{number}/stop"
    answer = ask(config, "POST", path, {"reason": reason}, key)
    tell(answer, f"roll-out {number} is stopped", as_json=as_json)


class _Bar:
    """One bar for the whole, with what is under way beside it; away from a terminal, lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._line = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            transient=True,
            console=Console(stderr=True),
        )
        self._plain = not self._progress.console.is_terminal
        self._task = self._progress.add_task("", total=1.0, told="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._progress.stop()

    def show(self, found: Answer) -> None:
        """Show how far it is."""
        from rich.markup import escape

        devices = [
            one for one in cast("list[Answer]", found["devices"]) if one["phase"] != "skipped"
        ]
        under_way = [f"{one['id']} {_phase(one, found)}" for one in devices if _is_active(one)]
        told = "; ".join(under_way[:2]) or str(found["state"])
        if self._plain:
            self._say(found)
            return
        self._progress.update(
            self._task,
            description=escape(f"{found['version']}, stage {_stage(found)}"),
            total=max(1, len(devices)),
            completed=sum(_share(one, found) for one in devices),
            told=escape(told),
        )

    def _say(self, found: Answer) -> None:
        """A line whenever a device went on, for a log."""
        counts = cast("dict[str, int]", found["counts"])
        devices = ", ".join(f"{count} {phase}" for phase, count in counts.items() if count)
        line = f"{found['version']}, {found['state']}, stage {_stage(found)}: {devices}"
        if line != self._line:
            self._line = line
            complain(line)


def _percentages(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            "expected percentages such as 0,10,100", param_hint="--stages"
        ) from error


def _is_active(device: Answer) -> bool:
    return device["phase"] in UNDER_WAY


def _share(device: Answer, found: Answer) -> float:
    """How much of a device's way lies behind it, from 0 to 1."""
    if device["phase"] == "fetching":
        return FETCHED * cast("int", device["offset"]) / cast("int", found["size"])
    return SHARE.get(str(device["phase"]), 1.0)


def _phase(device: Answer, found: Answer) -> str:
    if device["phase"] == "fetching":
        return f"fetching {device['offset']} of {found['size']} bytes"
    return str(device["phase"])


def _stage(found: Answer) -> str:
    plan = cast("Answer", found["plan"])
    return f"{found['stage']} of {len(cast('list[int]', plan['stages']))}"


def _row(found: Answer) -> tuple[object, ...]:
    counts = cast("dict[str, int]", found["counts"])
    return (
        found["number"],
        found["version"],
        found["state"],
        _stage(found).replace(" of ", "/"),
        f"{counts.get('done', 0)} of {sum(counts.values())}",
        counts.get("failed", 0),
        counts.get("skipped", 0),
    )


def _show(found: Answer, civil: Civil) -> None:
    plan = cast("Answer", found["plan"])
    facts = [
        ("state", found["state"]),
        ("why", found["why"] or ""),
        ("image", f"{found['version']} for {found['hardware']}, {found['size']} bytes"),
        ("stage", f"{_stage(found)} ({', '.join(map(str, cast('list[int]', plan['stages'])))} %)"),
        ("observed", f"{found['observed_s']} of {plan['observe_s']} s"),
        ("begun", f"{civil.time(found['begun_at'])} by {found['begun_by']}"),
        ("ended", civil.time(found["ended_at"]) if found["ended_at"] else ""),
    ]
    title = f"Roll-out {found['number']}, times in {civil.timezone}"
    show_table(title, ("", ""), [row for row in facts if row[1]])
    devices = cast("list[Answer]", found["devices"])
    show_table(
        "Devices",
        ("device", "meter", "state", "why", "reason"),
        [
            (
                one["id"],
                one["meter_id"] or "",
                _phase(one, found),
                one["code"] or "",
                one["reason"] or "",
            )
            for one in devices
        ],
    )
