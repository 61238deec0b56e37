"""YAML with a place for every key and value: a bounded tree built from the parser's events.

PyYAML's own constructors forget where a value stood, keep the last of two equal keys and follow
aliases without a limit. Here a scalar stays the text that was written, so `output: 0.0` means the
output 0.0, `id: 007` keeps its zeros, `no` is no boolean, and no number passes through a float
before the field's own type was asked.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from gateway.app.config_place import Place, Problem, Step, quote, read_text, refuse, show_path

MAX_BYTES: Final = 4_000_000
MAX_DEPTH: Final = 12
# A site of 4,000 meters with ten keys each in one file; an alias counts as often as it is used.
MAX_NODES: Final = 100_000
# YAML 1.2 section 5.1: the characters that a stream may contain.
_NOT_PRINTABLE: Final = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
# YAML 1.2 section 10.3, the core schema, without its octal, hexadecimal, infinity and NaN.
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "false": False}
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
# The C parser where the wheel has it: ten times faster, the same events.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class ScalarNode:
    """One value as it was written; `text` is None for an unquoted null."""

    place: Place
    text: str | None
    quoted: bool = False
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class ListNode:
    """A list. `size` counts the nodes in it, `height` its levels; aliases where they are used."""

    place: Place
    items: list["Node"] = field(default_factory=list)
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class MapNode:
    """Keys in the order of the file; `key_places` says where each key stands."""

    place: Place
    items: dict[str, "Node"] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)
    size: int = 1
    height: int = 0


Node = ScalarNode | ListNode | MapNode


class Document:
    """A YAML file as a tree of nodes with places.

    `root` is None when the file holds nothing. `problems` are those that leave a usable tree
    (a key that stands twice, of which the first counts; a tag).
    """

    def __init__(self, file: str, root: Node | None, problems: tuple[Problem, ...]) -> None:
        self.file = file
        self.root = root
        self.problems = problems

    def node(self, steps: Sequence[Step]) -> Node | None:
        """The node at a path, or None where the file has none."""
        found = self.root
        for step in steps:
            if isinstance(found, MapNode) and isinstance(step, str):
                found = found.items.get(step)
            elif isinstance(found, ListNode) and isinstance(step, int):
                found = found.items[step] if step < len(found.items) else None
            else:
                return None
        return found

    def place(self, steps: Sequence[Step]) -> Place:
        """Where the value at a path stands; of a missing one, its nearest parent's key."""
        node = self.node(steps)
        if node is not None:
            return node.place
        return self.key_place(steps[:-1]) if steps else Place(self.file, 1, 1)

    def key_place(self, steps: Sequence[Step]) -> Place:
        """Where the key of a path stands; an item of a list stands where its value starts."""
        if not steps:
            return Place(self.file, 1, 1)
        parent = self.node(steps[:-1])
        if isinstance(parent, MapNode) and isinstance(steps[-1], str):
            return parent.key_places.get(steps[-1]) or self.key_place(steps[:-1])
        return self.place(steps)

    def problem(self, steps: Sequence[Step], message: str) -> Problem:
        """A problem with the value at a path."""
        return Problem(self.place(steps), show_path(steps), message)


def as_text(node: Node | None) -> object:
    """The tree as dicts, lists and the texts that were written (None for null)."""
    if isinstance(node, MapNode):
        return {key: as_text(value) for key, value in node.items.items()}
    if isinstance(node, ListNode):
        return [as_text(item) for item in node.items]
    return node.text if node is not None else None


def as_values(node: Node | None) -> object:
    """The tree as JSON values: unquoted integers, floats and true/false become such.

    For documents whose meaning depends on it: a price that is not quoted becomes a float here,
    which the money rules then refuse instead of guessing its last digit.
    """
    if isinstance(node, MapNode):
        return {key: as_values(value) for key, value in node.items.items()}
    if isinstance(node, ListNode):
        return [as_values(item) for item in node.items]
    if node is None or node.text is None or node.quoted:
        return node.text if node is not None else None
    if node.text in _BOOLEANS:
        return _BOOLEANS[node.text]
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    return float(node.text) if _FLOAT.fullmatch(node.text) else node.text


def read_document(path: Path, shown: str | None = None) -> Document:
    """Read one YAML file.

    `shown` is how the file is named in messages (its path as given when None).
    Raises FileRefusedError for a file that cannot be read or parsed, for more than one document
    in it, and beyond MAX_BYTES, MAX_DEPTH or MAX_NODES.
    """
    name = shown or str(path)
    return parse_document(read_text(path, name, MAX_BYTES), name)


