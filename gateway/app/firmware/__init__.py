"""Releases of the node's firmware: keys, compiling, bundles (docs/firmware-update.md)."""
