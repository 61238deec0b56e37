"""SQLite files, one writer each: the only room that imports sqlite3."""
