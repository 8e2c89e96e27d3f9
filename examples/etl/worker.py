"""A worker: claims steps of the queue, does them, reports. Start as many as you like; Ctrl-C or SIGTERM ends one.

Connects as libpq does (PGHOST, PGUSER, PGDATABASE …). Its role needs the level "worker" (stepwise.grant_access).
"""

import argparse
import os
import select
import signal
import socket
import sys
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import psycopg
from psycopg.errors import ObjectNotInPrerequisiteState
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from handlers import HANDLERS, BadData, Step
from heartbeat import Heartbeat

CLAIM = """
    SELECT receipt, task_id, step_name, handler, coalesce(config, '{}') AS config, attempt, context, dependencies
    FROM stepwise.claim_steps(%s, %s, %s, %s)
"""
# Seconds until there may be something to claim: a backoff or a lease ends. NULL: nothing is known to come.
SECONDS_TO_WAIT = "SELECT extract(epoch FROM stepwise.next_visible_at(%s) - stepwise.now())::float8"
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 30.0


class Worker:
    def __init__(self, name: str, queues: list[str], batch: int, lease: timedelta) -> None:
        self.name = name
        self.queues = queues
        self.batch = batch
        self.lease = lease
        self.conn = psycopg.connect(autocommit=True, application_name=name)
        self.stopping = False
        # A signal writes to this pair, which ends the wait for notifications at once.
        self.wakeup, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)

    def stop_on_signals(self) -> None:
        def stop(number: int, _: FrameType | None) -> None:
            self.stopping = True

        signal.set_wakeup_fd(self._signalled.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    def run(self) -> None:
        self.conn.execute("LISTEN stepwise_ready")
        self.log("waiting for steps")
        while not self.stopping:
            steps = self.claim()
            for step in steps:
                if self.stopping:
                    self.release(step)
                else:
                    self.work(step)
            if not steps:
                self.wait()
        self.log("stopped")
        self.conn.close()

    def claim(self) -> list[Step]:
        with self.conn.cursor(row_factory=class_row(Step)) as cursor:
            return cursor.execute(CLAIM, (self.name, self.queues, self.batch, self.lease)).fetchall()

    def work(self, step: Step) -> None:
        """Does a step. What it writes and its completion are one transaction: both are stored or neither is."""
        begin = time.monotonic()
        try:
            with Heartbeat(step.receipt, self.lease), self.conn.transaction():
                if step.handler not in HANDLERS:
                    raise LookupError(f"this worker has no handler {step.handler!r}")
                results = HANDLERS[step.handler](self.conn, step)
                self.conn.execute("SELECT stepwise.complete_step(%s, %s)", (step.receipt, Jsonb(results)))
        except Exception as error:
            if self.conn.closed:
                raise
            self.fail(step, error)
        else:
            self.log(f"{step.step_name}: complete after {(time.monotonic() - begin) * 1000:.0f} ms")

    def fail(self, step: Step, error: Exception) -> None:
        message = "; ".join(str(error).splitlines())
        self.log(f"{step.step_name}: attempt {step.attempt} failed: {message}")
        report = Jsonb({"type": type(error).__name__, "message": message})
        retryable = not isinstance(error, BadData)
        self.report(step, "SELECT stepwise.fail_step(%s, %s, %s)", report, retryable)

    def release(self, step: Step) -> None:
        self.log(f"{step.step_name}: given back")
        self.report(step, "SELECT stepwise.release_step(%s)")

    def report(self, step: Step, query: str, *arguments: Any) -> None:
        try:
            self.conn.execute(query.encode(), (step.receipt, *arguments))
        except ObjectNotInPrerequisiteState as error:
            # The lease ended and the step is another worker's now, or an operator decided it.
            self.log(f"{step.step_name}: not reported: {error.diag.message_primary}")

    def wait(self) -> None:
        """Returns when there may be something to claim, or to stop."""
        seconds = self.conn.execute(SECONDS_TO_WAIT, (self.queues,)).fetchall()[0][0]
        timeout = LONGEST_WAIT if seconds is None else min(max(seconds, SHORTEST_WAIT), LONGEST_WAIT)
        # Notifications that came with an answer are in memory: the socket does not tell of them.
        if self.drain_notifications() or self.stopping:
            return
        select.select([self.conn.fileno(), self.wakeup.fileno()], [], [], timeout)
        self.drain_notifications()

    def drain_notifications(self) -> int:
        return sum(1 for _ in self.conn.notifies(timeout=0))

    def log(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="as shown in the history")
    parser.add_argument("--queue", action="append", help="may be given more than once (default: etl)")
    parser.add_argument("--batch", type=int, default=2, help="most steps to claim at once (default: 2)")
    parser.add_argument("--lease", type=float, default=30, metavar="SECONDS", help="default: 30")
    args = parser.parse_args()
    try:
        worker = Worker(args.name, args.queue or ["etl"], args.batch, timedelta(seconds=args.lease))
        worker.stop_on_signals()
        worker.run()
    except psycopg.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
