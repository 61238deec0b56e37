"""A machine for the units: systemd's real manager on a root file system of its own, no boot.

A private mount and process namespace with empty /run, /opt and /var/lib and an /etc that forgets.
The manager is systemd's user instance, run by root: it reads the units as they are, switches
users, filters system calls and watches, as the system's own would.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
UNITS: Final = ("prepaid-gateway-control.service", "prepaid-gateway-north.service")
METER_PORT: Final = 5020
CONFIG: Final = f"""\
site: {{id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}}
defaults: {{pac3220: {{port: {METER_PORT}}}}}
meters_file: meters.csv
"""
SETUP: Final = r"""
set -eu
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/systemd/system /run/over/up /run/over/work /run/units
mount -t overlay -o lowerdir=/etc,upperdir=/run/over/up,workdir=/run/over/work etc /etc
mount -t tmpfs -o mode=755 lib /var/lib
mount -t tmpfs -o mode=755 opt /opt
mkdir -p /opt/python /opt/packages /opt/source /opt/prepaid-gateway/bin /etc/prepaid-gateway
# The interpreter and the sources may lie where only root may go.
mount --bind "$PYTHON_PREFIX" /opt/python
mount --bind "$PACKAGES" /opt/packages
mount --bind "$SOURCE" /opt/source
cat > /opt/prepaid-gateway/bin/prepaid-gateway <<END
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/packages
exec /opt/python/bin/$PYTHON_NAME -m gateway "\$@"
END
chmod 755 /opt/prepaid-gateway/bin/prepaid-gateway
ip link set lo up
systemd-sysusers /opt/source/systemd/prepaid-gateway.sysusers.conf
cp /opt/source/systemd/*.service /run/units
for name in default basic shutdown; do
    printf '[Unit]\nDescription=%s\n' $name > /run/units/$name.target
done
for name in control north; do
    mkdir /run/units/prepaid-gateway-$name.service.d
    cat > /run/units/prepaid-gateway-$name.service.d/test.conf <<END
[Service]
StandardOutput=append:/run/$name.log
StandardError=append:/run/$name.log
WatchdogSec=3
TimeoutAbortSec=1
# A user instance hands credentials to nobody else.
LoadCredential=
END
done
cp "$CONFIG_FILE" /etc/prepaid-gateway/config.yaml
cd /
program=/opt/prepaid-gateway/bin/prepaid-gateway
$program simulate --meters 2 --port $METER_PORT --meters-file /etc/prepaid-gateway/meters.csv &
while ! [ -s /etc/prepaid-gateway/meters.csv ]; do sleep 0.1; done
chmod 644 /etc/prepaid-gateway/*
$program init -c /etc/prepaid-gateway/config.yaml
export XDG_RUNTIME_DIR=/run XDG_CONFIG_HOME=/var/lib HOME=/run SYSTEMD_UNIT_PATH=/run/units
/lib/systemd/systemd --user --log-target=console &
while ! [ -S /run/systemd/private ] || ! [ -S /run/systemd/notify ]; do sleep 0.1; done
# A user instance keeps this to its user; the system's own is open.
chmod 777 /run/systemd/notify
touch /run/up
wait
"""
NAMESPACE: Final = ("--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")


def unusable() -> str | None:
    """Why there can be no such machine here; None when there can."""
    if os.geteuid() != 0:
        return "needs root: a machine of its own for the units"
    for tool in ("unshare", "nsenter", "setpriv", "ip", "systemd-sysusers"):
        if shutil.which(tool) is None:
            return f"needs {tool} (apt-get install systemd util-linux iproute2)"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd (apt-get install systemd)"
    tried = subprocess.run(
        [tool_path("unshare"), *NAMESPACE, "sh", "-c", "mount -t tmpfs x /run"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def tool_path(name: str) -> str:
    """Where a program is; it must be there."""
    found = shutil.which(name)
    assert found is not None
    return found


class UnitMachine:
    """Started by its constructor; `close` ends every process in it."""

    def __init__(self, directory: Path) -> None:
        config = directory / "config.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        self._log = directory / "machine.log"
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHON_PREFIX": sys.base_prefix,
            "PYTHON_NAME": f"python{sys.version_info.major}.{sys.version_info.minor}",
            "PACKAGES": packages,
            "SOURCE": str(ROOT),
            "CONFIG_FILE": str(config),
            "METER_PORT": str(METER_PORT),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [tool_path("unshare"), *NAMESPACE, "sh", "-c", SETUP],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.until(lambda: self.run("test", "-e", "/run/up").returncode == 0, "the manager")

    def run(self, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root."""
        inside = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        first = inside.read_text(encoding="ascii").split()
        if not first:
            return subprocess.CompletedProcess(argv, 1, "", "not there yet")
        return subprocess.run(
            [tool_path("nsenter"), "--target", first[0], "--mount", "--pid", "--net", *argv],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/run"},
        )

    def systemctl(self, *arguments: str) -> str:
        """What systemctl says; it must succeed."""
        answer = self.run("systemctl", "--user", "--no-pager", *arguments)
        assert answer.returncode == 0, f"{answer.stderr}\n{self.logs()}"
        return answer.stdout

    def show(self, unit: str) -> Mapping[str, str]:
        """The properties of a unit."""
        lines = self.systemctl("show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def as_user(self, user: str, groups: Sequence[str], *argv: str) -> int:
        """The exit status of a command run as a user with supplementary groups."""
        identity = [f"--reuid={user}", f"--regid={user}", f"--groups={','.join((user, *groups))}"]
        return self.run("setpriv", *identity, *argv).returncode

    def until(self, condition: object, what: str, deadline_s: float = 30.0) -> None:
        """Wait for a condition, a function without arguments."""
        assert callable(condition)
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert self._process.poll() is None, self.logs()
            assert time.monotonic() < end_s, f"{what}: not within {deadline_s} s\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The end of what everybody wrote."""
        said = self.run("sh", "-c", "tail -n 15 /run/control.log; tail -n 15 /run/north.log")
        return f"{self._log.read_text(errors='replace')[-2000:]}\n{said.stdout}"

    def close(self) -> None:
        """End everything: with the first process of the namespace all others go."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
