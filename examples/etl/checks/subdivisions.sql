INSERT INTO etl.findings (task_id, finding, subject, detail)
SELECT %(task_id)s, 'subdivisions_of_unknown_country', s.code, s.name
FROM etl.subdivisions AS s
WHERE NOT EXISTS (SELECT FROM etl.countries AS c WHERE c.code = s.country)
UNION ALL
SELECT %(task_id)s, 'subdivisions_of_unknown_parent', s.code, s.parent
FROM etl.subdivisions AS s
WHERE s.parent IS NOT NULL AND NOT EXISTS (SELECT FROM etl.subdivisions AS p WHERE p.code = s.parent_code)
UNION ALL
SELECT %(task_id)s, 'subdivisions_with_short_parent', s.code, s.parent || ' means ' || s.parent_code
FROM etl.subdivisions AS s
WHERE s.parent <> s.parent_code
UNION ALL
SELECT %(task_id)s, 'countries_without_subdivisions', c.code, c.name
FROM etl.countries AS c
WHERE NOT EXISTS (SELECT FROM etl.subdivisions AS s WHERE s.country = c.code)
RETURNING finding
