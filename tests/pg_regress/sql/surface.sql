-- Every object of the extension with all that a client can see of it. A change here is a change of the contract.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all
\pset format unaligned

SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ')' AS function, pg_get_function_result(p.oid) AS result,
       l.lanname AS language, CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
       CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
       proisstrict AS strict, prosecdef AS definer, proconfig AS settings, proacl AS acl, obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'stepwise'::regnamespace ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C" \gx

SELECT c.relname, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' ELSE c.relkind::text END AS kind,
       c.reloptions AS options, replace(c.relacl::text, 'xtm', 'xt') AS acl, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind <> 'i' ORDER BY c.relname COLLATE "C";

SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       coalesce(pg_get_expr(d.adbin, d.adrelid), nullif(a.attidentity, '')::text) AS "default", col_description(c.oid, a.attnum) AS comment
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind IN ('r', 'v') ORDER BY c.relname COLLATE "C", a.attnum;

SELECT conrelid::regclass AS "table", conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
WHERE connamespace = 'stepwise'::regnamespace AND contype <> 'n' ORDER BY conrelid::regclass::text COLLATE "C", conname COLLATE "C";
SELECT indexdef FROM pg_indexes WHERE schemaname = 'stepwise' ORDER BY indexname COLLATE "C";
SELECT pg_get_triggerdef(t.oid) AS trigger, obj_description(t.oid, 'pg_trigger') AS comment FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'stepwise'::regnamespace AND NOT tgisinternal ORDER BY tgname COLLATE "C";
SELECT name, setting, context, vartype, enumvals, short_desc, extra_desc FROM pg_settings WHERE name LIKE 'stepwise.%' ORDER BY name \gx

-- (17 adds the privilege MAINTAIN, "m", which is left out above.)
-- Nothing without a comment, and nothing that belongs to the schema but not to the extension.
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'stepwise'::regnamespace AND relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0
WHERE c.relnamespace = 'stepwise'::regnamespace AND relkind = 'r' AND col_description(c.oid, attnum) IS NULL;
SELECT proname FROM pg_proc p WHERE pronamespace = 'stepwise'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.relname AS stray FROM pg_class c WHERE c.relnamespace = 'stepwise'::regnamespace AND relkind IN ('r', 'v')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e');

-- The triggers read rows natively, by these numbers.
SELECT attrelid::regclass AS "table", attnum, attname FROM pg_attribute
WHERE attrelid IN ('stepwise.steps'::regclass, 'stepwise.tasks'::regclass) AND attnum > 0 ORDER BY 1, 2;
