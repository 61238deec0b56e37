-- What is watched of meters and feeders: signs of tampering, suspicions, feed-in of the day, balances.
-- Rows are overwritten as the state changes; what happened is told by events and the audit chain.

CREATE TABLE watch_state (
    kind TEXT NOT NULL CHECK (kind IN ('tamper', 'transformer', 'export', 'feeder')),
    -- A meter's id, or a feeder's.
    subject TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;
