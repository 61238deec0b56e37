-- What north refused, until control has it in the audit record. North writes and deletes; control
-- reads and trusts nothing in it. AUTOINCREMENT: an id is never given twice.

CREATE TABLE denial (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL CHECK (length(body) <= 8000)
) STRICT;
