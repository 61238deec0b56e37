"""The roles of people and programs."""

from enum import StrEnum


class Role(StrEnum):
    """Who may what (domain.md section 8)."""

    ADMIN = "admin"
    MANAGER = "manager"
    OPERATOR = "operator"
    TECHNICIAN = "technician"
    AUDITOR = "auditor"
    TENANT = "tenant"
    DEVICE = "device"
