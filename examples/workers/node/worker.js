"use strict";
// A small worker: claims steps, does them, reports. docs/worker-protocol.md says why it does what it does.
//
// Connects as libpq does (PGHOST, PGUSER, PGDATABASE …). SIGTERM or Ctrl-C ends it after the step at hand.

const os = require("node:os");
const { parseArgs } = require("node:util");
const { Client } = require("pg");

const SHORTEST_WAIT = 0.05; // seconds, where next_visible_at says less
const GONE = ["55000", "P0002"]; // the step is no longer held with this receipt
const REPEAT = ["40001", "40P01"]; // a serialization failure or a deadlock: the same transaction again
const LOST = /^(08|57P0[123])/; // the connection ends with this error

/** Another attempt would find the input no better. */
class BadInput extends Error {}

// Handlers: what they write is stored together with the completion of their step, or not at all.
const HANDLERS = {
  async check_order(client, step) {
    const orderId = step.context.order_id;
    const { rows: [order] } = await client.query("SELECT amount::float8 FROM shop.orders WHERE order_id = $1", [orderId]);
    if (!order || order.amount <= 0) throw new BadInput(`order ${orderId} does not exist or has no amount`);
    return { amount: order.amount };
  },

  async enter(client, step, worker) {
    const orderId = step.context.order_id;
    await client.query(
      "INSERT INTO shop.entries (order_id, task_id, step, attempt, worker, traceparent) VALUES ($1, $2, $3, $4, $5, $6)",
      [orderId, step.task_id, step.step_name, step.attempt, worker, step.traceparent]);
    await client.query("UPDATE shop.orders SET steps_done = steps_done + 1 WHERE order_id = $1", [orderId]);
    if (step.attempt <= (step.context.failures?.[step.step_name] ?? 0)) {
      throw new Error("the service is not available"); // a failure on purpose, so that you see one
    }
    return { entered: step.step_name };
  },
};

/** Its text on one line, not too long, without what JSON in PostgreSQL cannot hold. */
function plain(error) {
  return String(error.message || error.code).replaceAll("\0", "").replaceAll(/\s+/g, " ").slice(0, 1000);
}

class Worker {
  constructor({ name, queue, batch, lease, poll }) {
    Object.assign(this, { name, queues: queue, batch: Number(batch), lease: `${Number(lease)} seconds` });
    this.poll = Number(poll);
    this.held = []; // claimed and not reported, in the order of the claim
    this.stopping = false;
    this.wake = () => {}; // ends a pause
    this.timer = setInterval(() => this.extendLeases(), (Number(lease) * 1000) / 3);
  }

  stop() {
    this.stopping = true;
    this.wake();
  }

  async run() {
    let failures = 0;
    while (this.held.length > 0 || !this.stopping) {
      try {
        if (!this.client) await this.connect();
        await this.turn();
        failures = 0;
      } catch (error) {
        const lost = !this.client || this.client.lost || LOST.test(error.code);
        if (!lost && !REPEAT.includes(error.code)) throw error;
        if (!this.client && this.stopping) break; // the leases will end
        if (lost) this.client = undefined;
        failures += 1;
        this.log(`${plain(error)}: again`);
        await this.pause(Math.min(0.1 * 2 ** failures, 10) * (0.5 + Math.random() / 2)); // not all workers at once
      }
    }
    this.log(`stopped, ${this.held.length} steps not given back`);
    clearInterval(this.timer);
    await Promise.all([this.client?.end(), this.beating?.end()]);
  }

  async open(name) {
    const client = new Client({ application_name: name });
    client.on("error", () => { client.lost = true; this.wake(); });
    await client.connect();
    return client;
  }

  async connect() {
    const client = await this.open(this.name);
    client.on("notification", () => { this.notified = true; this.wake(); });
    await client.query("LISTEN stepwise_ready"); // before the first claim: what becomes ready between is announced
    this.client = client;
    this.log("waiting for steps");
  }

