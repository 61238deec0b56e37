"""A Debian of its own for a trial: a directory whose systemd runs as process 1.

Fetched once by debootstrap from where this machine gets its Debian, copied for every trial. It has
its own processes, mounts, and a network with nothing but loopback: what asks the network fails.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BASE: Final = ROOT / "build" / "chroot-base"
CHROOT: Final = ROOT / "build" / "chroot"
SUITE: Final = "bookworm"
COMMAND_S: Final = 120
BOOT_S: Final = 30
BOOT_LOG: Final = ROOT / "build" / "chroot.log"
# What a container leaves to its host, and what a trial has no use for.
MASKED: Final = (
    *("systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount"),
    *("systemd-udevd.service", "systemd-update-utmp.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "getty.target", "console-getty.service"),
)
BOOT: Final = f"""
set -e
ip link set lo up
mount --make-rprivate /
mount --bind {CHROOT} {CHROOT}
mount -t proc proc {CHROOT}/proc
mount --bind {CHROOT}/proc/sys {CHROOT}/proc/sys
mount -o remount,bind,ro {CHROOT}/proc/sys
mount -t sysfs -o ro sysfs {CHROOT}/sys
mount -t tmpfs -o mode=755 tmpfs {CHROOT}/run
mount -t tmpfs tmpfs {CHROOT}/tmp
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 {CHROOT}/sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs {CHROOT}/sys/fs/cgroup
    mkdir {CHROOT}/sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd,xattr cgroup {CHROOT}/sys/fs/cgroup/systemd
fi
cd {CHROOT}
mkdir -p oldroot
pivot_root . oldroot
umount -l /oldroot
# Credentials reach a unit through mount propagation, as nspawn prepares it for containers.
mount --make-rshared /
exec /usr/bin/env -i container=trial PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --unit=basic.target
"""


class TrialError(Exception):
    """A step that did not show what it is there for."""


def need(fact: object, what: str) -> None:
    """A step's assertion. Raises TrialError."""
    if not fact:
        raise TrialError(what)


class Box:
    """A running Debian; commands are run inside it as root."""

    def __init__(self, init: int) -> None:
        self._enter = ("nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C")

    def run(self, command: str, *, ok: bool = True) -> str:
        """A shell command's output, both streams. Raises TrialError when `ok` turns out wrong."""
        answer = subprocess.run(
            [*self._enter, "sh", "-c", command],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_S,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8",
                "COLUMNS": "200",
                "DEBIAN_FRONTEND": "noninteractive",
            },
        )
        if (answer.returncode == 0) != ok:
            raise TrialError(f"{command}\nended with {answer.returncode}:\n{answer.stdout}")
        return answer.stdout

    def until(self, look: Callable[[], object], what: str, deadline_s: float = 40) -> None:
        """Wait for a true answer. Raises TrialError at the deadline, with the journal's end."""
        end_s = time.monotonic() + deadline_s
        while True:
            try:
                if look():
                    return
                last = "not so"
            except TrialError as error:
                last = str(error)
            if time.monotonic() > end_s:
                raise TrialError(f"{what}: not within {deadline_s} s\n{last}")
            time.sleep(0.3)

    def install(self, deb: str, *, ok: bool = True, options: str = "") -> str:
        """Install a package file without a network."""
        return self.run(f"apt-get install -y -q --no-install-recommends {options} {deb}", ok=ok)


def mirror() -> str:
    """Where this machine gets its Debian from. Raises TrialError."""
    # Of all configured places, the one that holds the suite itself.
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)|$(CODENAME)|$(RELEASE)|$(COMPONENT)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    for line in told.splitlines():
        site, codename, release, component = line.split("|")
        if component == "main" and SUITE in (codename, release) and "security" not in site:
            return site
    raise TrialError(f"apt on this machine has no source for {SUITE} main")


def make_chroot() -> None:
    """A minimal Debian, fetched once, copied for every trial."""
    if not (BASE / "etc/debian_version").exists():
        if shutil.which("debootstrap") is None:
            subprocess.run(
                ["apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap"],
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=300,
            )
        part = BASE.with_name(BASE.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                "--include=python3,systemd",
                SUITE,
                part,
                mirror(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=900,
        )
        part.rename(BASE)
    shutil.rmtree(CHROOT, ignore_errors=True)
    subprocess.run(["cp", "-a", BASE, CHROOT], check=True, timeout=300)
    for unit in MASKED:
        (CHROOT / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (CHROOT / "etc/hostname").write_text("trial\n")
    (CHROOT / "etc/apt/sources.list").write_text("")


@contextmanager
def booted() -> Iterator[int]:
    """Process 1 of the running box, as this machine numbers it; everything in it dies with this."""
    spaces = ("--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup")
    with BOOT_LOG.open("wb") as log:
        outer = subprocess.Popen(
            ["unshare", *spaces, "--fork", "--kill-child", "sh", "-c", BOOT],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield _init_of(outer)
        finally:
            outer.kill()
            outer.wait(30)


def _init_of(outer: "subprocess.Popen[bytes]") -> int:
    """Wait until systemd in the box has started everything. Raises TrialError."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    end_s = time.monotonic() + BOOT_S
    while time.monotonic() < end_s and outer.poll() is None:
        words = children.read_text().split()
        if words and Path(f"/proc/{words[0]}/comm").read_text().strip() == "systemd":
            state = Box(int(words[0])).run("systemctl is-system-running || true").strip()
            if state in {"running", "degraded"}:
                return int(words[0])
        time.sleep(0.2)
    raise TrialError(f"the box did not start within {BOOT_S} s:\n{BOOT_LOG.read_text()}")
