"""`python -m gateway`: the same as `prepaid-gateway`."""

from gateway.app.cli import main

if __name__ == "__main__":
    main()