def parse_document(text: str, file: str) -> Document:
    """The tree of a YAML text; `file` names it in places. Raises as `read_document` does."""
    wrong = _NOT_PRINTABLE.search(text)
    if wrong:
        start = text.rfind("\n", 0, wrong.start()) + 1
        place = Place(file, text.count("\n", 0, wrong.start()) + 1, wrong.start() - start + 1)
        raise refuse([Problem(place, "", f"the character {wrong[0]!r} is not allowed in YAML")])
    builder = _Builder(file)
    try:
        for event in _events(text):
            builder.take(event)
    except _UnusableError as error:
        raise refuse([*builder.problems, error.problem]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        context = f" ({error.context})" if error.context else ""
        problem = Problem(place, "", f"is not YAML: {error.problem}{context}")
        raise refuse([*builder.problems, problem]) from error
    return Document(file, builder.root, tuple(builder.problems))


def _events(text: str) -> Iterator[yaml.Event]:
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
    return events


class _UnusableError(Exception):
    """The rest of the file cannot be read with sense."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class _Frame:
    """A collection whose end has not come yet; `key` is the key that waits for its value."""

    node: ListNode | MapNode
    anchor: str | None
    key: str | None = None


class _Builder:
    """Turns events into nodes; iterative, so that a deep file cannot exhaust the stack."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._file = file
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._size = 0

    def take(self, event: yaml.Event) -> None:
        """Add one event; raises _UnusableError beyond a limit."""
        mark = event.start_mark
        place = (
            Place(self._file, mark.line + 1, mark.column + 1) if mark else Place(self._file, 1, 1)
        )
        if isinstance(event, yaml.ScalarEvent):
            self._tag(event.tag, place)
            plain = not event.style
            text = None if plain and event.value in _NULL else event.value
            self._attach(ScalarNode(place, text, not plain), event.anchor, place)
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise self._unusable(
                    place, f"the alias *{event.anchor} has no complete anchor before it"
                )
            self._attach(known, None, place)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._tag(event.tag, place)
            self._open(event, place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self._stack.pop()
            self._attach(frame.node, frame.anchor, frame.node.place)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._unusable(place, "a second document starts here: one is expected")

    def _open(self, event: yaml.Event, place: Place) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.node, MapNode) and top.key is None:
            raise self._unusable(place, "a key must be a plain word")
        if len(self._stack) >= MAX_DEPTH:
            raise self._unusable(place, f"is nested more than {MAX_DEPTH} levels deep")
        mapping = isinstance(event, yaml.MappingStartEvent)
        node: ListNode | MapNode = MapNode(place) if mapping else ListNode(place)
        self._stack.append(_Frame(node, getattr(event, "anchor", None)))

    def _attach(self, node: Node, anchor: str | None, place: Place) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        # A collection's children were counted when they came; an alias counts all that it repeats.
        alias = node.place is not place
        self._size += node.size if alias else 1
        if self._size > MAX_NODES:
            raise self._unusable(place, f"holds more than {MAX_NODES} values")
        if len(self._stack) + node.height > MAX_DEPTH:
            raise self._unusable(place, f"is nested more than {MAX_DEPTH} levels deep")
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        if isinstance(frame.node, MapNode) and frame.key is None:
            frame.key = self._key(frame.node, node, place)
            return
        frame.node.size += node.size
        frame.node.height = max(frame.node.height, node.height + 1)
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.key is not None:
            frame.node.items.setdefault(frame.key, node)
            frame.key = None

    def _key(self, parent: MapNode, node: Node, place: Place) -> str:
        if not isinstance(node, ScalarNode) or node.text is None:
            raise self._unusable(place, "a key must be a plain word")
        first = parent.key_places.setdefault(node.text, place)
        if first is not place:
            message = f"the key {quote(node.text)} stands twice, first at {first}"
            self.problems.append(Problem(place, self._path(node.text), message))
        return node.text

    def _path(self, *last: Step) -> str:
        steps: list[Step] = []
        for frame in self._stack:
            if isinstance(frame.node, ListNode):
                steps.append(len(frame.node.items))
            elif frame.key is not None:
                steps.append(frame.key)
        return show_path([*steps, *last])

    def _tag(self, tag: str | None, place: Place) -> None:
        if tag is not None:
            self.problems.append(Problem(place, self._path(), f"the tag {quote(tag)} is not used"))

    def _unusable(self, place: Place, message: str) -> _UnusableError:
        return _UnusableError(Problem(place, self._path(), message))
