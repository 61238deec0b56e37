"""What MicroPython has and CPython lacks: nothing else in `node` asks where it runs."""

try:
    from micropython import const
except ImportError:

    def const(value):
        """A number that MicroPython's compiler puts in place; elsewhere the number itself."""
        return value
