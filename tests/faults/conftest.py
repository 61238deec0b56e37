"""The sites of the end-to-end tests."""

from tests.e2e.conftest import make_site

__all__ = ["make_site"]
