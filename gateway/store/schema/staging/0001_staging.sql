-- The last minutes of readings, one row per sweep and shard, until they are folded into chunks.

CREATE TABLE meter (
    number INTEGER PRIMARY KEY,
    meter_id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE layout (
    number INTEGER PRIMARY KEY,
    names TEXT NOT NULL UNIQUE
) STRICT;
-- place = shard * 2^40 + sweep number: the sweeps of a shard lie together.
CREATE TABLE sweep (
    place INTEGER PRIMARY KEY,
    utc_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
