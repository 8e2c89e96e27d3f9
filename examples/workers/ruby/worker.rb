# frozen_string_literal: true

# A small worker: claims steps, does them, reports. docs/worker-protocol.md says why it does what it does.
#
# Connects as libpq does (PGHOST, PGUSER, PGDATABASE …). SIGTERM or Ctrl-C ends it after the step at hand.

require "json"
require "optparse"
require "pg"
require "socket"

SHORTEST_WAIT = 0.05 # seconds, where next_visible_at says less
GONE = [PG::ObjectNotInPrerequisiteState, PG::NoDataFound].freeze # 55000, P0002: no longer held with this receipt
REPEAT = [PG::TRSerializationFailure, PG::TRDeadlockDetected].freeze # 40001, 40P01: the same transaction again

# Another attempt would find the input no better.
class BadInput < StandardError; end

Step = Struct.new(:receipt, :task_id, :step_name, :handler, :attempt, :context, :traceparent, keyword_init: true)

# Handlers: what they write is stored together with the completion of their step, or not at all.
HANDLERS = {
  "check_order" => lambda do |conn, step, _worker|
    order_id = step.context["order_id"]
    amount = conn.exec_params("SELECT amount FROM shop.orders WHERE order_id = $1", [order_id]).first&.fetch("amount")
    raise BadInput, "order #{order_id} does not exist or has no amount" unless amount.to_f.positive?

    { amount: amount.to_f }
  end,

  "enter" => lambda do |conn, step, worker|
    order_id = step.context["order_id"]
    entry = "INSERT INTO shop.entries (order_id, task_id, step, attempt, worker, traceparent) " \
            "VALUES ($1, $2, $3, $4, $5, $6)"
    conn.exec_params(entry, [order_id, step.task_id, step.step_name, step.attempt, worker, step.traceparent])
    conn.exec_params("UPDATE shop.orders SET steps_done = steps_done + 1 WHERE order_id = $1", [order_id])
    # A failure on purpose, so that you see one.
    raise "the service is not available" if step.attempt <= step.context.fetch("failures", {}).fetch(step.step_name, 0)

    { entered: step.step_name }
  end
}.freeze

# Its text on one line, not too long, without what JSON in PostgreSQL cannot hold.
def plain(error) = error.message.scrub.delete("\0").split.join(" ")[0, 1000]

