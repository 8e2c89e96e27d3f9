-- For tests: what an attempt would report, reported instead of being made.
CREATE FUNCTION stepwise.inject_failure(task_id bigint, step text, times integer DEFAULT 1,
    error jsonb DEFAULT '{"reason": "injected"}') RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    found_step integer;
BEGIN
    IF inject_failure.task_id IS NULL OR step IS NULL OR times IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'arguments "task_id", "step" and "times" must not be NULL';
    END IF;
    IF times < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'argument "times" is out of range',
            DETAIL = format('The value is %s.', times), HINT = 'Pass a number from 0 on; 0 takes an injected failure away.';
    END IF;
    SELECT e.step_id INTO found_step
    FROM stepwise.tasks AS t JOIN stepwise.template_steps AS e ON e.template_id = t.template_id
    WHERE t.task_id = inject_failure.task_id AND e.name = step;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'P0002', MESSAGE = 'step does not exist',
            DETAIL = format('The step is "%s" of task %s.', step, inject_failure.task_id);
    END IF;
    DELETE FROM stepwise.injected_failures AS i WHERE i.task_id = inject_failure.task_id AND i.step_id = found_step;
    INSERT INTO stepwise.injected_failures (task_id, step_id, remaining, error)
    SELECT inject_failure.task_id, found_step, times, inject_failure.error WHERE times > 0;
END
$function$;

CREATE FUNCTION stepwise.advance_clock(by interval) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF by IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'argument "by" must not be NULL';
    END IF;
    -- now_sql reads the setting as PostgreSQL does; what the two clocks differ by is the offset in seconds.
    PERFORM set_config('stepwise.clock_offset', format('%s seconds', trunc(extract(epoch FROM by
        + coalesce(nullif(btrim(current_setting('stepwise.clock_offset', true)), ''), '0')::interval), 6)), false);
    RETURN stepwise.now();
END
$function$;
