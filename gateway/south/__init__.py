"""Meters in: links, poller, one declarative file per meter model."""
