"""prepaid-gateway: prepaid electricity for one site."""

__version__ = "0.1.0"
