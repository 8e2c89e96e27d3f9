-- Columns, fillfactors and indexes of the hot tables that one of the two schemas has and the other has not.
WITH facts AS (
    SELECT c.relnamespace::regnamespace::text AS schema, c.relname::text || ': ' || f.fact AS fact
    FROM pg_class AS c
    CROSS JOIN LATERAL (
        SELECT 'column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
               || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT coalesce(array_to_string(c.reloptions, ' '), 'no option')
        UNION ALL
        SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE (UNIQUE )?INDEX .* USING', '\1index')
        FROM pg_index AS i WHERE i.indrelid = c.oid
    ) AS f (fact)
    WHERE c.relnamespace IN ('floor'::regnamespace, 'stepwise'::regnamespace)
        AND c.relname IN ('tasks', 'steps', 'transitions')
)
SELECT min(schema) || '.' || fact AS only_here FROM facts GROUP BY fact HAVING count(*) = 1 ORDER BY 1
