-- Runs first. The extension owns the schema `stepwise` alone: objects planted there beforehand could shadow its own. Until that
-- is known every operator is named with its schema, too: one of (oid, regnamespace) planted there would fit better than
-- pg_catalog's.
DO $bootstrap$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) 'stepwise'::pg_catalog.regnamespace)
        OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) 'stepwise'::pg_catalog.regnamespace)
        OR EXISTS (SELECT FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) 'stepwise'::pg_catalog.regnamespace)
        OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) 'stepwise'::pg_catalog.regnamespace)
    THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'schema "stepwise" is not empty',
            HINT = 'Drop or rename the schema "stepwise", then run CREATE EXTENSION pg_stepwise again.';
    END IF;
    -- Whoever owns the schema could add objects to it later.
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
        WHERE n.oid OPERATOR(pg_catalog.=) 'stepwise'::pg_catalog.regnamespace
            AND r.rolname OPERATOR(pg_catalog.=) CURRENT_USER
    ) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'schema "stepwise" belongs to another role',
            HINT = 'Drop or rename the schema "stepwise", then run CREATE EXTENSION pg_stepwise again.';
    END IF;
    -- Texts cross between the database and Rust as UTF-8.
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'pg_stepwise needs a database with encoding UTF8',
            DETAIL = pg_catalog.format('The encoding is %s.', pg_catalog.getdatabaseencoding()),
            HINT = 'CREATE DATABASE ... ENCODING UTF8 TEMPLATE template0.';
    END IF;
END
$bootstrap$;

REVOKE ALL ON SCHEMA stepwise FROM PUBLIC;
