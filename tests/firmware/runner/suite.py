"""In MicroPython: run shared test functions, and cases that CPython recorded; print JSON lines."""

import io
import json
import sys


def _trace(error):
    text = io.StringIO()
    sys.print_exception(error, text)
    return text.getvalue()


def _module(name):
    return __import__(name, None, None, ["tests"])


async def run_tests(names):
    """Run every `test_` function of the named modules; one line each."""
    for name in names:
        module = _module(name)
        for key in sorted(dir(module)):
            if not key.startswith("test_"):
                continue
            failure = None
            try:
                waiting = getattr(module, key)()
                if waiting is not None:
                    await waiting
            except Exception as error:
                failure = _trace(error)
            print(json.dumps([name + "." + key, failure]))


def replay(path):
    """Run recorded [property, case, outcome] by line; prints what comes out otherwise."""
    properties = _module("tests.firmware.same.properties")
    count = 0
    with open(path) as lines:
        for line in lines:
            name, case, expected = json.loads(line)
            count += 1
            try:
                outcome = json.loads(json.dumps(getattr(properties, name)(case)))
            except Exception as error:
                outcome = _trace(error)
            if outcome != expected:
                print(json.dumps([name, case, expected, outcome]))
    print(json.dumps(count))
