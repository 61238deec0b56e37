-- The newest head of control's ledger that north has seen. Control compares it at its start: a
-- ledger that does not contain it is an older one, or another.

CREATE TABLE ledger_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL CHECK (seq >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    seen_utc_ms INTEGER NOT NULL
) STRICT;
