-- A currency's code begins with its country's, and most share its number.
INSERT INTO etl.findings (task_id, finding, subject, detail)
SELECT %(task_id)s, 'currencies_of_no_country', m.code, m.name
FROM etl.currencies AS m
WHERE NOT EXISTS (SELECT FROM etl.countries AS c WHERE c.code = left(m.code, 2))
UNION ALL
SELECT %(task_id)s, 'currencies_with_own_number', m.code,
       format('%%s, %%s has %%s', m.numeric_code, c.name, c.numeric_code)
FROM etl.currencies AS m
JOIN etl.countries AS c ON c.code = left(m.code, 2)
WHERE c.numeric_code <> m.numeric_code
RETURNING finding
