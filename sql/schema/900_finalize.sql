-- Runs last: rights of the functions, privileges, what a dump carries, comments.

-- A worker needs EXECUTE only, never rights on the tables: commands run as the extension's owner, with a fixed
-- search_path, and run no code of a user.
ALTER FUNCTION stepwise.register_template SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.create_task SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.create_tasks SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.claim_steps SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.complete_step SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.complete_steps SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.fail_step SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.fail_steps SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.extend_lease SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.release_step SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.report_and_claim SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
-- Statement triggers write history, children and counters for a role that may only update a state. The row triggers
-- need no definer: they run no SQL but the first read of a template, which they do as its owner (src/pg/catalog.rs),
-- and a definer's switch per row would cost more than their work.
ALTER FUNCTION stepwise.steps_after_update SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.tasks_after_update SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
-- Readers run with the caller's rights; the fixed search_path keeps foreign operators and tables out.
ALTER FUNCTION stepwise.get_step_readiness_status SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.get_step_readiness_status_batch SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.get_task_execution_context SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.get_task_execution_contexts_batch SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.get_viable_steps SET search_path = pg_catalog, pg_temp;

-- Deny by default: functions are executable by PUBLIC unless revoked. Levels are granted by grant_access.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA stepwise FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA stepwise FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA stepwise FROM PUBLIC;

-- pg_dump carries the contents of every table and sequence. One statement each: the function updates one row.
DO $dump$
DECLARE
    relation pg_catalog.regclass;
BEGIN
    FOR relation IN
        SELECT c.oid FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'stepwise'::pg_catalog.regnamespace AND c.relkind IN ('r', 'S')
        ORDER BY c.oid
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(relation, '');
    END LOOP;
END
$dump$;
