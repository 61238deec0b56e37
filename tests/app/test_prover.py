"""The proof of the ledger in control: at the start, each local day, whole in the background."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.app.checkpoints import FORMER_NAME, key_trust, published_trust
from gateway.app.control.prover import SUSPECT_NAME, WHOLE_AFTER_S, Prover, Site, whole_proof
from gateway.app.paths import paths_of
from gateway.app.site_key import KEY_NAME, load_site_key
from gateway.core.errors import ConfigurationError
from gateway.store.checkpoints import Checkpoint, newest_checkpoint
from tests.app.control_site import ControlSite

DAY_S = 86_400


class Proof:
    """A prover of a site, and the events that it told."""

    def __init__(self, site: ControlSite, whole: tuple[str, ...] | None = None) -> None:
        self.site = site
        self.events: list[tuple[str, str]] = []
        paths = paths_of(site.config)
        signer = load_site_key(paths.control_dir)
        self.prover = Prover(
            Site(
                paths.ledger,
                ZoneInfo(site.config.site.timezone),
                signer,
                key_trust(paths.control_dir, signer.public_key()),
                whole_proof(site.config.path) if whole is None else whole,
            ),
            site.books,
            site.engine.gate,
            site.clock,
            lambda kind, severity, _facts: self.events.append((kind, severity)),
        )

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of the file."""
        return newest_checkpoint(self.site.file.connection)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the prover runs."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.prover.run(stop))
        try:
            yield
        finally:
            stop.set()
            self.prover.stop()
            await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another thread or process does."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"never: {what}")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[ControlSite]:
    """One open flat with some energy charged, its clock trusted."""
    made = ControlSite(tmp_path)
    made.sweeper.confirm_clock()
    made.read(1_000)
    await made.sweeper.sweep()
    await made.open_flat(10**12)
    await use(made, 5)
    yield made
    made.crash()


async def use(site: ControlSite, wh: int) -> None:
    """Use some energy and post it."""
    site.clock.pass_s(60)
    point = site.engine.points[0]
    assert point.last is not None
    site.read(point.last.energy_wh[0] + wh)
    site.sweeper.judge()
    site.engine.due.add(0)
    await site.sweeper.sweep()


@pytest.mark.slow
async def test_each_local_day_gets_one_checkpoint(site: ControlSite) -> None:
    """At the first look and after each local midnight, not in between; all prove themselves."""
    proof = Proof(site)
    days: list[str] = []
    async with proof.running():
        for _ in range(3):
            await until(
                lambda: proof.checkpoint is not None and proof.checkpoint.day not in days, "signed"
            )
            assert proof.checkpoint is not None
            days.append(proof.checkpoint.day)
            await use(site, 3)
            await asyncio.sleep(0.1)
            assert proof.checkpoint.day == days[-1]
            site.clock.pass_s(DAY_S - 60)
            await use(site, 3)
    assert days == ["2027-01-14", "2027-01-15", "2027-01-16"]
    assert site.engine.gate.chain_verified
    assert site.proof().proved


async def test_a_doubtful_clock_signs_no_day(site: ControlSite) -> None:
    """Which day is over is not known: nothing is signed, the gate opens all the same."""
    site.books.clock_offset_ms = None
    proof = Proof(site)
    async with proof.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        await asyncio.sleep(0.2)
    assert proof.checkpoint is None


def spoil(site: ControlSite, seq: int) -> None:
    """Change a transaction in the file."""
    connection = site.file.connection
    connection.execute("DROP TRIGGER ledger_transaction_frozen")
    connection.execute('UPDATE ledger_transaction SET memo = \'{"x":"y"}\' WHERE seq = ?', (seq,))


@pytest.mark.slow
async def test_start_goes_on_from_the_checkpoint_and_the_whole_proof_follows(
    site: ControlSite,
) -> None:
    """Damage before the checkpoint: the start is quick and opens, the background shuts again."""
    first = Proof(site)
    async with first.running():
        await until(lambda: first.checkpoint is not None, "signed")
    spoil(site, 1)
    site.engine.gate.chain_verified = False
    second = Proof(site)
    async with second.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        assert second.events == []
        site.clock.pass_s(WHOLE_AFTER_S)
        await until(lambda: bool(second.events), "the whole proof")
    assert second.events == [("LEDGER_BROKEN", "critical")]
    assert not site.engine.gate.chain_verified
    # A restart or a reload must not open it again on the strength of the checkpoint.
    third = Proof(site)
    async with third.running():
        await until(lambda: bool(third.events), "the alarm")
    assert third.events == [("LEDGER_BROKEN", "critical")]
    assert not site.engine.gate.chain_verified


