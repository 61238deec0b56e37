"""How long a site of 800 meters takes to load: from the CSV, and all in YAML."""

import platform
import statistics
import tempfile
import time
from pathlib import Path

import pydantic
import yaml

from gateway.app.config import load_config

METERS = 800
RUNS = 9
TARGET_S = 0.5
SITE = "site: {id: s, name: S, timezone: Asia/Kolkata, currency: INR}\n"


def main() -> None:
    """Print the median of several runs for both forms."""
    rows = [
        (f"flat-{n}", f"10.10.{n // 250}.{n % 250 + 1}", f"riser-{n % 8}") for n in range(METERS)
    ]
    print(
        f"python {platform.python_version()}, pydantic {pydantic.VERSION}, PyYAML "
        f"{yaml.__version__}, {platform.machine()}; target {TARGET_S} s from the CSV"
    )
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        lines = [f"{name},pac3220,{host},{feeder},7360\n" for name, host, feeder in rows]
        (base / "meters.csv").write_text("id,model,host,feeder,p_max_w\n" + "".join(lines))
        (base / "csv.yaml").write_text(SITE + "meters_file: meters.csv\n")
        entries = [
            f"  - {{id: {name}, model: pac3220, host: {host}, feeder: {feeder}, p_max_w: 7360}}\n"
            for name, host, feeder in rows
        ]
        (base / "all.yaml").write_text(SITE + "meters:\n" + "".join(entries))
        for name in ("csv.yaml", "all.yaml"):
            taken = [_seconds(base / name) for _ in range(RUNS)]
            print(f"{METERS} meters, {name:9} {statistics.median(taken) * 1000:6.1f} ms")


def _seconds(path: Path) -> float:
    started = time.perf_counter()
    config = load_config(path)
    taken = time.perf_counter() - started
    if len(config.meters) != METERS:
        raise SystemExit(f"{path.name}: {len(config.meters)} meters instead of {METERS}")
    return taken


if __name__ == "__main__":
    main()
