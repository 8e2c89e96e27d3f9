"""What the steps do. A handler runs inside the transaction that completes its step, and returns the step's results."""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from json_schema import violations

HERE = Path(__file__).parent
EXAMPLES_SHOWN = 3

Results = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step as claim_steps hands it out; the fields are named as its columns."""

    receipt: UUID
    task_id: int
    step_name: str
    handler: str
    config: dict[str, Any]
    attempt: int
    context: dict[str, Any]
    dependencies: dict[str, Results]

    def input_file(self, name: str) -> Path:
        return Path(self.context["input"]) / name


class BadData(Exception):
    """The input is wrong: another attempt would find it no better."""


class FileBusy(Exception):
    """Somebody else holds the file: a later attempt may succeed."""


def validate(_: psycopg.Connection[Any], step: Step) -> Results:
    """Checks a file against its schema, and that its keys are unique."""
    name = step.config["file"]
    content = step.input_file(name).read_bytes()
    schema = json.loads(step.input_file(step.config["schema"]).read_bytes())
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadData(f"{name} is not JSON: {error}") from error
    if wrong := list(islice(violations(document, schema), 5)):
        raise BadData(f"{name}: {'; '.join(wrong)}")
    items = document.get(step.config["list"], [])
    keys = Counter(item.get(step.config["key"]) for item in items)
    if None in keys or not keys:
        raise BadData(f"{name}: no items, or one without {step.config['key']}")
    if twice := [key for key, count in keys.items() if count > 1]:
        raise BadData(f"{name}: more than one item has the key {', '.join(twice[:5])}")
    return {"items": len(items), "sha256": hashlib.sha256(content).hexdigest()}


def load(conn: psycopg.Connection[Any], step: Step) -> Results:
    """Replaces the content of a table by a file: exactly the bytes that the step before has validated."""
    with _locked(step.input_file(step.config["file"])) as content:
        (validated,) = step.dependencies.values()
        if hashlib.sha256(content).hexdigest() != validated["sha256"]:
            raise BadData(f"{step.config['file']} has changed since it was validated")
        items = json.loads(content)[step.config["list"]]
    table = sql.Identifier("etl", step.config["table"])
    columns = step.config["columns"]
    conn.execute(sql.SQL("DELETE FROM {}").format(table))
    copy_in = sql.SQL("COPY {} ({}) FROM STDIN").format(table, sql.SQL(", ").join(map(sql.Identifier, columns)))
    with conn.cursor().copy(copy_in) as copy:
        for item in items:
            copy.write_row([item.get(key) for key in columns.values()])
    return {"rows": len(items)}


@contextmanager
def _locked(path: Path) -> Iterator[bytes]:
    """The content of a file that nobody is changing meanwhile."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileBusy(f"{path.name} is locked by another process") from None
        yield file.read()


def check(conn: psycopg.Connection[Any], step: Step) -> Results:
    """Runs a query that writes findings, and counts them by their kind."""
    query = (HERE / "checks" / step.config["query"]).read_bytes()
    found = Counter(finding for (finding,) in conn.execute(query, {"task_id": step.task_id}))
    return {finding: found[finding] for finding in step.config["findings"]}


def report(conn: psycopg.Connection[Any], step: Step) -> Results:
    """Writes the report, as rows and as a file. The findings' numbers are the results of the steps before."""
    rows = {table: _count(conn, table) for table in step.config["tables"]}
    findings = dict(sorted(found for results in step.dependencies.values() for found in results.items()))
    numbers = rows | findings
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO etl.report (task_id, item, value) VALUES (%s, %s, %s)",
            [(step.task_id, item, value) for item, value in numbers.items()],
        )
    lines = [f"# ISO code lists: report of task {step.task_id}", "", "## Rows", ""]
    lines += [f"- {item}: {value}" for item, value in rows.items()]
    lines += ["", "## Findings", ""]
    for finding, count in findings.items():
        lines.append(f"- {finding}: {count}")
        lines += [f"  - {subject}: {detail}" for subject, detail in _examples(conn, step.task_id, finding)]
    path = Path(step.context["output"]) / step.config["file"]
    _replace(path, "\n".join(lines) + "\n")
    return {"file": str(path), "numbers": numbers}


def _count(conn: psycopg.Connection[Any], table: str) -> int:
    rows = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("etl", table)))
    return int(rows.fetchall()[0][0])


def _examples(conn: psycopg.Connection[Any], task_id: int, finding: str) -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT subject, detail FROM etl.findings WHERE task_id = %s AND finding = %s ORDER BY subject LIMIT %s",
        (task_id, finding, EXAMPLES_SHOWN),
    ).fetchall()


def _replace(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the new one, never half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


HANDLERS: dict[str, Callable[[psycopg.Connection[Any], Step], Results]] = {
    "validate": validate,
    "load": load,
    "check": check,
    "report": report,
}