@pytest.mark.slow
async def test_what_is_known_to_be_damaged_is_not_signed(site: ControlSite) -> None:
    """The whole proof fails: the day that ends next gets no checkpoint; a whole start clears it."""
    verdict = '{"problems": ["transaction 1: spoiled"], "transactions": 1}'
    proof = Proof(site, whole=("/bin/echo", verdict))
    async with proof.running():
        await until(lambda: proof.checkpoint is not None, "signed")
        assert proof.checkpoint is not None
        day = proof.checkpoint.day
        site.clock.pass_s(WHOLE_AFTER_S)
        await until(lambda: bool(proof.events), "the whole proof")
        site.clock.pass_s(DAY_S)
        await use(site, 3)
        await asyncio.sleep(0.2)
        assert proof.checkpoint.day == day
    mark = paths_of(site.config).control_dir / SUSPECT_NAME
    assert mark.exists()
    again = Proof(site)
    async with again.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        await until(lambda: not mark.exists(), "mark gone")


async def test_a_whole_proof_that_cannot_be_started_ends_nothing(site: ControlSite) -> None:
    """No process to spare: the gate stays as it is, and so does control."""
    proof = Proof(site, whole=("/nonexistent/python",))
    async with proof.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        site.clock.pass_s(WHOLE_AFTER_S)
        await asyncio.sleep(0.3)
    assert (proof.events, site.engine.gate.chain_verified) == ([], True)


async def test_damage_after_the_checkpoint_keeps_the_gate_shut(site: ControlSite) -> None:
    """What the start does look at must be right."""
    first = Proof(site)
    async with first.running():
        await until(lambda: first.checkpoint is not None, "signed")
    await use(site, 3)
    site.engine.gate.chain_verified = False
    row = site.file.connection.execute("SELECT max(seq) FROM ledger_transaction").fetchone()
    spoil(site, row[0])
    second = Proof(site)
    async with second.running():
        await until(lambda: bool(second.events), "the alarm")
    assert second.events == [("LEDGER_BROKEN", "critical")]
    assert not site.engine.gate.chain_verified


async def test_another_key_means_a_proof_of_everything(site: ControlSite) -> None:
    """A lost key (new PC): its checkpoints are told, the chain is proved whole, work goes on."""
    first = Proof(site)
    async with first.running():
        await until(lambda: first.checkpoint is not None, "signed")
    site.engine.gate.chain_verified = False
    control_dir = paths_of(site.config).control_dir
    old = load_site_key(control_dir).public_key()
    (control_dir / KEY_NAME).unlink()
    second = Proof(site)
    async with second.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
    assert second.events == [("CHECKPOINT_FOREIGN", "warning")]
    (control_dir / FORMER_NAME).write_text(f"# the PC of 2025\n{old.hex()}\n")
    third = Proof(site)
    site.engine.gate.chain_verified = False
    async with third.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
    assert third.events == []


async def test_a_stop_ends_the_whole_proof(site: ControlSite) -> None:
    """A background proof of hours is killed with the stop; no verdict, no alarm."""
    proof = Proof(site, whole=("/bin/sleep", "600"))
    async with proof.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        site.clock.pass_s(WHOLE_AFTER_S)
        await asyncio.sleep(0.3)
    assert proof.events == []


async def test_a_whole_proof_that_dies_says_nothing_about_the_ledger(site: ControlSite) -> None:
    """Killed for memory or without a file: the gate stays as it is."""
    proof = Proof(site, whole=("/bin/false",))
    async with proof.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        site.clock.pass_s(WHOLE_AFTER_S)
        await asyncio.sleep(0.3)
    assert proof.events == []
    assert site.engine.gate.chain_verified


async def test_a_whole_proof_that_hangs_is_ended(
    site: ControlSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline kills it; the gate stays as it is and nothing is said of the ledger."""
    monkeypatch.setattr("gateway.app.control.prover.WHOLE_MAX_S", 0.2)
    proof = Proof(site, whole=("/bin/sh", "-c", f"echo $$ > {site.directory}/pid; exec sleep 600"))
    pid = site.directory / "pid"
    async with proof.running():
        await until(lambda: site.engine.gate.chain_verified, "gate open")
        site.clock.pass_s(WHOLE_AFTER_S)
        await until(lambda: pid.exists() and pid.read_text() != "", "the whole proof")
        process = Path("/proc") / pid.read_text().strip()
        await until(lambda: not process.exists(), "its end")
        assert site.engine.gate.chain_verified
    assert proof.events == []


def test_a_line_that_is_no_key_is_named(tmp_path: Path) -> None:
    """The file of former keys is written by people."""
    assert published_trust(tmp_path) is None
    load_site_key(tmp_path)
    assert published_trust(tmp_path) is not None
    (tmp_path / FORMER_NAME).write_text("\n# remark\nabcd\n")
    with pytest.raises(ConfigurationError, match="former-keys:3: not a public key"):
        published_trust(tmp_path)
