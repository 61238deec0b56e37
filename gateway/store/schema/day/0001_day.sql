-- Readings of one UTC day: chunks of some minutes per meter, and minute means beside them.

CREATE TABLE meter (
    number INTEGER PRIMARY KEY,
    meter_id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE layout (
    number INTEGER PRIMARY KEY,
    names TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    meter INTEGER NOT NULL REFERENCES meter,
    start_utc_ms INTEGER NOT NULL,
    end_utc_ms INTEGER NOT NULL,
    layout INTEGER NOT NULL REFERENCES layout,
    registers INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX chunk_meter ON chunk (meter, start_utc_ms, end_utc_ms);
CREATE TABLE minute (
    id INTEGER PRIMARY KEY,
    meter INTEGER NOT NULL REFERENCES meter,
    start_utc_ms INTEGER NOT NULL,
    end_utc_ms INTEGER NOT NULL,
    layout INTEGER NOT NULL REFERENCES layout,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX minute_meter ON minute (meter, start_utc_ms, end_utc_ms);
-- Up to which sweep each shard is in this file: a fold that is repeated adds nothing twice.
CREATE TABLE folded (
    shard INTEGER PRIMARY KEY,
    sweep INTEGER NOT NULL
) STRICT;
