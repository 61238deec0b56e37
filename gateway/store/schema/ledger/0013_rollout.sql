-- Firmware of ESP32 nodes: signed images, and their staged roll-outs (core/rollout.py).
-- Rows of roll-outs are overwritten as they go on; what was decided is told by the audit chain.

CREATE TABLE firmware_image (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    version TEXT NOT NULL,
    hardware TEXT NOT NULL,
    security INTEGER NOT NULL CHECK (security >= 0),
    size INTEGER NOT NULL CHECK (size = length(content)),
    -- What names the key that signed it.
    signer TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    content BLOB NOT NULL
) STRICT;

CREATE TABLE rollout (
    number INTEGER PRIMARY KEY,
    -- The image as it was; it may be gone once the roll-out has ended.
    sha256 TEXT NOT NULL,
    version TEXT NOT NULL,
    hardware TEXT NOT NULL,
    security INTEGER NOT NULL,
    size INTEGER NOT NULL,
    plan TEXT NOT NULL,
    actor TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'completed')),
    stage INTEGER NOT NULL CHECK (stage >= 0),
    base INTEGER NOT NULL CHECK (base >= 1),
    -- Times count while the gateway runs.
    observed_ms INTEGER NOT NULL,
    lull_ms INTEGER NOT NULL,
    why TEXT NOT NULL,
    ended_utc_ms INTEGER
) STRICT;

CREATE TABLE rollout_device (
    rollout INTEGER NOT NULL REFERENCES rollout,
    place INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    phase TEXT NOT NULL,
    stage INTEGER NOT NULL,
    session TEXT NOT NULL,
    offset INTEGER NOT NULL,
    best INTEGER NOT NULL,
    quiet_ms INTEGER NOT NULL,
    away_ms INTEGER NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (rollout, device_id)
) STRICT, WITHOUT ROWID;
