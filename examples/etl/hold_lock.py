"""Holds the lock of a file until a step has failed because of it: hold_lock.py FILE STEP.

It plays a process that is still writing the file. It says "locked" once it holds the lock and would hear of the step.
"""

import fcntl
import json
import sys

import psycopg


def main(path: str, step: str) -> None:
    with psycopg.connect(autocommit=True, application_name="hold_lock") as conn, open(path, "rb") as file:
        conn.execute("LISTEN stepwise_step")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        for notification in conn.notifies():
            event = json.loads(notification.payload)
            if event["event"] == "step.failed" and event["step"] == step:
                return  # closes the file, which releases the lock


if __name__ == "__main__":
    main(*sys.argv[1:])
