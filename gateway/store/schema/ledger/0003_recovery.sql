-- RECOVERY: after a restore, or when somebody else knows a newer ledger, nobody is cut for credit
-- until a manager has reconciled and released it. Both tables are append-only.

CREATE TABLE recovery (
    number INTEGER PRIMARY KEY,
    reason TEXT NOT NULL CHECK (reason IN ('restored', 'older_than_known')),
    since_utc_ms INTEGER NOT NULL,
    head_seq INTEGER NOT NULL,
    head_hash BLOB NOT NULL CHECK (length(head_hash) = 32),
    -- The newest head that anybody knew of a ledger that is lost; sequence 0 where nobody knew.
    known_seq INTEGER NOT NULL,
    known_hash BLOB NOT NULL CHECK (length(known_hash) = 32),
    -- The last outcome of that time: what came after it was replayed or is new.
    outcome_number INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER recovery_frozen BEFORE UPDATE ON recovery
BEGIN SELECT RAISE(ABORT, 'recovery is append-only'); END;
CREATE TRIGGER recovery_kept BEFORE DELETE ON recovery
BEGIN SELECT RAISE(ABORT, 'recovery is append-only'); END;
CREATE TRIGGER recovery_next BEFORE INSERT ON recovery
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM recovery)
BEGIN SELECT RAISE(ABORT, 'recovery has gaps'); END;

-- A release ends the recovery of its number and all before it.
CREATE TABLE recovery_release (
    number INTEGER PRIMARY KEY REFERENCES recovery,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_key TEXT NOT NULL
) STRICT;
CREATE TRIGGER recovery_release_frozen BEFORE UPDATE ON recovery_release
BEGIN SELECT RAISE(ABORT, 'recovery_release is append-only'); END;
CREATE TRIGGER recovery_release_kept BEFORE DELETE ON recovery_release
BEGIN SELECT RAISE(ABORT, 'recovery_release is append-only'); END;
