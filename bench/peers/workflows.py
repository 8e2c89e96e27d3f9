"""Ladders of ten steps that do nothing, one worker: what DBOS and pg_stepwise both can do. DBOS runs the code of a workflow
step by step and stores each result; its steps stand in the order of the graph. Prints one JSON line per contender and
round."""

import json
import logging
import os
import time
import uuid

import psycopg
from dbos import DBOS, SetWorkflowID

TASKS = int(os.environ.get("TASKS", 100))
ROUNDS = int(os.environ.get("ROUNDS", 3))
SOCKET, DATABASE = os.environ["PGHOST"], os.environ["PGDATABASE"]
PARENTS = [[], [1], [1], [2, 3], [4], [4], [4], [5, 6, 7], [8], [9]]
RESULT = {"ok": True, "value": 42}
CONTEXT = {"order_id": 123, "customer": "abc"}


def stepwise(batch):
    with psycopg.connect(f"host={SOCKET} user=postgres dbname={DATABASE}", autocommit=True) as client:
        steps = [{"name": f"s{i}", "depends_on": [f"s{p}" for p in of]} for i, of in enumerate(PARENTS, 1)]
        definition = {"namespace": "peers_py", "name": "ladder", "steps": steps}
        client.execute("SELECT stepwise.register_template(%s::jsonb)", [json.dumps(definition)])
        client.execute("SET stepwise.notify = off")
        started, done, held = time.perf_counter(), 0, []
        for _ in range(TASKS):
            client.execute("SELECT stepwise.create_task('ladder', %s::jsonb, 'peers_py')", [json.dumps(CONTEXT)])
        while True:
            rows = client.execute(
                "SELECT outcome, receipt, step_name, context, dependencies FROM stepwise.report_and_claim("
                "'w', %s::uuid[], %s::jsonb[], queues => '{peers_py}', max_steps => %s)",
                [held, [json.dumps(RESULT)] * len(held), batch],
                prepare=True,
            ).fetchall()
            done += sum(row[0] == "accepted" for row in rows)
            held = [row[1] for row in rows if row[0] == "claimed"]
            if not held:
                break
        seconds = time.perf_counter() - started
    assert done == 10 * TASKS, done
    return seconds


@DBOS.step()
def step(context):
    return RESULT


@DBOS.workflow()
def ladder(context):
    for _ in PARENTS:
        step(context)
    return RESULT


def dbos():
    started = time.perf_counter()
    for _ in range(TASKS):
        with SetWorkflowID(str(uuid.uuid4())):
            ladder(CONTEXT)
    return time.perf_counter() - started


def main():
    logging.disable(logging.WARNING)
    url = f"postgresql://postgres@/{DATABASE}?host={SOCKET}"
    DBOS(config={"name": "peers", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()
    ladder(CONTEXT)
    contenders = {
        "pg_stepwise, one step per call": lambda: stepwise(1),
        "pg_stepwise, 10 steps per call": lambda: stepwise(10),
        "DBOS, one workflow after the other": dbos,
    }
    for round in range(ROUNDS):
        for name, measure in contenders.items():
            rate = 10 * TASKS / measure()
            print(json.dumps({"case": "ladders of ten steps", "name": name, "round": round, "rate": rate}), flush=True)
    DBOS.destroy()


main()
