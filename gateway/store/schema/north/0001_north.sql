-- What an office asks for. North writes it; control reads it and trusts nothing in it.

CREATE TABLE store_epoch (
    number INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE CHECK (length(epoch) = 26),
    cause TEXT NOT NULL CHECK (cause IN ('created', 'restored')),
    since_utc_ms INTEGER NOT NULL
) STRICT;

-- AUTOINCREMENT: an id is never given twice, also after old requests were deleted.
CREATE TABLE request (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 128),
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    actor TEXT NOT NULL,
    role TEXT NOT NULL,
    source TEXT NOT NULL,
    approver TEXT,
    created_utc_ms INTEGER NOT NULL,
    expires_utc_ms INTEGER
) STRICT;
CREATE TRIGGER request_frozen BEFORE UPDATE ON request
BEGIN SELECT RAISE(ABORT, 'a request never changes'); END;
CREATE TRIGGER request_once BEFORE INSERT ON request
WHEN EXISTS (SELECT 1 FROM request WHERE key = NEW.key OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a key has one request'); END;

CREATE TABLE api_token (
    token_id TEXT PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    label TEXT NOT NULL,
    role TEXT NOT NULL,
    created_utc_ms INTEGER NOT NULL,
    expires_utc_ms INTEGER,
    revoked_utc_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TRIGGER api_token_revoked BEFORE UPDATE ON api_token
WHEN OLD.revoked_utc_ms IS NOT NULL OR NEW.token_hash <> OLD.token_hash OR NEW.role <> OLD.role
BEGIN SELECT RAISE(ABORT, 'a token may only be revoked, once'); END;

CREATE TABLE delivery_cursor (
    destination TEXT NOT NULL,
    stream TEXT NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (destination, stream)
) STRICT, WITHOUT ROWID;
