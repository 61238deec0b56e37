"""The meters' CSV: what spreadsheets write, with the place of every cell."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.config_csv import MAX_ROWS, Table, parse_table, read_table
from gateway.app.config_place import FileRefusedError, Place

COLUMNS = ("id", "model", "host", "label", "port")


def parse(text: str) -> Table:
    """Parse a table of the test's columns."""
    return parse_table(text, COLUMNS, "m.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_first_line_decides_the_delimiter(delimiter: str) -> None:
    """Comma, semicolon and tab are understood, whatever the spreadsheet's language."""
    text = "id,host,label\na,h,\nb,i,x\n".replace(",", delimiter)
    assert [row.cells for row in parse(text).rows] == [
        {"id": "a", "host": "h"},
        {"id": "b", "host": "i", "label": "x"},
    ]


def test_a_cell_has_its_place_behind_quotes_and_line_breaks() -> None:
    """A quoted cell may hold the delimiter and line breaks; places behind it stay right."""
    text = 'id,label,host\na,"x, ""y""",h\nb,"two\nlines", i\n'
    first, second = parse(text).rows
    assert first.cells == {"id": "a", "label": 'x, "y"', "host": "h"}
    assert first.place("host") == Place("m.csv", 2, 14)
    assert second.place("host") == Place("m.csv", 4, 9)


def test_a_cell_that_is_missing_has_a_place_in_its_line() -> None:
    """A short row and an absent column point to the right line."""
    (row,) = parse("id,host\nabc\n").rows
    assert row.place("host").line == 2
    assert row.place("port") == Place("m.csv", 2, 1)


def test_blank_and_comment_lines_are_skipped_and_counted() -> None:
    """Lines without content do not shift the places of others."""
    text = "id,host\n\n# riser a\n,,\r\na,h\r\n"
    (row,) = parse(text).rows
    assert row.place("id") == Place("m.csv", 5, 1)


def test_an_unknown_column_is_refused_with_a_suggestion() -> None:
    """A misspelt heading would otherwise silently drop 800 values."""
    with pytest.raises(FileRefusedError) as caught:
        parse("id,hots,,id\n")
    assert caught.value.problems == (
        "m.csv:1:4: hots: unknown column 'hots': did you mean 'host'?",
        "m.csv:1:9: (file): a column without a name",
        "m.csv:1:10: id: the column 'id' stands twice",
    )


def test_a_heading_may_be_capitalised_and_spaced() -> None:
    """A person's `Host ` is the column host."""
    assert parse("ID, Host \na,h\n").rows[0].cells == {"id": "a", "host": "h"}


def test_cells_beyond_the_columns_are_a_problem_of_their_row_alone() -> None:
    """A comma too many is named; the other rows are still read."""
    table = parse("id,host\na,h,x\nb,i\n")
    assert [str(problem) for problem in table.problems] == [
        "m.csv:2:1: (file): 3 cells under 2 columns"
    ]
    assert len(table.rows) == 2


def test_an_open_quotation_mark_is_named_where_it_opens() -> None:
    """The rest of the file is one broken record, found without a quadratic search."""
    started = time.perf_counter()
    table = parse('id,host\na,h\nb,"i\n' + "c,d\n" * 200_000)
    assert time.perf_counter() - started < 5.0
    assert [problem.place.line for problem in table.problems] == [3]
    assert len(table.rows) == 1


def test_the_number_of_rows_is_bounded() -> None:
    """A file beyond the limit is read up to it, and says so."""
    table = parse("id\n" + "a\n" * (MAX_ROWS + 5))
    assert len(table.rows) == MAX_ROWS
    assert f"more than {MAX_ROWS} rows" in table.problems[0].message


def test_an_empty_file_is_refused() -> None:
    """A file without a heading is no table without rows."""
    with pytest.raises(FileRefusedError, match="is empty"):
        parse("\n\n")


@given(st.text(alphabet=st.sampled_from('ab,;\t"\n\r #')))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way, and every cell can be placed."""
    try:
        table = parse_table("id,host\n" + text, COLUMNS, "m.csv")
    except FileRefusedError:
        return
    for row in table.rows:
        for column in COLUMNS:
            assert row.place(column).line >= 2


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    """The CSV that spreadsheets save is read, and places do not count the mark."""
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbfid;host\r\na;h\r\n")
    (row,) = read_table(path, COLUMNS).rows
    assert row.cells == {"id": "a", "host": "h"}
    assert row.place("host").column == 3
