"""The demo: a simulated site, the real gateway, and what it did against the truth."""
