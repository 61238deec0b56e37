-- Up to which denial of which north.db control has written audit records, moved in the same commit.

CREATE TABLE denial_cursor (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    denial_id INTEGER NOT NULL
) STRICT;
