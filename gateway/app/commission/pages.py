"""Commissioning reports as pages in Markdown: what an electrician hands over."""

from collections.abc import Mapping, Sequence
from typing import cast

from gateway.app.commission.report import Document, rows_of


def meter_page(document: Document) -> str:
    """The report as a page in Markdown."""
    text = _cell
    lines = [
        f"# Commissioning of {text(document['meter'])}, {text(document['site_name'])}",
        "",
        (
            f"**{text(document['verdict'])}** on {text(document['at'])} by {text(document['by'])}, "
            f"meter at {text(document['address'])}"
        ),
        "",
        "| check | result | what was seen | next step |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {text(row['check'])} | {text(row['result'])} | {text(row['text'])} "
        f"| {text(row['next_step'])} |"
        for row in rows_of(document, "findings")
    ]
    accepted = rows_of(document, "accepted")
    if accepted:
        lines += ["", "Accepted by a person:", ""]
        lines += [f"- {text(row['check'])}: {text(row['reason'])}" for row in accepted]
    fixed = cast("Sequence[object]", document["fixed"])
    if fixed:
        lines += ["", "Changed at the meter:", "", *(f"- {text(change)}" for change in fixed)]
    for title, key in (("Configured", "configured"), ("Found", "found")):
        facts = cast("Mapping[str, object]", document.get(key) or {})
        if facts:
            lines += ["", f"## {title}", "", "| what | is |", "|---|---|"]
            lines += [f"| {text(name)} | {text(value)} |" for name, value in facts.items()]
    return "\n".join(lines) + "\n"


def site_page(document: Document) -> str:
    """The site's report as a page in Markdown."""
    text = _cell
    lines = [
        f"# Commissioning of {text(document['site_name'])}",
        "",
        (
            f"{document['commissioned']} of {document['meters']} meters ({document['percent']} %) "
            f"commissioned with a signed report; {text(document['at'])}, {text(document['by'])}"
        ),
        "",
        "| meter | verdict | at | by | signed | open points |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows_of(document, "rows"):
        cells = [row["meter"], row["verdict"], row["at"], row["by"]]
        cells.append("yes" if row["is_signed"] else row["problem"])
        cells.append(", ".join(cast("Sequence[str]", row["open_points"])))
        lines.append("| " + " | ".join(map(text, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    """A value inside a table: what a person or a meter wrote must not become markup."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {item}" for name, item in value.items())
    for mark in ("\\", "|", "<", "*", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
