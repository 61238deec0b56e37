-- ESP32 nodes by device id: who was heard, what a person decided, up to which message readings counted.
-- Rows are overwritten as the state changes; what happened is told by events and the audit chain.

CREATE TABLE device (
    device_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'refused', 'quarantined')),
    -- The meter that it serves once it is approved.
    meter_id TEXT,
    -- Of the device's secret; a new one revokes the one before.
    generation INTEGER NOT NULL CHECK (generation >= 1),
    firmware TEXT NOT NULL,
    first_utc_ms INTEGER NOT NULL,
    seen_utc_ms INTEGER NOT NULL,
    boot_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    note TEXT NOT NULL,
    -- What it told last, for people: relay, lease, backlog.
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
