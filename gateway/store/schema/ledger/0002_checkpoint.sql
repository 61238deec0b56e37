-- One signed proof per local day: where the chains stood, and the sums to go on from. A start then
-- proves what came after it; the whole chain follows in the background.

CREATE TABLE checkpoint (
    number INTEGER PRIMARY KEY,
    day TEXT NOT NULL UNIQUE CHECK (length(day) = 10),
    utc_ms INTEGER NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    audit_seq INTEGER NOT NULL CHECK (audit_seq >= 0),
    audit_hash BLOB NOT NULL CHECK (length(audit_hash) = 32),
    -- zlib of canonical JSON: balances by ledger account, last registers by meter, point, account.
    sums BLOB NOT NULL,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;
CREATE TRIGGER checkpoint_frozen BEFORE UPDATE ON checkpoint
BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END;
CREATE TRIGGER checkpoint_kept BEFORE DELETE ON checkpoint
BEGIN SELECT RAISE(ABORT, 'checkpoint is append-only'); END;
CREATE TRIGGER checkpoint_next BEFORE INSERT ON checkpoint
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM checkpoint)
    OR NEW.day <= (SELECT coalesce(max(day), '') FROM checkpoint)
    OR NEW.seq < (SELECT coalesce(max(seq), 0) FROM checkpoint)
BEGIN SELECT RAISE(ABORT, 'checkpoints follow each other'); END;
-- What is signed must be part of the chain.
CREATE TRIGGER checkpoint_of_chain BEFORE INSERT ON checkpoint
WHEN NOT EXISTS (SELECT 1 FROM ledger_transaction WHERE seq = NEW.seq AND hash = NEW.hash)
BEGIN SELECT RAISE(ABORT, 'a checkpoint names a transaction of the chain'); END;