  async turn() {
    if (this.held.length === 0) {
      this.notified = false;
      const claim = "SELECT * FROM stepwise.claim_steps($1, $2, $3, $4)";
      this.held = (await this.client.query(claim, [this.name, this.queues, this.batch, this.lease])).rows;
      if (this.held.length === 0) await this.wait();
    } else if (this.stopping) {
      await this.report(this.held[0], "release_step");
    } else {
      await this.work(this.held[0]);
    }
  }

  async work(step) {
    let outcome;
    try {
      await this.client.query("BEGIN");
      if (!Object.hasOwn(HANDLERS, step.handler)) throw new Error(`this worker has no handler ${step.handler}`);
      const results = await HANDLERS[step.handler](this.client, step, this.name);
      outcome = await this.call("complete_step", step.receipt, JSON.stringify(results));
      // already_done: an earlier try was stored, and with it what it wrote.
      await this.client.query(outcome === "already_done" ? "ROLLBACK" : "COMMIT");
    } catch (error) {
      if (this.client.lost || LOST.test(error.code)) throw error;
      await this.client.query("ROLLBACK");
      if (REPEAT.includes(error.code)) throw error;
      const report = { type: error.constructor.name, message: plain(error) };
      this.log(`${step.step_name} failed: ${report.type}: ${report.message}`);
      return this.report(step, "fail_step", JSON.stringify(report), !(error instanceof BadInput));
    }
    this.settle(step, `complete_step: ${outcome}`);
  }

  async report(step, name, ...args) {
    const outcome = await this.call(name, step.receipt, ...args).catch((error) => {
      if (!GONE.includes(error.code)) throw error;
      return error.message;
    });
    this.settle(step, `${name}: ${outcome}`);
  }

  settle(step, what) {
    this.held = this.held.filter((other) => other !== step);
    this.log(`task ${step.task_id} ${step.step_name}, attempt ${step.attempt}: ${what}`);
  }

  async call(name, ...args) {
    const placeholders = args.map((_, index) => `$${index + 1}`).join(", ");
    return (await this.client.query(`SELECT stepwise.${name}(${placeholders}) AS outcome`, args)).rows[0].outcome;
  }

  async wait() {
    const until = "SELECT extract(epoch FROM stepwise.next_visible_at($1) - stepwise.now())::float8 AS seconds";
    const { seconds } = (await this.client.query(until, [this.queues])).rows[0];
    if (this.notified) return;
    await this.pause(seconds === null ? this.poll : Math.min(Math.max(seconds, SHORTEST_WAIT), this.poll));
  }

  async pause(seconds) {
    if (this.stopping) return;
    let timer;
    await new Promise((resolve) => { this.wake = resolve; timer = setTimeout(resolve, seconds * 1000); });
    clearTimeout(timer);
  }

  /** Over a connection of its own: the worker's is busy in the handler's transaction. */
  async extendLeases() {
    for (const step of this.held) { // also those that wait for their turn
      try {
        if (!this.beating || this.beating.lost) this.beating = await this.open(`${this.name} heartbeat`);
        await this.beating.query("SELECT stepwise.extend_lease($1, $2)", [step.receipt, this.lease]);
      } catch (error) { // the next beat tries again; whether the step is lost, its report tells
        this.log(`heartbeat: ${plain(error)}`);
      }
    }
  }

  log(text) {
    console.error(`${new Date().toTimeString().slice(0, 8)} ${this.name}: ${text}`);
  }
}

const { values } = parseArgs({ options: {
  name: { type: "string", default: `${os.hostname()}-${process.pid}` }, // as shown in the history
  queue: { type: "string", multiple: true, default: ["shop"] }, // may be given more than once
  batch: { type: "string", default: "4" }, // most steps to claim at once
  lease: { type: "string", default: "30" }, // seconds
  poll: { type: "string", default: "30" }, // seconds, the longest wait
} });
const worker = new Worker(values);
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => worker.stop());
worker.run().catch((error) => { console.error(error); process.exit(1); });
