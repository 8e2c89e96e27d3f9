"""Sends finished tasks to an OpenTelemetry collector, as spans over OTLP/HTTP with JSON.

Connects to PostgreSQL as libpq does (PGHOST, PGUSER, PGDATABASE …), as a role of the level reader, and to the collector that
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT names (default: http://localhost:4318), with the headers of
OTEL_EXPORTER_OTLP_HEADERS. Ends with 1 where a task could not be sent.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import psycopg
from psycopg.rows import namedtuple_row

import spans

HERE = pathlib.Path(__file__).parent
AGAIN = (429, 502, 503, 504)  # what the protocol calls retryable
TRIES = 5


def read(conn, name, **parameters):
    return conn.execute((HERE / name).read_text(), parameters).fetchall()


def has_ready_at(conn):
    """Whether the history itself says when a claimed step had become ready."""
    found = "SELECT FROM pg_attribute WHERE attrelid = 'stepwise.transitions'::regclass AND attname = 'ready_at'"
    return conn.execute(found).fetchone() is not None


def recorded_ready_at(conn, task_id):
    ready = ("SELECT event_id, ready_at AT TIME ZONE 'UTC' FROM stepwise.transitions "
             "WHERE task_id = %s AND ready_at IS NOT NULL")
    return dict(tuple(row) for row in conn.execute(ready, [task_id]).fetchall())


def request_of(conn, task):
    """An ExportTraceServiceRequest with all spans of a task."""
    history = read(conn, "history.sql", task_id=task.task_id)
    if has_ready_at(conn):
        recorded = recorded_ready_at(conn, task.task_id)
        history = [row._replace(ready_at=recorded.get(row.event_id, row.ready_at)) for row in history]
    steps = {step.step_id: step for step in read(conn, "steps.sql", task_id=task.task_id)}
    version = conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_stepwise'").fetchone()
    resource = {"service.name": task.namespace, "db.system.name": "postgresql", "db.namespace": task.database}
    scope = {"name": "pg_stepwise", "version": version[0]}
    return {"resourceSpans": [{
        "resource": {"attributes": spans.attributes(resource)},
        "scopeSpans": [{"scope": scope, "spans": spans.task_spans(task, steps, history)}],
    }]}


def endpoint():
    given = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return given or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").rstrip("/") + "/v1/traces"


def headers():
    given = (pair.partition("=") for pair in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if pair)
    unquote = urllib.parse.unquote
    return {"Content-Type": "application/json", **{unquote(key.strip()): unquote(text.strip()) for key, _, text in given}}


def send(url, body):
    """Sends a request, again after a pause where the collector asks for it; what it did not take, or None."""
    for attempt in range(TRIES):
        request = urllib.request.Request(url, json.dumps(body).encode(), headers(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                partial = (json.loads(response.read() or b"{}") or {}).get("partialSuccess") or {}
            rejected = int(partial.get("rejectedSpans", 0))
            return f"{rejected} spans rejected: {partial.get('errorMessage', '')}" if rejected else None
        except urllib.error.HTTPError as error:
            if error.code not in AGAIN or attempt == TRIES - 1:
                return f"HTTP {error.code}"
            after = error.headers.get("Retry-After", "")
            pause = float(after) if after.isdigit() else 2**attempt / 10
        except OSError as error:
            if attempt == TRIES - 1:
                return str(error)
            pause = 2**attempt / 10
        time.sleep(pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=int, nargs="*", help="the id of a finished task")
    parser.add_argument("--since", metavar="INTERVAL", help="tasks that finished within it, such as '10 minutes'")
    parser.add_argument("--all", action="store_true", help="also tasks whose traceparent says that it is not sampled")
    parser.add_argument("--print", action="store_true", help="write requests, one a line, instead of sending them")
    args = parser.parse_args()
    if not args.task and args.since is None:
        parser.error("which tasks? Pass their ids, or --since")
    failed = 0
    with psycopg.connect(row_factory=namedtuple_row) as conn:
        # One snapshot: a task and its history belong together.
        conn.isolation_level, conn.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
        found = read(conn, "tasks.sql", task_ids=args.task, since=args.since)
        for task_id in sorted(set(args.task) - {task.task_id for task in found}):
            failed += 1
            print(f"task {task_id}: there is no finished task with this id", file=sys.stderr)
        for task in found:
            if not args.all and not spans.is_sampled(task):
                continue
            body = request_of(conn, task)
            if args.print:
                print(json.dumps(body))
            elif problem := send(endpoint(), body):
                failed += 1
                print(f"task {task.task_id}: {problem}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
