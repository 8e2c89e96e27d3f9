"""A small listener: handles the events of a subscription as they come, and those that came while it was away.

A notification only wakes it; what it handles, it reads from the subscription. So a notification that it misses, because it
was not connected or not there, costs nothing but time. docs/events.md says more.

Connects as libpq does (PGHOST, PGUSER, PGDATABASE …). SIGTERM or Ctrl-C ends it after the events at hand.
"""

import argparse
import random
import signal
import sys
import time

import psycopg
from psycopg.rows import namedtuple_row

SOON, LONGEST_WAIT = 0.2, 30.0  # seconds: while an event waits for a transaction that may precede it; where none is known


def handle(conn, event):
    """What is written here is stored together with the acknowledgement of the event, or not at all."""
    row = (event.event_id, event.event, event.task_id, event.step_name, event.at)
    conn.execute("INSERT INTO feed.entries (event_id, event, task_id, step, at) VALUES (%s, %s, %s, %s, %s)", row)


class Listener:
    def __init__(self, subscription, batch):
        self.subscription, self.batch = subscription, batch
        self.conn, self.stopping = None, False

    def run(self):
        failures = 0
        while not self.stopping:
            try:
                if self.conn is None or self.conn.closed:
                    self.connect()
                if not self.turn():
                    self.wait()
                failures = 0
            except psycopg.OperationalError as error:  # the connection, the server, a deadlock: the same again
                self.log(f"{type(error).__name__}: {' '.join(str(error).split())}")
                failures += 1
                self.pause(min(0.1 * 2 ** min(failures, 8), 10) * random.uniform(0.5, 1))

    def connect(self):
        self.conn = psycopg.connect(autocommit=True, application_name="listener", row_factory=namedtuple_row)
        # Before the first read: what comes after it is announced, what came before it is read.
        self.conn.execute("LISTEN stepwise_task")
        self.conn.execute("LISTEN stepwise_step")

    def turn(self):
        """Handles a batch and acknowledges it in one transaction. While that is open, other listeners get none."""
        with self.conn.transaction():
            claim = "SELECT * FROM stepwise.claim_events(%s, %s)"
            events = self.conn.execute(claim, [self.subscription, self.batch]).fetchall()
            for event in events:
                handle(self.conn, event)
            if events:
                self.conn.execute("SELECT stepwise.ack_events(%s, %s)", [self.subscription, events[-1].event_id])
        if events:
            self.log(f"handled {len(events)} events up to {events[-1].event_id}")
        return len(events)

    def wait(self):
        # An event may be there that is not given yet: one with a lower id may still be committed.
        behind = "SELECT safe_event < last_event FROM stepwise.subscription_lag() WHERE subscription = %s"
        row = self.conn.execute(behind, [self.subscription]).fetchone()
        self.pause(SOON if row is None or row[0] else LONGEST_WAIT, self.notified)

    def notified(self, seconds):
        return any(True for _ in self.conn.notifies(timeout=seconds, stop_after=1))

    def pause(self, seconds, ends_early=time.sleep):
        """In slices, because a signal does not end a wait in Python."""
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            if ends_early(min(left, 0.2)):
                return

    def log(self, text):
        print(f"{time.strftime('%H:%M:%S')} listener: {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscription", default="feed", help="default: feed")
    parser.add_argument("--batch", type=int, default=100, help="most events to handle at once (default: 100)")
    args = parser.parse_args()
    listener = Listener(args.subscription, args.batch)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(listener, "stopping", True))
    listener.run()


if __name__ == "__main__":
    main()
