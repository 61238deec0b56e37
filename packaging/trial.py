"""Tries the Debian package in a clean Debian whose own systemd runs as process 1.

    make package-try            (as root; the first run fetches a minimal Debian by debootstrap)

Simulated meters, control and north run inside as the units say. Every step prints what it showed;
the first that fails ends the trial with exit code 1.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from debian_box import CHROOT, ROOT, SUITE, Box, TrialError, booted, make_chroot, need

WORK: Final = ROOT / "build" / "trial"
CONTROL: Final = "prepaid-gateway-control"
NORTH: Final = "prepaid-gateway-north"
CONFIG: Final = "/etc/prepaid-gateway/config.yaml"
STATE: Final = "/var/lib/prepaid-gateway"
KEPT: Final = "/var/backups/prepaid-gateway"
METER: Final = "flat-101"
SITE: Final = """\
site: {id: trial, name: Trial, timezone: Asia/Kolkata, currency: INR}
meters_file: meters.csv
supply: {min_off_s: 2, stagger_s: 0.1, mass_cut: {halt_min_points: 1000}}
"""
TARIFF: Final = """\
{id: home, name: Home, currency: INR, timezone: Asia/Kolkata,
 effective_from: "2020-01-01T00:00:00+05:30", grid: {price: "8.00"}, generator: {price: "25.00"}}
"""


class Site(Box):
    """The box with the gateway in it."""

    def program(self, command: str, *, ok: bool = True) -> str:
        """A command of the gateway on the trial's configuration."""
        return self.run(f"prepaid-gateway {command} -c {CONFIG}", ok=ok)

    def account(self) -> dict[str, Any]:
        """The trial's account."""
        shown: dict[str, Any] = json.loads(self.program(f"account show {METER} --json"))
        return shown

    def version(self) -> str:
        """The version that the program says it has."""
        return self.run("prepaid-gateway --version").strip()

    def schema(self) -> int:
        """The schema number of the ledger."""
        program = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], uri=True); "
            "print(c.execute('PRAGMA user_version').fetchone()[0])"
        )
        return int(self.run(f'python3 -c "{program}" "file:{STATE}/control/ledger.db?mode=ro"'))


def snapshot(version: str | None, *, migrate: bool) -> Path:
    """A copy of the tree; with another version, and a migration that changes nothing else."""
    tree = WORK / f"tree-{version or 'as-is'}"
    for name in ("gateway", "config", "systemd", "docs", "requirements"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree / name)
    if version:
        for name, pattern in (
            ("pyproject.toml", r'^version = ".*"'),
            ("gateway/__init__.py", r'^__version__ = ".*"'),
        ):
            text = (tree / name).read_text(encoding="utf-8")
            key = pattern[1:].partition(" ")[0]
            new = re.sub(pattern, f'{key} = "{version}"', text, count=1, flags=re.MULTILINE)
            (tree / name).write_text(new, encoding="utf-8")
    if migrate:
        folder = tree / "gateway/store/schema/ledger"
        number = len(list(folder.glob("*.sql"))) + 1
        (folder / f"{number:04}_trial.sql").write_text("CREATE TABLE trial_note(note TEXT);\n")
    return tree


def build_packages() -> dict[str, Path]:
    """The tree as it is, a later version of it, and one that migrates the ledger."""
    shutil.rmtree(WORK, ignore_errors=True)
    base = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    need(base, "pyproject.toml states no version")
    number = base[1] if base else ""
    versions = {"first": None, "second": f"{number}+trial1", "migrating": f"{number}+trial2"}
    packages = {}
    for name, version in versions.items():
        tree = snapshot(version, migrate=name == "migrating")
        out = WORK / name
        words = (ROOT / "packaging/build.py", "--source", tree, "--out", out)
        subprocess.run(
            [sys.executable, *map(str, words), "--cache", str(ROOT / "build" / "wheels")],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=900,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        )
        (packages[name],) = out.glob("*.deb")
    return packages


