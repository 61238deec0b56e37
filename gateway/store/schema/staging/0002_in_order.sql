-- place = sweep * 2^20 + shard: sweeps are appended at the end and leave at the front. By shard
-- (place = shard * 2^40 + sweep) every sweep touched a page of each shard: 500 GB a day of wear.
CREATE TABLE moved (
    place INTEGER PRIMARY KEY,
    utc_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
INSERT INTO moved
SELECT ((place & ((1 << 40) - 1)) << 20) + (place >> 40), utc_ms, body FROM sweep ORDER BY 1;
DROP TABLE sweep;
ALTER TABLE moved RENAME TO sweep;
-- Up to which sweep each shard was folded: its rows before that only wait for their neighbours.
CREATE TABLE folded (
    shard INTEGER PRIMARY KEY,
    sweep INTEGER NOT NULL
) STRICT;
