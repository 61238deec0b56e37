"""What MicroPython has and CPython lacks: nothing else in `node` asks where it runs."""

try:
    from micropython import const
except ImportError:

    def const(value):
        """A number that MicroPython's compiler puts in place; elsewhere the number itself."""
        return value


try:
    import deflate

    def inflate(file, window_bits):  # noqa: ARG001
        """A stream with `read` of what the zlib stream in a file unpacks to.

        Errors are OSError, EOFError or ValueError. The window is what the stream asks for, at most
        `window_bits` on CPython.
        """
        return deflate.DeflateIO(file, deflate.ZLIB)

except ImportError:
    import zlib

    class _Inflate:
        def __init__(self, file, window_bits):
            self._file = file
            self._zlib = zlib.decompressobj(window_bits)

        def read(self, count):
            while not self._zlib.eof:
                packed = self._zlib.unconsumed_tail or self._file.read(512)
                try:
                    unpacked = self._zlib.decompress(packed, count)
                except zlib.error as error:
                    raise ValueError(str(error)) from None
                if unpacked:
                    return unpacked
                if not packed:
                    raise EOFError
            return b""

    inflate = _Inflate