class Worker
  def initialize(name:, queue:, batch:, lease:, poll:)
    @name, @batch, @lease, @poll = name, batch, "#{lease} seconds", poll
    @queues = PG::TextEncoder::Array.new.encode(queue)
    @held = [] # claimed and not reported, in the order of the claim
    Thread.new { extend_leases(lease / 3.0) }
  end

  def stop
    @stopping = true
  end

  def run
    failures = 0
    until @held.empty? && @stopping
      begin
        connect unless @conn
        turn
        failures = 0
      rescue StandardError => e
        raise unless lost? || REPEAT.any? { |kind| e.is_a?(kind) }
        break if @conn.nil? && @stopping # the leases will end

        @conn = nil if lost?
        failures += 1
        log("#{plain(e)}: again")
        pause([0.1 * 2**failures, 10].min * rand(0.5..1.0)) { |slice| sleep(slice) && nil } # not all workers at once
      end
    end
    log("stopped, #{@held.size} steps not given back")
  end

  private

  def lost? = @conn.nil? || @conn.finished? || @conn.status != PG::CONNECTION_OK

  def connect
    conn = PG.connect(application_name: @name)
    conn.exec("LISTEN stepwise_ready") # before the first claim: what becomes ready between is announced
    @conn = conn
    log("waiting for steps")
  end

  def turn
    if @held.empty?
      claim = "SELECT receipt, task_id, step_name, handler, attempt, context, traceparent " \
              "FROM stepwise.claim_steps($1, $2, $3, $4)"
      @held = @conn.exec_params(claim, [@name, @queues, @batch, @lease]).map do |row|
        Step.new(**row.transform_keys(&:to_sym), attempt: row["attempt"].to_i, context: JSON.parse(row["context"]))
      end
      wait if @held.empty?
    elsif @stopping
      report(@held.first, "release_step")
    else
      work(@held.first)
    end
  end

  def work(step)
    @conn.exec("BEGIN")
    results = HANDLERS.fetch(step.handler).call(@conn, step, @name)
    outcome = call("complete_step", step.receipt, results.to_json)
    # already_done: an earlier try was stored, and with it what it wrote.
    @conn.exec(outcome == "already_done" ? "ROLLBACK" : "COMMIT")
    settle(step, "complete_step: #{outcome}")
  rescue StandardError => e
    raise if lost?

    @conn.exec("ROLLBACK")
    raise if REPEAT.any? { |kind| e.is_a?(kind) }

    error = { type: e.class.name, message: plain(e) }
    log("#{step.step_name} failed: #{error[:type]}: #{error[:message]}")
    report(step, "fail_step", error.to_json, !e.is_a?(BadInput))
  end

  def report(step, function, *arguments)
    settle(step, "#{function}: #{call(function, step.receipt, *arguments)}")
  rescue *GONE => e
    settle(step, "#{function}: #{plain(e)}")
  end

  def settle(step, what)
    @held -= [step]
    log("task #{step.task_id} #{step.step_name}, attempt #{step.attempt}: #{what}")
  end

  def call(function, *arguments)
    placeholders = (1..arguments.size).map { |number| "$#{number}" }.join(", ")
    @conn.exec_params("SELECT stepwise.#{function}(#{placeholders})", arguments).getvalue(0, 0)
  end

  def wait
    till = "SELECT extract(epoch FROM stepwise.next_visible_at($1) - stepwise.now())"
    seconds = @conn.exec_params(till, [@queues]).getvalue(0, 0)
    seconds = seconds ? seconds.to_f.clamp(SHORTEST_WAIT, @poll) : @poll
    pause(seconds) { |slice| @conn.wait_for_notify(slice) }
  end

  # In slices, because a signal does not end a wait in Ruby. The block ends it by a value.
  def pause(seconds)
    finish = now + seconds
    until @stopping || (left = finish - now) <= 0
      return if yield([left, 0.2].min)
    end
  end

  def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # A thread with a connection of its own: the worker's is busy in the handler's transaction.
  def extend_leases(interval)
    conn = nil
    loop do
      sleep(interval)
      @held.each do |step| # also those that wait for their turn
        conn ||= PG.connect(application_name: "#{@name} heartbeat")
        conn.exec_params("SELECT stepwise.extend_lease($1, $2)", [step.receipt, @lease])
      rescue PG::Error => e # the next beat tries again; whether the step is lost, its report tells
        log("heartbeat: #{plain(e)}")
        conn = nil unless conn&.status == PG::CONNECTION_OK
      end
    end
  end

  def log(text)
    warn("#{Time.now.strftime('%H:%M:%S')} #{@name}: #{text}")
  end
end

options = { name: "#{Socket.gethostname}-#{Process.pid}", queue: [], batch: 4, lease: 30.0, poll: 30.0 }
OptionParser.new do |parser|
  parser.on("--name NAME", "as shown in the history") { |value| options[:name] = value }
  parser.on("--queue NAME", "may be given more than once (default: shop)") { |value| options[:queue] << value }
  parser.on("--batch NUMBER", Integer, "most steps to claim at once (default: 4)") { |value| options[:batch] = value }
  parser.on("--lease SECONDS", Float, "default: 30") { |value| options[:lease] = value }
  parser.on("--poll SECONDS", Float, "longest wait (default: 30)") { |value| options[:poll] = value }
end.parse!
options[:queue] << "shop" if options[:queue].empty?

worker = Worker.new(**options)
%w[TERM INT].each { |signal| Signal.trap(signal) { worker.stop } }
worker.run
