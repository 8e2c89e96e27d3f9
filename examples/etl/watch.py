"""Shows events as they come, and how far a task is.

watch.py                                      all tasks, until Ctrl-C
watch.py TASK                                 one task, until it has ended
watch.py --start TEMPLATE --context FILE      creates a task and watches it

The exit code is 0 if the task is complete, otherwise 1. Connects as libpq does (PGHOST, PGUSER, PGDATABASE …).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from terminal import IS_TERMINAL, Screen, coloured

RUNNING = ("pending", "in_progress")
COLOURS = {
    "completed": "green",
    "failed": "red",
    "max_retries_reached": "red",
    "cancelled": "red",
    "backoff": "yellow",
    "retry_requested": "yellow",
}
BAR_WIDTH = 18
# A line per event tells all there is; this is for the clock, and for a server that announces less (stepwise.notify).
REFRESH = 0.2 if IS_TERMINAL else 1.0

FAILURE = """
    SELECT coalesce(metadata->'error'->>'message', metadata->>'reason', 'no reason given')
    FROM stepwise.transitions WHERE task_id = %s AND event_id = %s
"""
BACKOFF = """
    SELECT extract(epoch FROM next_retry_at - last_failure_at)::float8
    FROM stepwise.get_step_readiness_status(%s, ARRAY[%s])
"""


class Watch:
    def __init__(self, conn: psycopg.Connection[DictRow], task_id: int | None) -> None:
        self.conn = conn
        self.task_id = task_id
        self.screen = Screen()
        self.begin = time.monotonic()

    def until_end(self, limit: float | None) -> str | None:
        """Follows the task; its last state, or None where the time is up."""
        while True:
            for event in self.events(REFRESH):
                self.show(event)
            state = self.show_progress()
            if state and state not in RUNNING:
                for event in self.events(0):
                    self.show(event)
                return state
            if limit is not None and time.monotonic() - self.begin > limit:
                return None

    def for_ever(self) -> None:
        shown: int | None = None
        while True:
            for event in self.events(REFRESH):
                self.show(event)
                shown = event["task_id"]
            if shown is not None:
                self.show_progress(shown)

    def events(self, seconds: float) -> list[dict[str, Any]]:
        """What has been announced; waits so long for the first."""
        return list(self._events(seconds))

    def _events(self, seconds: float) -> Iterator[dict[str, Any]]:
        for notification in self.conn.notifies(timeout=seconds, stop_after=1):
            event = json.loads(notification.payload)
            if self.task_id in (None, event["task_id"]):
                yield event

    def show(self, event: dict[str, Any]) -> None:
        at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        who = event.get("step") or f"task {event['task_id']}"
        name = event["event"]
        colour = COLOURS.get(name.split(".")[1], "grey")
        self.screen.line(f"{at}  {coloured(f'{name:<28}', colour)} {who:<26} {self.detail(event)}".rstrip())

    def detail(self, event: dict[str, Any]) -> str:
        match event["event"]:
            case "step.failed":
                message = self._value(FAILURE, event["task_id"], event["event_id"])
                return f"attempt {event['attempt']}: {message}"
            case "step.backoff":
                seconds = self._value(BACKOFF, event["task_id"], event["step_id"])
                return f"next attempt in {seconds:.1f} s" if seconds is not None else ""
            case "step.retry_requested":
                return f"attempt {event['attempt']}"
            case "task.initialize_requested":
                return str(event["template"])
        return ""

    def _value(self, query: str, *arguments: Any) -> Any:
        row = self.conn.execute(query.encode(), arguments).fetchone()
        return next(iter(row.values())) if row else None

    def show_progress(self, task_id: int | None = None) -> str | None:
        """Writes the last line; the task's state."""
        query = "SELECT * FROM stepwise.get_task_execution_context(%s)"
        row = self.conn.execute(query, (task_id or self.task_id,)).fetchone()
        if row is None:
            return None
        filled = round(BAR_WIDTH * float(row["completion_percentage"]) / 100)
        counts = f"complete {row['completed_steps']}/{row['total_steps']}, in progress {row['in_progress_steps']}"
        counts += f", pending {row['pending_steps']}, error {row['failed_steps']}"
        clock = f"  {time.monotonic() - self.begin:.1f} s" if IS_TERMINAL else ""
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        percentage = f"{row['completion_percentage']:.0f} %"
        self.screen.last_line(f"[{bar}] {percentage:>5}  {counts}{clock}", row["completed_steps"])
        return str(row["status"])


def create(conn: psycopg.Connection[DictRow], template: str, context: Path) -> int:
    query = "SELECT stepwise.create_task(%s, %s) AS task_id"
    row = conn.execute(query, (template, Jsonb(json.loads(context.read_bytes())))).fetchone()
    assert row is not None
    return int(row["task_id"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=int, nargs="?", help="a task's id")
    parser.add_argument("--start", metavar="TEMPLATE")
    parser.add_argument("--context", type=Path, metavar="FILE", help="the new task's context, as JSON")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="give up after this time")
    args = parser.parse_args()
    if (args.start is None) != (args.context is None) or (args.start and args.task):
        parser.error("--start and --context go together, without a task's id")
    with psycopg.connect(autocommit=True, application_name="watch", row_factory=dict_row) as conn:
        conn.execute("LISTEN stepwise_task")
        conn.execute("LISTEN stepwise_step")
        watch = Watch(conn, create(conn, args.start, args.context) if args.start else args.task)
        try:
            if watch.task_id is None:
                watch.for_ever()
            state = watch.until_end(args.limit)
        finally:
            watch.screen.close()
    if state is None:
        print(f"error: task {watch.task_id} has not ended within {args.limit:g} s", file=sys.stderr)
    return 0 if state == "complete" else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (psycopg.Error, OSError) as error:
        sys.exit(f"error: {error}")
