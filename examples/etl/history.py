"""A task's steps with their times, from its history."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

STEPS = """
    SELECT s.step_id, r.name, s.state, s.attempts, r.parents, t.created_at AS ready_at
    FROM stepwise.tasks AS t
    JOIN stepwise.steps AS s USING (task_id)
    JOIN stepwise.template_steps AS r ON r.template_id = s.template_id AND r.step_id = s.step_id
    WHERE task_id = %s
    ORDER BY s.step_id
"""
CHANGES = """
    SELECT step_id, to_state, at, attempt, worker,
           coalesce(metadata->'error'->>'message', metadata->>'reason', 'no reason given') AS message
    FROM stepwise.transitions
    WHERE task_id = %s AND step_id IS NOT NULL
    ORDER BY event_id
"""


@dataclass
class StepHistory:
    step_id: int
    name: str
    state: str
    attempts: int
    parents: list[int]
    # When it could have been claimed first: the task's creation, or the end of its last parent.
    ready_at: datetime
    last_parent: int | None = None
    finished_at: datetime | None = None
    worker: str = ""
    # From ready to the first claim; between a failure and the next claim; in the hands of workers.
    waited: timedelta = timedelta()
    backoff: timedelta = timedelta()
    ran: timedelta = timedelta()
    failures: list[str] = field(default_factory=list)


def read_steps(conn: psycopg.Connection[Any], task_id: int) -> list[StepHistory]:
    """The steps in the order of their ids, so parents come before children."""
    with conn.cursor(row_factory=class_row(StepHistory)) as cursor:
        steps = {step.step_id: step for step in cursor.execute(STEPS, (task_id,))}
    with conn.cursor(row_factory=dict_row) as cursor:
        changes = cursor.execute(CHANGES, (task_id,)).fetchall()
    for step in steps.values():
        _settle_ready(step, steps)
        _add_up(step, [change for change in changes if change["step_id"] == step.step_id])
    return list(steps.values())


def _settle_ready(step: StepHistory, steps: dict[int, StepHistory]) -> None:
    for parent in step.parents:
        finished_at = steps[parent].finished_at
        if finished_at and finished_at >= step.ready_at:
            step.ready_at, step.last_parent = finished_at, parent
    if step.last_parent is None and step.parents:
        step.last_parent = step.parents[0]


def _add_up(step: StepHistory, changes: Iterable[dict[str, Any]]) -> None:
    since, in_hand, failed = step.ready_at, False, False
    for change in changes:
        passed = change["at"] - since
        if in_hand:
            step.ran += passed
        elif failed:
            step.backoff += passed
        else:
            step.waited += passed
        since, in_hand, failed = change["at"], change["to_state"] == "in_progress", change["to_state"] == "error"
        step.worker = change["worker"] or step.worker
        if failed:
            step.failures.append(f"attempt {change['attempt']}: {change['message']}")
        step.finished_at = None if in_hand or failed or change["to_state"] == "pending" else change["at"]
