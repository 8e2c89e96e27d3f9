INSERT INTO etl.findings (task_id, finding, subject, detail)
SELECT %(task_id)s, 'languages_not_in_639_3', a.code, a.name
FROM etl.languages_639_2 AS a
WHERE NOT EXISTS (SELECT FROM etl.languages_639_3 AS b WHERE b.code = a.code)
UNION ALL
SELECT %(task_id)s, 'languages_with_other_two_letters', a.code, concat_ws(', ', a.two_letter, b.two_letter)
FROM etl.languages_639_2 AS a
JOIN etl.languages_639_3 AS b USING (code)
WHERE a.two_letter IS DISTINCT FROM b.two_letter
UNION ALL
SELECT %(task_id)s, 'languages_with_other_name', a.code, a.name || ' / ' || b.name
FROM etl.languages_639_2 AS a
JOIN etl.languages_639_3 AS b USING (code)
WHERE a.name <> b.name
RETURNING finding
