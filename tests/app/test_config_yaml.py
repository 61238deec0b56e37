"""Reading YAML: places, and limits that a hostile or careless file cannot pass."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.config_place import FileRefusedError, Place
from gateway.app.config_yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    as_text,
    as_values,
    parse_document,
    read_document,
)


def refused(text: str) -> str:
    """The first problem of a text that cannot be read."""
    with pytest.raises(FileRefusedError) as caught:
        parse_document(text, "f")
    return caught.value.problems[0]


def test_every_key_and_value_has_its_place() -> None:
    """Lines and columns count from 1, in characters, not bytes."""
    document = parse_document('ä: ö\nlist:\n  - {name: "x", other: 5}\n', "f")
    assert document.place(["ä"]) == Place("f", 1, 4)
    assert document.place(["list", 0, "other"]) == Place("f", 3, 24)
    assert document.key_place(["list", 0, "other"]) == Place("f", 3, 17)


def test_a_missing_key_stands_at_its_parent() -> None:
    """What is not there is looked for under the key that should hold it."""
    document = parse_document("a:\n  b: {c: 1}\n", "f")
    assert document.place(["a", "b", "missing"]) == Place("f", 2, 3)
    assert document.place(["nowhere", "at", "all"]) == Place("f", 1, 1)


def test_a_key_that_stands_twice_is_a_problem_and_the_first_counts() -> None:
    """No value is silently overwritten by a later one."""
    document = parse_document("a: 1\nb: {x: 1, x: 2}\na: 3\n", "f")
    assert [str(problem) for problem in document.problems] == [
        "f:2:11: b.x: the key 'x' stands twice, first at f:2:5",
        "f:3:1: a: the key 'a' stands twice, first at f:1:1",
    ]
    assert as_text(document.root) == {"a": "1", "b": {"x": "1"}}


def test_values_follow_the_core_schema() -> None:
    """Only what YAML 1.2 calls a number or boolean becomes one; quotes always mean text."""
    text = 'a: [1, -2, 1.5, 1e3, true, null, ~, no, 010, 1_0, 12:30, 0x1F, .inf, "3", "null"]'
    document = parse_document(text, "f")
    expected = [1, -2, 1.5, 1e3, True, None, None, "no", "010", "1_0", "12:30", "0x1F", ".inf"]
    assert as_values(document.root) == {"a": [*expected, "3", "null"]}


def test_a_price_without_quotes_is_a_float_for_the_money_rules_to_refuse() -> None:
    """The document reader does not turn 3.50 into text behind the author's back."""
    value = as_values(parse_document('price: 3.50\nother: "3.50"\n', "f").root)
    assert value == {"price": 3.5, "other": "3.50"}
    assert isinstance(value, dict)
    assert isinstance(value["price"], float)


def test_an_alias_repeats_what_its_anchor_names() -> None:
    """Sharing a block is allowed."""
    document = parse_document("a: &tls {ca: ca.pem}\nb: *tls\n", "f")
    assert as_text(document.root) == {"a": {"ca": "ca.pem"}, "b": {"ca": "ca.pem"}}


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    """Ten levels of tenfold aliases stop at the limit, in no time."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    started = time.perf_counter()
    assert "holds more than 100000 values" in refused("\n".join(lines))
    assert time.perf_counter() - started < 1.0


def test_an_anchor_inside_itself_is_refused() -> None:
    """A cycle has no end to print."""
    assert "the alias *a has no complete anchor before it" in refused("a: &a [1, *a]")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_is_bounded(opening: str) -> None:
    """A hundred thousand levels are refused at the limit, without exhausting the stack."""
    message = refused(opening * 100_000)
    assert f"is nested more than {MAX_DEPTH} levels deep" in message


def test_nesting_through_aliases_is_bounded() -> None:
    """An alias that carries depth counts where it is used."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 20)]
    assert f"is nested more than {MAX_DEPTH} levels deep" in refused("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2\nb: 3", "f:2:2: (file): is not YAML: did not find expected ',' or ']'"),
        ("a: b: c", "f:1:5: (file): is not YAML: mapping values are not allowed in this context"),
        ("\ta: 1", "f:1:1: (file): is not YAML: found character that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "f:2:1: (file): a second document starts here: one is expected"),
        ("a: 1\nb: x\x00y\n", "f:2:5: (file): the character '\\x00' is not allowed in YAML"),
        ("[a]: 1", "f:1:1: (file): a key must be a plain word"),
        ("a: {~: 1}", "f:1:5: a: a key must be a plain word"),
    ],
)
def test_a_broken_file_is_named_at_its_place(text: str, expected: str) -> None:
    """What cannot be parsed is one line that says where."""
    assert refused(text).startswith(expected)


def test_tags_are_refused() -> None:
    """A tag would construct something; here nothing is constructed."""
    document = parse_document("a: !!python/object/apply:os.system [x]\n", "f")
    assert len(document.problems) == 1
    assert "is not used" in document.problems[0].message


def test_the_length_of_a_file_is_bounded(tmp_path: Path) -> None:
    """A file beyond the limit is not read to its end."""
    path = tmp_path / "long.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(FileRefusedError, match="is longer than"):
        read_document(path)


def test_bytes_that_are_no_utf8_are_named_at_their_place(tmp_path: Path) -> None:
    """The first wrong byte's line and column are given."""
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nä: ".encode() + b"\xff\n")
    with pytest.raises(FileRefusedError) as caught:
        read_document(path, "latin.yaml")
    assert caught.value.problems[0].startswith("latin.yaml:2:4: (file): is not UTF-8")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    """An editor's mark is dropped."""
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert as_text(read_document(path).root) == {"a": "1"}


@given(st.text(alphabet=st.sampled_from("ab:-[]{}*&!|>'\"#,? \n\t\\%@~1.")))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than its own error."""
    with suppress(FileRefusedError):
        as_values(parse_document(text, "f").root)