class Trial:
    """The steps, in order; each is a method whose first line says what it shows."""

    def __init__(self, box: Site, packages: dict[str, Path]) -> None:
        self.box = box
        self.debs = {name: f"/root/{path.name}" for name, path in packages.items()}
        self.number = {name: path.name.split("_")[1] for name, path in packages.items()}
        for path in packages.values():
            shutil.copy(path, CHROOT / "root" / path.name)

    def steps(self) -> list[Callable[[], None]]:
        """All steps."""
        return [
            self.installs_without_network,
            self.starts_nothing_by_itself,
            self.refuses_a_bad_configuration,
            self.makes_the_stores_for_two_users,
            self.runs_as_units,
            self.cuts_and_restores,
            self.proves_the_ledger,
            self.upgrades,
            self.rolls_back_with_the_kept_package,
            self.upgrades_the_schema,
            self.refuses_to_roll_back_below_the_schema,
            self.goes_back_with_the_copy,
            self.warns_of_a_configuration_it_does_not_accept,
            self.keeps_everything_when_removed,
        ]

    def installs_without_network(self) -> None:
        """The package installs with its dependencies there and no network at all."""
        self.box.run("ping -c1 -W1 192.0.2.1 2>/dev/null", ok=False)
        self.box.install(self.debs["first"])
        need(self.box.version() == self.number["first"], "another version answers")
        need(self.box.run("dpkg --verify prepaid-gateway") == "", "files differ from the package")
        self.box.run("getent passwd prepaid-control prepaid-north")

    def starts_nothing_by_itself(self) -> None:
        """Nothing is enabled, nothing runs, and a start without configuration does not last."""
        for unit in (CONTROL, NORTH):
            enabled = self.box.run(f"systemctl is-enabled {unit} || true").strip()
            need(enabled == "disabled", f"{unit} is {enabled}")
            self.box.run(f"systemctl start {unit} || true")
            self.box.until(partial(self._is_down, unit), f"the end of {unit}")

    def refuses_a_bad_configuration(self) -> None:
        """`check` names the line of a wrong key; then the trial's site is accepted."""
        self.box.run(
            "systemd-run --quiet --unit=meters -p User=nobody -p RuntimeDirectory=meters "
            "prepaid-gateway simulate --meters 2 --load-w 3000 --meters-file /run/meters/meters.csv"
        )
        self.box.until(lambda: self.box.run("cat /run/meters/meters.csv"), "simulated meters")
        self.box.run("cp /run/meters/meters.csv /etc/prepaid-gateway/")
        target = CHROOT / CONFIG.lstrip("/")
        target.write_text(SITE + "unknown_key: 1\n")
        need(f"{CONFIG}:4:1" in self.box.program("check", ok=False), "no place was named")
        target.write_text(SITE)
        (CHROOT / "root/tariff.yaml").write_text(TARIFF)
        self.box.program("check")

    def makes_the_stores_for_two_users(self) -> None:
        """`init` as root leaves each store to its unit's user, once."""
        self.box.program("init")
        for path, owner in (("control/ledger.db", "control"), ("north/north.db", "north")):
            told = self.box.run(f"stat -c '%U %a' {STATE}/{path}").strip()
            need(told == f"prepaid-{owner} 640", f"{path} is {told}")
        need("STORE_EXISTS" in self.box.program("init", ok=False), "init did it twice")
        write = "setpriv --reuid prepaid-north --regid prepaid-north --init-groups sh -c '{}'"
        self.box.run(write.format(f"head -c 16 {STATE}/control/ledger.db"))
        self.box.run(write.format(f"echo >>{STATE}/control/ledger.db"), ok=False)

    def runs_as_units(self) -> None:
        """Both units start, stay, and the command line reaches north."""
        self.box.run(f"systemctl enable --now {CONTROL} {NORTH}")
        self.box.until(lambda: self.box.program("account list") or True, "north")
        self.box.program("tariff publish /root/tariff.yaml")
        for meter in (METER, "flat-102"):
            balance = "0.15" if meter == METER else "500.00"
            opening = f"account open {meter} --tariff home --name Trial --opening-balance {balance}"
            # Until the meters have told their clocks, the clock is not trusted.
            self.box.until(partial(self.box.program, opening), f"account {meter}")
            self.box.program(f"meter commission {meter} --accept UNPROVEN --reason trial")

    def cuts_and_restores(self) -> None:
        """Used-up credit opens the supply; a recharge and a confirmation close it."""
        look = self.box.account
        self.box.until(lambda: look()["supply"]["control_state"] == "disconnected", "a cut")
        self.box.program(f"account recharge {METER} 500.00 --reference T-1 --key trial-1")
        self.box.program(f"account recharge {METER} 500.00 --reference T-1 --key trial-1")
        self.box.until(
            lambda: look()["supply"]["control_state"] == "ready_for_reconnection",
            "ready to reconnect",
        )
        self.box.program(f"account confirm {METER}")
        self.box.until(lambda: look()["supply"]["control_state"] == "connected", "reconnected")

    def proves_the_ledger(self) -> None:
        """`ledger verify` is clean, one recharge was credited once, nothing was restarted."""
        self.box.program("ledger verify")
        balance = float(self.box.account()["balance"])
        need(490 < balance < 501, f"the balance is {balance}")
        restarts = self.box.run(f"systemctl show -P NRestarts {CONTROL} {NORTH}").split()
        need(restarts == ["0", "0"], f"restarts: {restarts}")

    def upgrades(self) -> None:
        """A later version takes over: state kept, units restarted, the version before kept."""
        self._install_and_look("second")
        need(self._copies() == [], "a copy of the stores although the schema is the same")

    def rolls_back_with_the_kept_package(self) -> None:
        """The package that the upgrade kept brings the version before back."""
        kept = f"{KEPT}/{Path(self.debs['first']).name}"
        self._install_and_look("first", deb=kept, options="--allow-downgrades")

    def upgrades_the_schema(self) -> None:
        """A version with the next schema migrates, after a copy of ledger and requests."""
        before = self.box.schema()
        self._install_and_look("migrating")
        need(self.box.schema() == before + 1, "the schema is the same")
        need(len(self._copies()) == 1, f"copies: {self._copies()}")

    def refuses_to_roll_back_below_the_schema(self) -> None:
        """An older version that cannot read the stores is refused; the newer goes on running."""
        pid = self.box.run(f"systemctl show -P MainPID {CONTROL}")
        told = self.box.install(self.debs["first"], ok=False, options="--allow-downgrades")
        need("cannot read these stores" in told, told)
        need("control/ledger.db: schema" in told, told)
        need(self.box.version() == self.number["migrating"], "the older version was unpacked")
        need(self.box.run(f"systemctl show -P MainPID {CONTROL}") == pid, "control was restarted")
        self.box.run("dpkg --audit | grep . ", ok=False)

    def goes_back_with_the_copy(self) -> None:
        """The ledger from before, put back, enters RECOVERY and repeats recharges since."""
        self.box.program(f"account recharge {METER} 100.00 --reference T-2 --key trial-2")
        (copy,) = self._copies()
        need(self.box.run(f"ls {copy}").split() == ["control"], "the requests were copied too")
        self.box.run(f"systemctl stop {NORTH} {CONTROL}")
        self.box.run(
            f"cp -a {STATE} {KEPT}/put-aside && rm {STATE}/control/ledger.db* && "
            f"cp -p {copy}/control/* {STATE}/control/"
        )
        self.box.install(self.debs["first"], options="--allow-downgrades")
        self.box.run(f"systemctl start {CONTROL} {NORTH}")
        self._look("first")
        self.box.until(
            lambda: 590 < float(self.box.account()["balance"]) < 601, "the later recharge"
        )
        shown = self.box.program("recovery show --json")
        need("older_than_known" in shown, f"no RECOVERY: {shown}")

    def warns_of_a_configuration_it_does_not_accept(self) -> None:
        """A configuration that the new version refuses is named, and does not stop the upgrade."""
        target = CHROOT / CONFIG.lstrip("/")
        target.write_text(SITE + "unknown_key: 1\n")
        told = self.box.install(self.debs["second"])
        need(f"warning: this version does not accept {CONFIG}" in told, told)
        target.write_text(SITE)
        self.box.run(f"systemctl restart {CONTROL} {NORTH}")
        self._look("second")

    def keeps_everything_when_removed(self) -> None:
        """Remove and purge leave money and configuration; the package finds them again."""
        self.box.run("apt-get remove -y -q prepaid-gateway")
        self.box.run(f"systemctl is-active {CONTROL} {NORTH}", ok=False)
        told = self.box.run("apt-get purge -y -q prepaid-gateway")
        need(f"the ledger stays in {STATE}" in told, told)
        self.box.run("ls /opt/prepaid-gateway", ok=False)
        self.box.run(f"ls {CONFIG} {STATE}/control/ledger.db {STATE}/north/north.db")
        self.box.install(self.debs["second"])
        need("STORE_EXISTS" in self.box.program("init", ok=False), "init made new stores")
        self.box.run(f"systemctl enable --now {CONTROL} {NORTH}")
        self._look("second")

    def _install_and_look(self, name: str, *, deb: str = "", options: str = "") -> None:
        before = self.box.account()
        self.box.install(deb or self.debs[name], options=options)
        exit_us, enter_us = (
            int(self.box.run(f"systemctl show -P {key}TimestampMonotonic {CONTROL}"))
            for key in ("ActiveExit", "ActiveEnter")
        )
        print(f"     control was away for {(enter_us - exit_us) / 1e6:.1f} s")
        self._look(name)
        after = self.box.account()
        spent = float(before["balance"]) - float(after["balance"])
        need(0 <= spent < 1, f"the balance went from {before['balance']} to {after['balance']}")

    def _look(self, name: str) -> None:
        need(self.box.version() == self.number[name], f"{self.box.version()} is installed")
        self.box.run(f"systemctl is-active {CONTROL} {NORTH}")
        self.box.until(
            lambda: self.box.account()["supply"]["control_state"] == "connected",
            "the account's supply",
        )
        self.box.program("ledger verify")

    def _is_down(self, unit: str) -> bool:
        return self.box.run(f"systemctl is-active {unit} || true").strip() in {"inactive", "failed"}

    def _copies(self) -> list[str]:
        return self.box.run(f"find {KEPT} -maxdepth 1 -name 'before-*'").split()


def main() -> int:
    """The command line. Exit code 0, or 1 with the step that failed."""
    if os.geteuid() != 0:
        print("trial: run it as root: a Debian of its own needs mounts and users", file=sys.stderr)
        return 1
    begun_s = time.monotonic()
    try:
        print("building three versions of the package")
        packages = build_packages()
        print(f"a minimal Debian {SUITE} in {CHROOT.relative_to(ROOT)}")
        make_chroot()
        with booted() as init:
            box = Site(init)
            for number, step in enumerate(Trial(box, packages).steps(), start=1):
                begin_s = time.monotonic()
                try:
                    step()
                except TrialError:
                    print(box.run("journalctl --no-pager -n 40 -u 'prepaid-*' || true"))
                    print(f"{number:3}. NOT: {(step.__doc__ or '').strip()}")
                    raise
                took_s = time.monotonic() - begin_s
                print(f"{number:3}. {(step.__doc__ or '').strip()}  [{took_s:.1f} s]", flush=True)
    except (TrialError, subprocess.SubprocessError, OSError) as error:
        print(f"trial: FAILED: {error}", file=sys.stderr)
        return 1
    took_s = time.monotonic() - begun_s
    print(f"the package was installed, upgraded, rolled back and removed: all well, {took_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
