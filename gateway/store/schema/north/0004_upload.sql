-- Bytes that belong to a request and are too many for its row: firmware images, until control has
-- taken them. The newest few stay, so that a request can be executed again after a restore.

CREATE TABLE upload (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256 TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64)
) STRICT;

CREATE TABLE upload_part (
    upload INTEGER NOT NULL REFERENCES upload,
    number INTEGER NOT NULL,
    content BLOB NOT NULL CHECK (length(content) <= 65536),
    PRIMARY KEY (upload, number)
) STRICT;
