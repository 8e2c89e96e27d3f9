"""From a finished task to OpenTelemetry spans. README.md says which spans there are.

Ids are made of what the database says, so the spans of a task are the same whenever they are made.
"""

import hashlib

INTERNAL, CONSUMER = 1, 5  # SpanKind
ERROR = 2  # StatusCode; where nothing failed it stays unset, as instrumentation should leave it
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200  # bits of a span's flags: whether its parent is in another process


def task_spans(task, steps, history):
    """All spans of one task. `steps` by number; `history` in order, with ready_at in the rows of claims."""
    ids = Ids(task)
    changes = [change for change in history if change.step_id is None]
    spans = [of_task(task, steps, history, changes, ids)]
    for step_id, step in steps.items():
        of_step = [change for change in history if change.step_id == step_id]
        for claim, end in attempts(of_step):
            spans += of_attempt(task, step, claim, end, ids)
    return spans


class Ids:
    def __init__(self, task):
        self.task = task
        if task.traceparent:  # 00-<trace id>-<parent id>-<flags>
            _, self.trace, self.parent, self.flags = task.traceparent.split("-")
        else:
            unique = f"{task.database} {task.task_id} {task.created_at.isoformat()}"
            self.trace, self.parent, self.flags = digest(unique, 16), "", "01"
        self.root = self.span("task")

    def span(self, *parts):
        return digest(" ".join(map(str, (self.trace, self.task.task_id, *parts))), 8)


def digest(text, size):
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def is_sampled(task):
    """Whether who made the trace wants it recorded. Without one, nobody has said no."""
    return not task.traceparent or bool(int(task.traceparent[-2:], 16) & 1)


def of_task(task, steps, history, changes, ids):
    span = {
        **place(ids, ids.root, ids.parent, remote=True),
        "name": task.name,
        "kind": INTERNAL,
        **times(task.created_at, task.finished_at),
        "attributes": attributes({
            **template(task),
            "pg_stepwise.task.state": task.state,
            "pg_stepwise.task.requested_by": task.requested_by,
            "pg_stepwise.task.identity_key": task.identity_key,
            "pg_stepwise.task.tags": task.tags,
            "pg_stepwise.task.priority": task.priority,
            "pg_stepwise.task.steps": task.total_steps,
        }),
    }
    # What happens to a step outside its attempts; an operator's backoff, for instance.
    span["events"] = [
        event(name, change.at, {
            "pg_stepwise.step.name": steps[change.step_id].name if change.step_id else None,
            "pg_stepwise.actor": change.actor,
            "pg_stepwise.reason": metadata(change, "reason"),
            "pg_stepwise.cause": metadata(change, "cause"),
            "pg_stepwise.backoff.seconds": metadata(change, "backoff_seconds"),
        })
        for change in history
        if (name := outside(change))
    ]
    if task.state == "error":
        failed = [step.name for step in steps.values() if step.state == "error"]
        why = "the deadline was over" if task.timed_out else "failed: " + ", ".join(failed)
        span["status"] = {"code": ERROR, "message": short(why)}
        span["attributes"] += attributes({"error.type": "timed_out" if task.timed_out else "step_failed"})
    return span


def outside(change):
    """The name of an event of the task's span: a change that neither begins nor ends an attempt."""
    if change.step_id is None:
        return "retry_requested" if change.from_state == "error" else None
    if change.from_state == change.to_state:
        return "backoff"
    if "in_progress" in (change.from_state, change.to_state):
        return None
    return {"pending": "reset"}.get(change.to_state, change.to_state)


def attempts(changes):
    """Each claim of a step with the change that ended it."""
    claim = None
    for change in changes:
        if change.to_state == "in_progress" and change.from_state != "in_progress":
            claim = change
        elif claim is not None and change.from_state == "in_progress" and change.to_state != "in_progress":
            yield claim, change
            claim = None


