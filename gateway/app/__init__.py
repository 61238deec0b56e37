"""Configuration, clock, supervision, command line, wiring: knows all other rooms."""
