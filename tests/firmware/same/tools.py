"""What tests of the firmware share on both interpreters."""


def refused(kind, call, *arguments):
    """The exception of a kind that a call raises. Fails when it raises none."""
    try:
        outcome = call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"not refused: {outcome!r}")
