"""Power cuts (promise 1): the disk model, a sample of cuts, and mutants that must be noticed.

`make soak` cuts 10,000 times; what the recorder, the model and the check do stands in their files.
"""

from pathlib import Path
from random import Random

import pytest

from tests.powercut.cuts import PER_RECORDING, run_cuts
from tests.powercut.disk import Disk, Kind, Record, UnrecordedError
from tests.powercut.recording import compiler

ROOT = Path("/watched")
SEEDS = [Random(number) for number in range(200)]
needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="no C compiler (cc, gcc or clang) to build the recorder with"
)


class Calls:
    """Calls of a process, played on a disk at once."""

    def __init__(self, *, directory_syncs: bool = True) -> None:
        self.disk = Disk(ROOT, directory_syncs=directory_syncs)
        self._fd = 2

    def open(self, name: str = "") -> int:
        self._fd += 1
        self._play(Kind.OPEN, self._fd, str(ROOT / name))
        return self._fd

    def write(self, fd: int, body: bytes, offset: int = 0) -> None:
        self.disk.play(Record(Kind.WRITE, fd, offset, body))

    def sync(self, fd: int) -> None:
        self._play(Kind.SYNC, fd)

    def names(self, kind: Kind, *names: str) -> None:
        self._play(kind, -1, "\0".join(str(ROOT / name) for name in names))

    def _play(self, kind: Kind, fd: int, text: str = "") -> None:
        self.disk.play(Record(kind, fd, 0, text.encode()))

    def outcomes(self, base: Path) -> set[tuple[tuple[str, bytes], ...]]:
        """What the disk held after each of 200 cuts: names with their content."""
        found: set[tuple[tuple[str, bytes], ...]] = set()
        for number, seed in enumerate(SEEDS):
            target = base / str(number)
            target.mkdir(parents=True)
            self.disk.cut(seed, target)
            files = sorted(path for path in target.rglob("*") if path.is_file())
            found.add(tuple((str(p.relative_to(target)), p.read_bytes()) for p in files))
        return found


def test_what_was_synced_with_its_name_is_always_there(tmp_path: Path) -> None:
    """A file whose content and directory were synced is the same after every cut."""
    calls = Calls()
    file = calls.open("a")
    calls.write(file, b"kept")
    calls.sync(file)
    calls.sync(calls.open())
    assert calls.outcomes(tmp_path) == {(("a", b"kept"),)}


@pytest.mark.slow
def test_a_name_is_lost_without_a_sync_of_its_directory(tmp_path: Path) -> None:
    """A synced file may be gone as long as its directory was not synced; never half of it."""
    calls = Calls()
    file = calls.open("a")
    calls.write(file, b"kept")
    calls.sync(file)
    assert calls.outcomes(tmp_path / "1") == {(), (("a", b"kept"),)}
    blind = Calls(directory_syncs=False)
    blind.open("a")
    blind.sync(blind.open())
    assert () in blind.outcomes(tmp_path / "2")


def test_an_unsynced_write_is_there_or_not_or_torn(tmp_path: Path) -> None:
    """Of two sectors written over synced ones any may be new, and one may be cut at a byte."""
    calls = Calls()
    file = calls.open("a")
    calls.write(file, b"o" * 1024)
    calls.sync(file)
    calls.sync(calls.open())
    calls.write(file, b"n" * 1024)
    calls.write(file, b"m" * 10, 100)
    contents = {files[0][1] for files in calls.outcomes(tmp_path)}
    assert b"o" * 1024 in contents
    assert any(body[512:] == b"n" * 512 and body[:100] == b"o" * 100 for body in contents)
    assert any(body[:100] == b"n" * 100 and body[512:] == b"o" * 512 for body in contents)
    assert any(0 < body.count(b"m") < 10 for body in contents)


def test_a_rename_is_whole(tmp_path: Path) -> None:
    """After a rename that was not synced there is the old name or the new one, never both."""
    calls = Calls()
    for name, body in (("new", b"2"), ("a", b"1")):
        file = calls.open(name)
        calls.write(file, body)
        calls.sync(file)
    calls.sync(calls.open())
    calls.names(Kind.RENAME, "new", "a")
    assert calls.outcomes(tmp_path) == {(("a", b"1"), ("new", b"2")), (("a", b"2"),)}


def test_a_killed_process_leaves_its_writes_to_the_kernel(tmp_path: Path) -> None:
    """A kill loses nothing, and makes nothing sure either: the next process may sync it."""
    calls = Calls()
    file = calls.open("a")
    calls.sync(calls.open())
    calls.write(file, b"x" * 4)
    calls.disk.process_ended()
    assert len(calls.outcomes(tmp_path / "1")) > 1
    calls.sync(calls.open("a"))
    assert calls.outcomes(tmp_path / "2") == {(("a", b"x" * 4),)}


def test_what_cannot_be_played_back_is_refused(tmp_path: Path) -> None:
    """A shared mapping of a file that must survive, and files that no call explains, are told."""
    calls = Calls()
    file = calls.open("a")
    with pytest.raises(UnrecordedError, match="mmap"):
        calls.disk.play(Record(Kind.UNKNOWN, file, 0, b"mmap"))
    calls.disk.play(Record(Kind.UNKNOWN, calls.open("a.db-shm"), 0, b"mmap"))
    (tmp_path / "unseen").write_bytes(b"")
    with pytest.raises(UnrecordedError, match="unseen"):
        Disk(tmp_path).check_complete()


@needs_compiler
@pytest.mark.slow
def test_nothing_confirmed_is_lost_in_a_sample_of_cuts() -> None:
    """150 cuts at three recordings of real writers: 0 lost, 0 doubled, 0 corrupt (promise 1)."""
    assert [str(cut) for cut in run_cuts(1, 0, 150)] == []


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "first", "words"),
    [
        ("normal", 0, "confirmed"),  # `synchronous=NORMAL` instead of FULL
        ("early", 0, "confirmed"),  # confirmed before the commit
        ("split", 0, "outcomes of"),  # effect and outcome in two transactions
        ("trusting", 200, "confirmed"),  # the WAL of a killed process is believed unsynced
        ("nameless", 0, "does not exist"),  # no directory is ever synced
    ],
)
def test_a_mutant_is_noticed(mutant: str, first: int, words: str) -> None:
    """Each way of losing or splitting what was confirmed is found, most within 50 cuts."""
    for start in range(first, first + 40 * PER_RECORDING, PER_RECORDING):
        found = run_cuts(
            1, start, PER_RECORDING, mutant=mutant, directory_syncs=mutant != "nameless", workers=1
        )
        if any(words in str(cut) for cut in found):
            return
    pytest.fail(f"nothing of {mutant} was noticed")
