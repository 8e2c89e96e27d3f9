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
