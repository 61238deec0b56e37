"""What a reload is told to change, what the watchdog looks at, and the limits of a process."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.app.config import Config, load_config
from gateway.app.control.pulse import COMMIT_STILL_S, STILL_S, pulse_of
from gateway.app.limits import LINKS_PER_METER, descriptors_needed, raise_descriptor_limit
from gateway.app.logs import is_journal
from gateway.app.north import north_settings
from gateway.app.reload import CONTROL, NORTH, Change, changes, read_again
from gateway.core.errors import ConfigurationError
from gateway.south.pacing import BACKOFF_MAX_S
from gateway.store.writer import GroupCommitWriter
from tests.app.control_site import ControlSite

BASE = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
defaults: {pac3220: {p_max_w: 7000}}
meters:
  - {id: flat-1, model: pac3220, host: 127.0.0.1}
  - {id: flat-2, model: pac3220, host: 127.0.0.2}
"""


def written(directory: Path, text: str) -> Config:
    """The configuration of a text."""
    path = directory / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_changes_are_named_by_key_and_meter(tmp_path: Path) -> None:
    """A meter that came or went is one change; a default shows at each meter that it reaches."""
    before = written(tmp_path, BASE)
    text = BASE.replace("flat-2", "flat-3").replace("7000", "8000")
    after = written(tmp_path, text + "supply: {mass_cut: {max_cuts: 3}}\n")
    assert sorted(map(str, changes(before, after))) == [
        "meters.flat-1.p_max_w: 7000 → 8000",
        "meters.flat-2: present → absent",
        "meters.flat-3: absent → present",
        "supply.mass_cut.max_cuts: 10 → 3",
    ]


def test_order_and_spelling_are_no_change(tmp_path: Path) -> None:
    """A spreadsheet that sorted its rows, or a default written out, disturbs nobody."""
    before = written(tmp_path, BASE)
    lines = BASE.splitlines()
    text = "\n".join([*lines[:-2], lines[-1], lines[-2], "posting: {sweep_s: 1}"])
    assert list(changes(before, written(tmp_path, text))) == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("name: Palm", "name: Oak", "site.name"),
        ("state_dir: state", "state_dir: other", "state_dir"),
        ("runtime_dir: run", "runtime_dir: other", "runtime_dir"),
    ],
)
def test_fixed_keys_refuse_everything_with_them(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    """One fixed key refuses the whole file, for both processes, and names the next step."""
    running = written(tmp_path, BASE)
    written(tmp_path, BASE.replace(old, new).replace("7000", "8000"))
    for concern, unit in ((CONTROL, "control"), (NORTH, "north")):
        with pytest.raises(ConfigurationError) as refused:
            read_again(running, concern)
        (problem,) = refused.value.problems
        assert f": {key}: " in problem
        assert problem.endswith(f"systemctl restart prepaid-gateway-{unit}")


def test_each_process_follows_what_concerns_it(tmp_path: Path) -> None:
    """A listener is north's and fixed there; limits are control's; a meter is everybody's."""
    running = written(tmp_path, BASE)
    written(tmp_path, BASE + 'north: {http: {listen: "127.0.0.1:9"}}\nsupply: {retries: 5}\n')
    fresh, found = read_again(running, CONTROL)
    assert found == (Change("supply.retries", 2, 5),)
    assert fresh.supply.retries == 5
    with pytest.raises(ConfigurationError, match=r"north\.http\.listen"):
        read_again(running, NORTH)
    written(tmp_path, BASE + "backup: {keep: 3}\n")
    assert read_again(running, CONTROL)[1] == read_again(running, NORTH)[1] == ()
    written(tmp_path, BASE.replace("flat-2", "flat-3"))
    assert len(read_again(running, CONTROL)[1]) == len(read_again(running, NORTH)[1]) == 2


def test_the_watchdog_knows_what_must_go_on(tmp_path: Path) -> None:
    """Polls within seconds while a meter answers, patience while none does, and for a disk."""
    site = ControlSite(tmp_path)
    writer = GroupCommitWriter(site.file)
    site.clock.loop_delay_s = lambda seconds: seconds  # type: ignore[method-assign]
    polls, sweeps = pulse_of(site.config, site.engine, writer, site.clock)
    assert polls.limit_s() == STILL_S + 2 * BACKOFF_MAX_S + 2.0
    site.read(100)
    assert polls.limit_s() == STILL_S + 3 * 2.0
    assert sweeps.limit_s() == COMMIT_STILL_S + 3.0
    before = polls.count(), sweeps.count()
    site.engine.polls.pollers[0].metrics.lateness.observe(0.001)
    site.engine.tallies.sweep_time.observe(0.001)
    assert (polls.count(), sweeps.count()) == (before[0] + 1, before[1] + 1)
    writer.blocked_rounds += 1
    assert sweeps.count() == before[1] + 2
    writer.close(5)
    site.crash()


@pytest.mark.slow
def test_descriptors_are_asked_for(tmp_path: Path) -> None:
    """The soft limit goes up to the hard one; one line when that is not enough."""
    script = (
        "import resource, sys\nfrom gateway.app.limits import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))\n"
        "print(raise_descriptor_limit(int(sys.argv[1])), "
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    for needed, told in ((512, False), (513, True)):
        answer = subprocess.run(
            [sys.executable, "-c", script, str(needed)],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
        )
        assert answer.stdout.splitlines()[-1] == "512 512"
        assert ("descriptors.few" in answer.stdout) is told
    assert descriptors_needed(800) > LINKS_PER_METER * 800
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as lines:
        raise_descriptor_limit(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, soft)
    assert lines == []


@pytest.mark.slow
def test_the_journal_gets_priorities_and_others_do_not(tmp_path: Path) -> None:
    """JOURNAL_STREAM must name the very stream; a line then begins with its level in brackets."""
    script = (
        "import structlog\nfrom gateway.app.logs import set_up_logs\nset_up_logs('control')\n"
        "log = structlog.get_logger()\nlog.warning('meter.away', meter='flat-1')\n"
        "log.critical('ledger.broken')\n"
    )
    path = tmp_path / "journal"
    for named, prefixes in ((True, ["<4>", "<2>"]), (False, ["{", "{"])):
        path.unlink(missing_ok=True)
        with path.open("wb") as journal:
            status = os.fstat(journal.fileno())
            stream = f"{status.st_dev}:{status.st_ino}" if named else "8:1"
            subprocess.run(
                [sys.executable, "-c", script],
                check=True,
                stderr=journal,
                timeout=30,
                env={**os.environ, "JOURNAL_STREAM": stream},
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line[: len(prefix)] for line, prefix in zip(lines, prefixes, strict=True)] == (
            prefixes
        )
        first = json.loads(lines[0].removeprefix("<4>"))
        assert (first["event"], first["meter"], first["process"]) == (
            "meter.away",
            "flat-1",
            "control",
        )
        assert ("timestamp" in first) is not named
    assert is_journal({}) is False


def test_a_credential_takes_the_place_of_the_key_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """north's private key may come from systemd alone; without a credential the file counts."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("x", encoding="ascii")
        (tmp_path / name).chmod(0o600)
    tls = "north: {http: {tls: {cert: cert.pem, key: key.pem}}}\n"
    config = written(tmp_path, BASE + tls)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert north_settings(config).listen[0].key_path == tmp_path / "key.pem"
    (credentials / "tls-key").write_text("y", encoding="ascii")
    assert north_settings(config).listen[0].key_path == credentials / "tls-key"
