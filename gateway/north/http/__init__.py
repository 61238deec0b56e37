"""The HTTP API: `/api/v1`, one file per area, one table of refusals."""
