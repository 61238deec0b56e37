"""`watch_state`: the newest state of each, and nothing else."""

from pathlib import Path

import pytest

from gateway.core.errors import StoreCorruptError
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.watch import WatchKind, WatchState, put_watch_states, read_watch_states


def test_states_replace_those_before(tmp_path: Path) -> None:
    """By kind and subject; other kinds are left alone, a damaged row is said to be one."""
    owner = own_directory(tmp_path, create=False)
    file = open_writer(tmp_path / "ledger.db", LEDGER, owner=owner, create=True)
    try:
        connection = file.connection
        for utc_ms in (1, 2):
            put_watch_states(
                connection,
                [
                    WatchState(WatchKind.TAMPER, "flat-1", utc_ms, {"n": utc_ms}),
                    WatchState(WatchKind.FEEDER, "riser", utc_ms, {"ä": [utc_ms, None]}),
                ],
            )
        found = read_watch_states(connection, *WatchKind)
        assert {key: (one.utc_ms, dict(one.body)) for key, one in found.items()} == {
            (WatchKind.TAMPER, "flat-1"): (2, {"n": 2}),
            (WatchKind.FEEDER, "riser"): (2, {"ä": [2, None]}),
        }
        assert list(read_watch_states(connection, WatchKind.EXPORT)) == []
        connection.execute("UPDATE watch_state SET body = '[]' WHERE kind = 'tamper'")
        with pytest.raises(StoreCorruptError, match="flat-1"):
            read_watch_states(connection, WatchKind.TAMPER)
    finally:
        file.stop()
        owner.release()
