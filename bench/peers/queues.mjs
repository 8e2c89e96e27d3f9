// Jobs of one step that do nothing: what a queue of jobs and pg_stepwise both can do. The same driver, socket, server and
// number of jobs for each; every contender in turn, in each round. Prints one JSON line per contender and round.
import pg from "pg";
import { performance } from "node:perf_hooks";
import { Logger, run, runMigrations, makeWorkerUtils } from "graphile-worker";
import { PgBoss } from "pg-boss";

const jobs = Number(process.env.JOBS ?? 5000);
const rounds = Number(process.env.ROUNDS ?? 3);
const connection = { host: process.env.PGHOST, port: 5432, user: "postgres", database: process.env.PGDATABASE };
const control = new pg.Pool({ ...connection, max: 2 });
const result = { ok: true, value: 42 };

const until = async (done) => {
  while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 5));
};

// One worker, `batch` steps per call, claim and report in one.
const stepwise = (batch) => async () => {
  const client = new pg.Client(connection);
  await client.connect();
  await client.query(
    `SELECT stepwise.register_template('{"namespace": "peers", "name": "job", "steps": [{"name": "work"}]}')`,
  );
  await client.query(`SELECT count(*) FROM stepwise.create_tasks('job', array_fill('{}'::jsonb, ARRAY[$1::integer]), 'peers')`, [jobs]);
  await client.query("SET stepwise.notify = off");
  const started = performance.now();
  let held = [];
  let done = 0;
  do {
    const { rows } = await client.query({
      name: "turn",
      text: `SELECT outcome, receipt, task_id, step_name, context FROM stepwise.report_and_claim('w', $1::uuid[], $2::jsonb[],
               queues => '{peers}', max_steps => $3)`,
      values: [held, held.map(() => JSON.stringify(result)), batch],
    });
    done += rows.filter((row) => row.outcome === "accepted").length;
    held = rows.filter((row) => row.outcome === "claimed").map((row) => row.receipt);
  } while (held.length > 0);
  const seconds = (performance.now() - started) / 1000;
  await client.end();
  if (done !== jobs) throw new Error(`pg_stepwise: ${done} of ${jobs}`);
  return seconds;
};

// Settings of its own: as it starts, or with the batching that its documentation advises for throughput.
const graphile = (concurrency, worker) => async () => {
  const pgPool = new pg.Pool({ ...connection, max: concurrency + 2 });
  pgPool.on("error", console.error).on("connect", (client) => client.on("error", console.error));
  // A line for each job would be most of the work.
  const logger = new Logger(() => () => {});
  const preset = { worker: { ...worker, logger } };
  const options = { pgPool, preset, logger, noHandleSignals: true, concurrency };
  await runMigrations({ pgPool, logger });
  const utils = await makeWorkerUtils({ pgPool, logger });
  for (let left = jobs; left > 0; left -= 1000) {
    await utils.addJobs(Array.from({ length: Math.min(left, 1000) }, () => ({ identifier: "noop", payload: {} })));
  }
  await utils.release();
  let done = 0;
  const started = performance.now();
  const runner = await run({ ...options, taskList: { noop: async () => void (done += 1) } });
  await until(async () => done >= jobs);
  // Done here is not yet done there: completions may be sent in batches.
  await until(async () => (await control.query("SELECT count(*)::int AS left FROM graphile_worker.jobs")).rows[0].left === 0);
  const seconds = (performance.now() - started) / 1000;
  await runner.stop();
  await pgPool.end();
  return seconds;
};

const boss = (batch) => async () => {
  const boss = new PgBoss({ ...connection, supervise: false, schedule: false });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  const queue = "noop";
  await boss.createQueue(queue);
  await boss.insert(queue, Array.from({ length: jobs }, () => ({ data: {} })));
  const started = performance.now();
  let done = 0;
  for (;;) {
    const fetched = await boss.fetch(queue, { batchSize: batch });
    if (fetched.length === 0) break;
    await boss.complete(queue, fetched.map((job) => job.id), result);
    done += fetched.length;
  }
  const seconds = (performance.now() - started) / 1000;
  await boss.deleteAllJobs(queue);
  await boss.stop({ graceful: false });
  if (done !== jobs) throw new Error(`pg-boss: ${done} of ${jobs}`);
  return seconds;
};

const contenders = {
  "pg_stepwise, one job per call": stepwise(1),
  "pg_stepwise, 100 jobs per call": stepwise(100),
  "graphile-worker, 1 at once": graphile(1, {}),
  "graphile-worker, 10 at once": graphile(10, {}),
  "graphile-worker, 24 at once, batched": graphile(24, {
    localQueue: { size: 100 }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
  }),
  "pg-boss, one job per call": boss(1),
  "pg-boss, 100 jobs per call": boss(100),
};

for (let round = 0; round < rounds; round += 1) {
  for (const [name, measure] of Object.entries(contenders)) {
    const seconds = await measure();
    console.log(JSON.stringify({ case: "jobs of one step", name, round, rate: jobs / seconds }));
  }
}
await control.end();
process.exit(0);
