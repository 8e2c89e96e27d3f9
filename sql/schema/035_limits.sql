-- Queues: pause, resume, limit. A limit of n is n rows of slots (010). A trigger keeps them and tells waiting workers, so
-- that an UPDATE of max_in_flight or paused from any client does what the functions do.

-- SECURITY DEFINER: whoever may set a queue's limit needs no right on slots and steps.
CREATE FUNCTION stepwise.queues_after_update() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    held record;
    place integer := 0;
BEGIN
    IF NEW.max_in_flight = OLD.max_in_flight THEN
        -- It was paused or resumed.
        IF NOT NEW.paused THEN
            PERFORM stepwise.wake_queue(NEW.queue_id);
        END IF;
        RETURN NULL;
    END IF;
    IF NEW.max_in_flight = 0 THEN
        DELETE FROM stepwise.slots WHERE kind = 'queue' AND owner_id = NEW.queue_id;
        PERFORM stepwise.wake_queue(NEW.queue_id);
        RETURN NULL;
    END IF;
    -- Steps that are in progress without a place take one, beyond the limit if need be: nothing is handed out until they
    -- are within it. Their rows are locked first, so that none ends meanwhile.
    FOR held IN
        UPDATE stepwise.steps AS s SET limited = true
        WHERE s.queue_id = NEW.queue_id AND s.visible_at IS NOT NULL AND s.state = 'in_progress'
            AND NOT EXISTS (SELECT FROM stepwise.slots AS b
                WHERE b.task_id = s.task_id AND b.step_id = s.step_id AND b.kind = 'queue')
        RETURNING s.task_id, s.step_id
    LOOP
        -- Free places first, then new ones.
        LOOP
            place := place + 1;
            INSERT INTO stepwise.slots AS b (kind, owner_id, key, number, task_id, step_id)
            VALUES ('queue', NEW.queue_id, '', place, held.task_id, held.step_id)
            ON CONFLICT (kind, owner_id, key, number) DO UPDATE
                SET task_id = EXCLUDED.task_id, step_id = EXCLUDED.step_id WHERE b.task_id IS NULL;
            EXIT WHEN FOUND;
        END LOOP;
    END LOOP;
    INSERT INTO stepwise.slots (kind, owner_id, key, number)
    SELECT 'queue', NEW.queue_id, '', n FROM generate_series(1, NEW.max_in_flight) AS n
    ON CONFLICT (kind, owner_id, key, number) DO NOTHING;
    DELETE FROM stepwise.slots
    WHERE kind = 'queue' AND owner_id = NEW.queue_id AND number > NEW.max_in_flight AND task_id IS NULL;
    PERFORM stepwise.wake_queue(NEW.queue_id);
    RETURN NULL;
END
$function$;

CREATE TRIGGER queues_after_update AFTER UPDATE OF max_in_flight, paused ON stepwise.queues
    FOR EACH ROW WHEN ((NEW.max_in_flight, NEW.paused) IS DISTINCT FROM (OLD.max_in_flight, OLD.paused))
    EXECUTE FUNCTION stepwise.queues_after_update();
