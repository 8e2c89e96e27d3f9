"""What became of a task: its steps as a tree, and the report's numbers beside those counted from the files.

summary.py [TASK] --files DIRECTORY           without TASK: the newest

The exit code is 0 only if the task is complete and all numbers agree.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

import expected
from history import StepHistory, read_steps
from terminal import coloured

Connection = psycopg.Connection[tuple[Any, ...]]


def show_tree(steps: list[StepHistory]) -> None:
    """Each step stands below the parent it waited for longest; its other parents are named beside it."""
    names = {step.step_id: step.name for step in steps}
    rows = []
    for step, branch in _below(steps, None, ""):
        others = [names[parent] for parent in step.parents if parent != step.last_parent]
        rows.append((f"{branch}{step.name}", step, f"also after {', '.join(others)}" if others else ""))
    width = max(len(label) for label, _, _ in rows)
    head = f"{'step':<{width}}  state        attempts  worker     waited  backoff      ran"
    print(coloured(head, "grey"))
    for label, step, note in rows:
        colour = "green" if step.state == "complete" else "red" if step.state == "error" else None
        print(
            f"{label:<{width}}  {coloured(f'{step.state:<11}', colour)}  {step.attempts:>8}  {step.worker:<8}"
            f"  {_span(step.waited):>7}  {_span(step.backoff):>7}  {_span(step.ran):>7}  {note}".rstrip()
        )
        for failure in step.failures:
            print(coloured(f"{'':<{width}}  {failure}", "yellow"))


def _below(steps: list[StepHistory], parent: int | None, indent: str) -> Iterator[tuple[StepHistory, str]]:
    children = [step for step in steps if step.last_parent == parent]
    for step in children:
        last = step is children[-1]
        yield step, "" if parent is None else f"{indent}{'└─ ' if last else '├─ '}"
        deeper = "" if parent is None else f"{indent}{'   ' if last else '│  '}"
        yield from _below(steps, step.step_id, deeper)


def _span(span: timedelta) -> str:
    if not span:
        return "-"
    milliseconds = span / timedelta(milliseconds=1)
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def show_numbers(conn: Connection, task_id: int, files: Path) -> bool:
    """Compares item by item; whether all agree."""
    rows = conn.execute("SELECT item, value FROM etl.report WHERE task_id = %s", (task_id,)).fetchall()
    reported: dict[str, int] = {item: value for item, value in rows}
    counted = expected.count(files)
    print(coloured(f"{'number':<34} {'report':>7} {'files':>7}", "grey"))
    agree = True
    for item in counted | reported:
        left, right = reported.get(item), counted.get(item)
        agree &= left == right
        verdict = coloured("ok", "green") if left == right else coloured("differs", "red")
        print(f"{item:<34} {_number(left):>7} {_number(right):>7}  {verdict}")
    return agree


def _number(value: int | None) -> str:
    return "none" if value is None else str(value)


def find_task(conn: Connection, task_id: int | None) -> tuple[int, str, timedelta | None]:
    query = """
        SELECT task_id, state, finished_at - created_at FROM stepwise.tasks
        WHERE task_id = coalesce(%s, (SELECT max(task_id) FROM stepwise.tasks))
    """
    row = conn.execute(query, (task_id,)).fetchone()
    if row is None:
        raise SystemExit("error: there is no such task")
    return row[0], row[1], row[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=int, nargs="?")
    parser.add_argument("--files", type=Path, required=True, help="the directory of the JSON files")
    args = parser.parse_args()
    with psycopg.connect(autocommit=True, application_name="summary") as conn:
        task_id, state, took = find_task(conn, args.task)
        print(f"task {task_id}: {state}{f' after {_span(took)}' if took else ''}\n")
        show_tree(read_steps(conn, task_id))
        print(flush=True)
        if state != "complete":
            raise SystemExit(f"error: the task is not complete, its state is {state}")
        if not show_numbers(conn, task_id, args.files):
            raise SystemExit("error: the report and the files differ")


if __name__ == "__main__":
    try:
        main()
    except (psycopg.Error, OSError) as error:
        sys.exit(f"error: {error}")
