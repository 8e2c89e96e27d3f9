"""Keeps the lease of a step that takes longer than expected."""

import sys
import threading
from datetime import timedelta
from types import TracebackType
from uuid import UUID

import psycopg


class Heartbeat:
    """While the block runs, extends the lease each time a third of it has passed.

    It needs a connection of its own, because the worker's is busy in a transaction; it is opened at the first beat, so
    a short step does without.
    """

    def __init__(self, receipt: UUID, lease: timedelta) -> None:
        self._receipt = receipt
        self._lease = lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        pause = self._lease.total_seconds() / 3
        if self._ended.wait(pause):
            return
        try:
            with psycopg.connect(autocommit=True) as conn:
                while True:
                    conn.execute("SELECT stepwise.extend_lease(%s, %s)", (self._receipt, self._lease))
                    if self._ended.wait(pause):
                        return
        except psycopg.Error as error:
            # The step goes on: whether its report still counts is for complete_step to say.
            print(f"the lease could not be extended: {error}", file=sys.stderr, flush=True)
