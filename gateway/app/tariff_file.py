"""A tariff document in a YAML file: its content, and the line of everything wrong with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.config_place import Place, Problem, Step, refuse
from gateway.app.config_yaml import Document, MapNode, as_text, read_document
from gateway.core.money import Currency
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import TariffProblemsError, tariff_from_document

_STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class TariffFile:
    """What a file says, and where each value of it stands."""

    document: Document
    content: Mapping[str, object]

    def problem(self, path: str, message: str) -> Problem:
        """A problem at a path such as `grid.blocks[1].price`, with its line and column."""
        steps: list[Step] = [int(index) if index else name for name, index in _STEP.findall(path)]
        node = self.document.node(steps[:-1]) if steps else None
        # What is wrong with a key as such is shown at the key.
        at_key = isinstance(node, MapNode) and message.startswith("unknown key")
        place = self.document.key_place(steps) if at_key else self.document.place(steps)
        return Problem(place, path, message)


def read_tariff_file(path: Path) -> TariffFile:
    """A file whose scalars are kept as the text that was written.

    Raises FileRefusedError for what is no YAML map, with the place.
    """
    document = read_document(path)
    if document.problems:
        raise refuse(document.problems)
    content = as_text(document.root)
    if not isinstance(content, dict):
        raise refuse([Problem(Place(document.file, 1, 1), "", "a tariff is a map of keys")])
    return TariffFile(document, content)


def tariff_of_file(path: Path, currency: Currency) -> Tariff:
    """The tariff that a file describes.

    Raises FileRefusedError with every problem as `file:line:column: path: message`.
    """
    found = read_tariff_file(path)
    try:
        return tariff_from_document(found.content, currency)
    except TariffProblemsError as error:
        raise refuse(
            found.problem(problem.place, problem.message) for problem in error.problems
        ) from error
