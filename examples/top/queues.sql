-- Each queue: what is in it, and how long the oldest ready step has waited.
SELECT queue || CASE WHEN paused THEN ' (paused)' ELSE '' END AS queue,
       ready, retries_due AS due, delayed, in_backoff AS backoff, waiting, waiting_for_signal AS signal,
       for_operator AS operator,
       in_flight || CASE WHEN max_in_flight > 0 THEN '/' || max_in_flight ELSE '' END AS in_flight,
       expired_leases AS expired, date_trunc('second', oldest_ready_age) AS oldest
FROM stepwise.queue_depths
ORDER BY ready + in_flight DESC, queue;
