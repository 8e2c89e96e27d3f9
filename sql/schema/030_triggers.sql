-- The state machine. Transition tables make the statement triggers set-based; they take no column list, so they see
-- every UPDATE and return at once where nothing that counts has changed.

CREATE TRIGGER steps_before_update BEFORE UPDATE OF state ON stepwise.steps
    FOR EACH ROW EXECUTE FUNCTION stepwise.steps_before_update();

CREATE TRIGGER steps_after_update AFTER UPDATE ON stepwise.steps
    REFERENCING OLD TABLE AS old_steps NEW TABLE AS new_steps
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.steps_after_update();

CREATE TRIGGER tasks_before_update BEFORE UPDATE ON stepwise.tasks
    FOR EACH ROW EXECUTE FUNCTION stepwise.tasks_before_update();

CREATE TRIGGER tasks_after_update AFTER UPDATE ON stepwise.tasks
    REFERENCING OLD TABLE AS old_tasks NEW TABLE AS new_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.tasks_after_update();

-- Rows that are not changed or removed by hand. History is append-only, finished tasks go by purge_tasks, templates and
-- the names of queues and namespaces are remembered by backends.
CREATE TRIGGER tasks_kept BEFORE DELETE OR TRUNCATE ON stepwise.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER steps_kept BEFORE DELETE OR TRUNCATE ON stepwise.steps
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER transitions_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON stepwise.transitions
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER templates_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON stepwise.templates
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER template_steps_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON stepwise.template_steps
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER queues_kept BEFORE UPDATE OF queue_id, name OR DELETE OR TRUNCATE ON stepwise.queues
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();
CREATE TRIGGER namespaces_kept BEFORE UPDATE OF namespace_id, created_at, name OR DELETE OR TRUNCATE ON stepwise.namespaces
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.keep_rows();

-- What backends remember of these is read anew, in every session.
CREATE TRIGGER namespaces_after_update AFTER UPDATE OF private ON stepwise.namespaces
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.tell_backends();
CREATE TRIGGER access_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON stepwise.access
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.tell_backends();