def of_attempt(task, step, claim, end, ids):
    ready = min(claim.ready_at or claim.at, claim.at)
    attempt, key = ids.span("attempt", claim.event_id), {"pg_stepwise.task.id": task.task_id,
                                                         "pg_stepwise.step.name": step.name}
    whole = {
        **place(ids, attempt, ids.root),
        "name": step.name,
        "kind": INTERNAL if step.kind == "wait" else CONSUMER,
        **times(ready, end.at),
        "attributes": attributes({
            **template(task),
            "messaging.system": "pg_stepwise",
            "messaging.destination.name": step.queue,
            "messaging.operation.type": "process",
            "messaging.operation.name": step.handler,
            "messaging.client.id": claim.worker,
            "messaging.message.id": f"{task.task_id}/{step.step_id}/{claim.attempt}",
            "pg_stepwise.step.id": step.step_id,
            "pg_stepwise.step.name": step.name,
            "pg_stepwise.attempt": claim.attempt,
            "pg_stepwise.retry_limit": step.retry_limit,
            "pg_stepwise.outcome": outcome(end),
            "pg_stepwise.actor": end.actor,
        }),
        "events": [],
    }
    # A signal takes and completes its step at once: nobody was waited for, and nothing ran.
    if step.kind == "wait":
        return [whole]
    wait = {**place(ids, ids.span("wait", claim.event_id), attempt), "name": f"{step.name} wait", "kind": INTERNAL,
            **times(ready, claim.at), "attributes": attributes(key)}
    run = {**place(ids, ids.span("run", claim.event_id), attempt), "name": f"{step.name} run", "kind": INTERNAL,
           **times(claim.at, end.at), "attributes": attributes({**key, "pg_stepwise.worker": claim.worker})}
    if end.to_state == "error":
        kind, message = failure(end)
        whole["status"] = run["status"] = {"code": ERROR, "message": short(message)}
        for span in (whole, run):
            span["attributes"] += attributes({"error.type": kind})
        if metadata(end, "reason") == "lease_expired":
            whole["events"].append(event("lease_expired", end.at, {"pg_stepwise.worker": claim.worker}))
        else:
            whole["events"].append(event("exception", end.at, {"exception.type": kind, "exception.message": message}))
        if end.backoff_until is not None:
            seconds = max((end.backoff_until - end.at).total_seconds(), 0.0)
            whole["events"].append(event("backoff", end.at, {"pg_stepwise.backoff.seconds": seconds}))
    return [whole, wait, run]


def outcome(end):
    """How an attempt ended: a state, or lease_expired, or released."""
    if end.to_state == "error" and metadata(end, "reason") == "lease_expired":
        return "lease_expired"
    return "released" if end.to_state == "pending" else end.to_state


def failure(end):
    """A low-cardinality name of what went wrong, and what is known of it."""
    if metadata(end, "reason"):
        return metadata(end, "reason"), f"{metadata(end, 'reason')}: attempt {end.attempt}"
    error = metadata(end, "error")
    if not isinstance(error, dict):
        return "error", "" if error is None else str(error)
    kind = error.get("type") or error.get("sqlstate") or "error"
    return str(kind), str(error.get("message") or "")


def metadata(change, key):
    return (change.metadata or {}).get(key)


def short(text):
    return str(text)[:1000]


def template(task):
    return {"pg_stepwise.task.id": task.task_id, "pg_stepwise.namespace": task.namespace,
            "pg_stepwise.template": task.name, "pg_stepwise.version": task.version}


def place(ids, span_id, parent, remote=False):
    known = {"traceId": ids.trace, "spanId": span_id}
    flags = int(ids.flags, 16) | HAS_IS_REMOTE
    if parent:
        known["parentSpanId"] = parent
        flags |= IS_REMOTE if remote else 0
    return {**known, "flags": flags}


def times(start, end):
    return {"startTimeUnixNano": nanos(start), "endTimeUnixNano": nanos(max(start, end))}


def nanos(time):
    """As OTLP writes 64-bit numbers in JSON. Whole numbers all the way: a float would lose microseconds."""
    days = time.toordinal() - 719163
    seconds = days * 86400 + time.hour * 3600 + time.minute * 60 + time.second
    return str((seconds * 1_000_000 + time.microsecond) * 1000)


def event(name, at, values):
    return {"timeUnixNano": nanos(at), "name": name, "attributes": attributes(values)}


def attributes(values):
    return [{"key": key, "value": value(given)} for key, given in values.items() if given is not None]


def value(given):
    if isinstance(given, bool):
        return {"boolValue": given}
    if isinstance(given, int):
        return {"intValue": str(given)}
    if isinstance(given, float):
        return {"doubleValue": given}
    if isinstance(given, (list, tuple)):
        return {"arrayValue": {"values": [value(one) for one in given]}}
    return {"stringValue": str(given)}
