"""A small worker: claims steps, does them, reports. docs/worker-protocol.md says why it does what it does.

Connects as libpq does (PGHOST, PGUSER, PGDATABASE …). SIGTERM or Ctrl-C ends it after the step at hand.
"""

import argparse
import os
import random
import signal
import socket
import sys
import threading
import time

import psycopg
from psycopg.errors import NoDataFound, ObjectNotInPrerequisiteState
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

SHORTEST_WAIT = 0.05  # seconds, where next_visible_at says less
GONE = (ObjectNotInPrerequisiteState, NoDataFound)  # 55000, P0002: the step is no longer held with this receipt
REPEAT = ("40001", "40P01")  # a serialization failure or a deadlock: the same transaction again


class BadInput(Exception):
    """Another attempt would find the input no better."""


# Handlers: what they write is stored together with the completion of their step, or not at all.
def check_order(conn, step, worker):
    order = conn.execute("SELECT amount FROM shop.orders WHERE order_id = %s", [step.context["order_id"]]).fetchone()
    if order is None or order[0] <= 0:
        raise BadInput(f"order {step.context['order_id']} does not exist or has no amount")
    return {"amount": float(order[0])}


def enter(conn, step, worker):
    order_id = step.context["order_id"]
    row = (order_id, step.task_id, step.step_name, step.attempt, worker, step.traceparent)
    entry = "INSERT INTO shop.entries (order_id, task_id, step, attempt, worker, traceparent) VALUES (%s, %s, %s, %s, %s, %s)"
    conn.execute(entry, row)
    conn.execute("UPDATE shop.orders SET steps_done = steps_done + 1 WHERE order_id = %s", [order_id])
    if step.attempt <= step.context.get("failures", {}).get(step.step_name, 0):
        raise ConnectionError("the service is not available")  # a failure on purpose, so that you see one
    return {"entered": step.step_name}


HANDLERS = {"check_order": check_order, "enter": enter}


def plain(error):
    """Its text on one line, not too long, without what JSON in PostgreSQL cannot hold."""
    return " ".join(str(error).encode(errors="replace").decode().replace("\0", "").split())[:1000]


class Worker:
    def __init__(self, name, queues, batch, lease, poll):
        self.name, self.queues, self.batch, self.lease = name, queues, batch, f"{lease} seconds"
        self.poll = poll
        self.held = []  # claimed and not reported, in the order of the claim
        self.conn, self.stopping = None, False
        threading.Thread(target=self.extend_leases, args=[lease / 3], daemon=True).start()

    def run(self):
        failures = 0
        while self.held or not self.stopping:
            try:
                if self.conn is None:
                    self.connect()
                self.turn()
                failures = 0
            except Exception as error:
                lost = self.conn is None or self.conn.closed
                if not lost and getattr(error, "sqlstate", None) not in REPEAT:
                    raise
                if self.conn is None and self.stopping:
                    break  # the leases will end
                self.conn = None if lost else self.conn
                failures += 1
                self.log(f"{plain(error)}: again")
                self.pause(min(0.1 * 2**failures, 10) * random.uniform(0.5, 1))  # not all workers at once
        self.log(f"stopped, {len(self.held)} steps not given back")

    def connect(self):
        self.conn = psycopg.connect(autocommit=True, application_name=self.name)
        self.conn.execute("LISTEN stepwise_ready")  # before the first claim: what becomes ready between is announced
        self.log("waiting for steps")

    def turn(self):
        if not self.held:
            with self.conn.cursor(row_factory=namedtuple_row) as cursor:
                claim = "SELECT * FROM stepwise.claim_steps(%s, %s, %s, %s)"
                self.held += cursor.execute(claim, [self.name, self.queues, self.batch, self.lease]).fetchall()
            if not self.held:
                self.wait()
        elif self.stopping:
            self.report(self.held[0], "release_step")
        else:
            self.work(self.held[0])

    def work(self, step):
        try:
            with self.conn.transaction():
                results = HANDLERS[step.handler](self.conn, step, self.name)
                outcome = self.call("complete_step", step.receipt, Jsonb(results))
                if outcome == "already_done":
                    raise psycopg.Rollback  # an earlier try was stored, and with it what it wrote
        except Exception as error:
            if self.conn.closed or getattr(error, "sqlstate", None) in REPEAT:
                raise
            report = {"type": type(error).__name__, "message": plain(error)}
            self.log(f"{step.step_name} failed: {report['type']}: {report['message']}")
            self.report(step, "fail_step", Jsonb(report), not isinstance(error, BadInput))
        else:
            self.settle(step, f"complete_step: {outcome}")

    def report(self, step, function, *arguments):
        try:
            outcome = self.call(function, step.receipt, *arguments)
        except GONE as error:
            outcome = error.diag.message_primary
        self.settle(step, f"{function}: {outcome}")

    def settle(self, step, what):
        self.held.remove(step)
        self.log(f"task {step.task_id} {step.step_name}, attempt {step.attempt}: {what}")

    def call(self, function, *arguments):
        placeholders = ", ".join(["%s"] * len(arguments))
        return self.conn.execute(f"SELECT stepwise.{function}({placeholders})", arguments).fetchone()[0]

    def wait(self):
        until = "SELECT extract(epoch FROM stepwise.next_visible_at(%s) - stepwise.now())::float8"
        seconds = self.conn.execute(until, [self.queues]).fetchone()[0]
        self.pause(self.poll if seconds is None else min(max(seconds, SHORTEST_WAIT), self.poll), self.notified)

    def notified(self, seconds):
        return any(True for _ in self.conn.notifies(timeout=seconds, stop_after=1))

    def pause(self, seconds, ends_early=time.sleep):
        """In slices, because a signal does not end a wait in Python."""
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            if ends_early(min(left, 0.2)):
                return

    def extend_leases(self, interval):
        """A thread with a connection of its own: the worker's is busy in the handler's transaction."""
        conn = None
        while True:
            time.sleep(interval)
            for step in self.held.copy():  # also those that wait for their turn
                try:
                    conn = conn or psycopg.connect(autocommit=True, application_name=f"{self.name} heartbeat")
                    conn.execute("SELECT stepwise.extend_lease(%s, %s)", [step.receipt, self.lease])
                except psycopg.Error as error:  # the next beat tries again; whether the step is lost, its report tells
                    self.log(f"heartbeat: {plain(error)}")
                    conn = None if conn is None or conn.closed else conn

    def log(self, text):
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="as shown in the history")
    parser.add_argument("--queue", action="append", help="may be given more than once (default: shop)")
    parser.add_argument("--batch", type=int, default=4, help="most steps to claim at once (default: 4)")
    parser.add_argument("--lease", type=float, default=30, metavar="SECONDS", help="default: 30")
    parser.add_argument("--poll", type=float, default=30, metavar="SECONDS", help="longest wait (default: 30)")
    args = parser.parse_args()
    worker = Worker(args.name, args.queue or ["shop"], args.batch, args.lease, args.poll)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(worker, "stopping", True))
    worker.run()


if __name__ == "__main__":
    main()
