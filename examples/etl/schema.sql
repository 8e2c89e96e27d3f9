-- The tables that the workflow fills, and the role that its workers use: it may call the worker functions of
-- pg_stepwise and write these tables, and nothing else.
CREATE SCHEMA etl;

CREATE TABLE etl.countries (
    code         text PRIMARY KEY,
    alpha_3      text NOT NULL UNIQUE,
    numeric_code text NOT NULL UNIQUE,
    name         text NOT NULL
);

CREATE TABLE etl.subdivisions (
    code    text PRIMARY KEY,
    name    text NOT NULL,
    type    text NOT NULL,
    parent  text,
    country text GENERATED ALWAYS AS (split_part(code, '-', 1)) STORED,
    -- Many parents are written without their country: "NX" for "AZ-NX".
    parent_code text GENERATED ALWAYS AS (
        CASE WHEN strpos(parent, '-') > 0 THEN parent ELSE split_part(code, '-', 1) || '-' || parent END) STORED
);

CREATE TABLE etl.currencies (
    code         text PRIMARY KEY,
    numeric_code text NOT NULL,
    name         text NOT NULL
);

CREATE TABLE etl.languages_639_2 (
    code       text PRIMARY KEY,
    two_letter text UNIQUE,
    name       text NOT NULL
);

CREATE TABLE etl.languages_639_3 (
    code       text PRIMARY KEY,
    two_letter text UNIQUE,
    name       text NOT NULL,
    scope      text NOT NULL,
    type       text NOT NULL
);

-- One row per thing that a check found.
CREATE TABLE etl.findings (
    task_id bigint NOT NULL,
    finding text   NOT NULL,
    subject text   NOT NULL,
    detail  text,
    PRIMARY KEY (task_id, finding, subject)
);

CREATE TABLE etl.report (
    task_id bigint NOT NULL,
    item    text   NOT NULL,
    value   bigint NOT NULL,
    PRIMARY KEY (task_id, item)
);

DO $$
BEGIN
    -- Roles belong to the whole server: this one may be there from an earlier run.
    IF to_regrole('etl_worker') IS NULL THEN
        CREATE ROLE etl_worker LOGIN;
    END IF;
END
$$;
SELECT stepwise.grant_access('etl_worker', 'worker');
GRANT USAGE ON SCHEMA etl TO etl_worker;
GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA etl TO etl_worker;
