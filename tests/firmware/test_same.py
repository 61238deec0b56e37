"""The shared tests pass inside real MicroPython too, from source and from `.mpy`."""

import importlib

import pytest

from tests.firmware import micropython


@pytest.mark.slow
@pytest.mark.parametrize("form", ["py", "mpy"])
def test_shared_tests_pass_in_micropython(form: str) -> None:
    """Every test function that CPython collects from same/ passes there as well."""
    names = micropython.module_names(sorted(micropython.SAME.glob("test_*.py")))
    program = micropython.in_task(
        "from tests.firmware.runner import suite", f"suite.run_tests({names!r})"
    )
    outcomes = micropython.run(program, form=form)
    assert [f"{name}: {failure}" for name, failure in outcomes if failure] == []
    wanted = {
        f"{name}.{key}"
        for name in names
        for key in dir(importlib.import_module(name))
        if key.startswith("test_")
    }
    assert {name for name, _ in outcomes} == wanted
