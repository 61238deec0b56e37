"""Simulated meters: real Modbus TCP servers that behave as the manual says."""
