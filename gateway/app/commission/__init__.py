"""Commissioning: find meters, prove their wiring, say it in a signed report."""
