WITH expressions (owner, place, tree) AS MATERIALIZED (
  SELECT r.ev_class, 'v', r.ev_action::pg_catalog.text
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
   WHERE c.relkind OPERATOR(pg_catalog.=) 'v'::pg_catalog."char" AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog."char"
  UNION ALL
  SELECT d.adrelid, 'd', d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d
  UNION ALL
  SELECT k.conrelid, 'c', k.conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint k
   WHERE k.conbin IS NOT NULL AND k.contypid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
  UNION ALL
  SELECT k.contypid, 't', k.conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint k
   WHERE k.conbin IS NOT NULL AND k.contypid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
  UNION ALL
  SELECT i.indrelid, 'i', i.indexprs::pg_catalog.text FROM pg_catalog.pg_index i WHERE i.indexprs IS NOT NULL
  UNION ALL
  SELECT i.indrelid, 'i', i.indpred::pg_catalog.text FROM pg_catalog.pg_index i WHERE i.indpred IS NOT NULL
  UNION ALL
  SELECT p.partrelid, 'i', p.partexprs::pg_catalog.text FROM pg_catalog.pg_partitioned_table p WHERE p.partexprs IS NOT NULL
  UNION ALL
  -- Expressions of extended statistics (PostgreSQL 14): the column's name would not parse before.
  SELECT s.stxrelid, 'i', pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'stxexprs'
    FROM pg_catalog.pg_statistic_ext s
   WHERE (pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'stxexprs') IS NOT NULL
), trusted (oid) AS MATERIALIZED (
  SELECT p.oid
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
   WHERE l.lanname OPERATOR(pg_catalog.=) ANY (ARRAY['internal', 'c']::pg_catalog.name[])
     AND p.prokind OPERATOR(pg_catalog.<>) 'a'::pg_catalog."char" -- any role's aggregate is "internal"
  UNION
  SELECT p.oid
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
    JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) p.proowner AND o.rolsuper
   WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
     AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
), pieces (owner, place, word, piece) AS MATERIALIZED (
  -- What stands behind each such word, cut off where the next begins: many times faster than to look for them by pattern.
  SELECT e.owner, e.place, w.word, pg_catalog.left(m.piece, 200)
    FROM expressions e,
         (VALUES ('funcid'), ('opno'), ('aggfnoid'), ('winfnoid'), ('tsmhandler'), ('relid')) w (word),
         LATERAL pg_catalog.unnest(pg_catalog.string_to_array(e.tree,
           pg_catalog.concat(':', w.word, ' '))) WITH ORDINALITY m (piece, number)
   WHERE m.number OPERATOR(pg_catalog.>) 1::pg_catalog.int8 AND m.piece OPERATOR(pg_catalog.~) '^[0-9]'
), named (owner, place, word, oid, piece) AS (
  SELECT owner, place, word, pg_catalog.substring(piece, '^[0-9]+'), piece FROM pieces
), calls (owner, place, via, function) AS (
  SELECT d.owner, d.place,
         CASE WHEN d.piece OPERATOR(pg_catalog.~)
                   '^[0-9]+ :funcresulttype [0-9]+ :funcretset [a-z]+ :funcvariadic [a-z]+ :funcformat [12]' THEN 'o' ELSE 'f' END,
         d.oid::pg_catalog.oid
    FROM named d WHERE d.word OPERATOR(pg_catalog.=) 'funcid'
  UNION
  SELECT d.owner, d.place, 'o', o.oprcode::pg_catalog.oid
    FROM named d
    JOIN pg_catalog.pg_operator o ON o.oid OPERATOR(pg_catalog.=) d.oid::pg_catalog.oid
   WHERE d.word OPERATOR(pg_catalog.=) 'opno'
  UNION
  SELECT d.owner, d.place, 'f', d.oid::pg_catalog.oid
    FROM named d WHERE d.word OPERATOR(pg_catalog.=) ANY (ARRAY['aggfnoid', 'winfnoid', 'tsmhandler']::pg_catalog.text[])
)
SELECT 'r' AS kind, n.nspname::pg_catalog.text AS a, c.relname::pg_catalog.text AS b,
       pg_catalog.concat(c.oid, ' ', c.relkind, c.relpersistence,
         CASE WHEN c.relrowsecurity THEN 'R' END,
         CASE WHEN c.relkind OPERATOR(pg_catalog.<>) 'v'::pg_catalog."char" AND c.relhasrules THEN 'U' END,
         CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger t
                            WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal) THEN 'T' END,
         CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                              AND a.attidentity OPERATOR(pg_catalog.<>) ''::pg_catalog."char") THEN 'N' END) AS c
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f']::pg_catalog."char"[])
   AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog."char"
   AND n.nspname OPERATOR(pg_catalog.<>) 'pg_toast'::pg_catalog.name
UNION ALL
SELECT 'e', i.inhparent::pg_catalog.text, i.inhrelid::pg_catalog.text, 'i' FROM pg_catalog.pg_inherits i
UNION ALL
SELECT 'e', k.confrelid::pg_catalog.text, k.conrelid::pg_catalog.text, 'k'
  FROM pg_catalog.pg_constraint k WHERE k.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"
UNION ALL
SELECT DISTINCT 'e', d.owner::pg_catalog.text, d.oid, 'v'
  FROM named d
 WHERE d.word OPERATOR(pg_catalog.=) 'relid' AND d.place OPERATOR(pg_catalog.=) 'v'
UNION ALL
SELECT DISTINCT 'x', s.owner::pg_catalog.text, p.proname::pg_catalog.text,
       pg_catalog.concat(s.place, s.via,
         CASE WHEN p.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid THEN 'B' ELSE 'U' END,
         CASE WHEN p.oid OPERATOR(pg_catalog.=) ANY (SELECT t.oid FROM trusted t) THEN 't' ELSE 'q' END,
         p.provolatile)
  FROM calls s
  JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) s.function
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid OR p.provolatile OPERATOR(pg_catalog.<>) 'i'::pg_catalog."char"
UNION ALL
SELECT DISTINCT 'l', e.owner::pg_catalog.text, 'locks', e.place
  FROM expressions e WHERE pg_catalog.strpos(e.tree, ':hasForUpdate true') OPERATOR(pg_catalog.>) 0
UNION ALL
SELECT DISTINCT 'l', e.owner::pg_catalog.text, 'domain', e.place
  FROM expressions e WHERE pg_catalog.strpos(e.tree, '{COERCETODOMAIN ') OPERATOR(pg_catalog.>) 0
UNION ALL
SELECT 'f', p.proname::pg_catalog.text, 'B',
       CASE WHEN pg_catalog.bool_or(p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char") THEN 'v' ELSE '' END
  FROM pg_catalog.pg_proc p
 WHERE p.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
   AND p.pronamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
 GROUP BY p.proname
UNION ALL
SELECT 'f', p.proname::pg_catalog.text, 'U',
       pg_catalog.concat(
         CASE WHEN pg_catalog.bool_or(p.pronargs OPERATOR(pg_catalog.>=) 1::pg_catalog.int2
              AND p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults OPERATOR(pg_catalog.<=) 1) THEN '1' END,
         CASE WHEN pg_catalog.bool_or(p.pronamespace OPERATOR(pg_catalog.=)
              'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid) THEN 'P' END,
         CASE WHEN pg_catalog.bool_or(p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
              OR NOT p.oid OPERATOR(pg_catalog.=) ANY (SELECT t.oid FROM trusted t)) THEN 'X' END)
  FROM pg_catalog.pg_proc p
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    OR p.pronamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
 GROUP BY p.proname
UNION ALL
SELECT DISTINCT 'o', o.oprname::pg_catalog.text, '', ''
  FROM pg_catalog.pg_operator o
  LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid
 WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
   AND (p.oid IS NULL OR p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
        OR (p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
            AND NOT p.oid OPERATOR(pg_catalog.=) ANY (SELECT t.oid FROM trusted t)))
UNION ALL
SELECT 't', n.nspname::pg_catalog.text, t.typname::pg_catalog.text, pg_catalog.concat(t.oid, ' ', t.typtype)
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
 WHERE t.typcategory OPERATOR(pg_catalog.<>) 'A'::pg_catalog."char"
   AND (t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
        OR EXISTS (SELECT FROM pg_catalog.pg_class c
                    WHERE c.oid OPERATOR(pg_catalog.=) t.typrelid AND c.relkind OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"))
   AND NOT (n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['pg_toast', 'information_schema']::pg_catalog.name[]))
UNION ALL
SELECT 'c', 'cast', '', ''
 WHERE EXISTS (
   SELECT FROM pg_catalog.pg_cast k
     JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) k.castfunc
    WHERE p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
       OR (p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
           AND NOT p.oid OPERATOR(pg_catalog.=) ANY (SELECT t.oid FROM trusted t)))
UNION ALL
-- Isolation levels by default: the server's (a connection's own startup packet may hide it), and those of roles and the database.
SELECT 'i', CASE WHEN g.source OPERATOR(pg_catalog.=) 'client' THEN 'unknown' ELSE g.setting END, '', ''
  FROM pg_catalog.pg_settings g WHERE g.name OPERATOR(pg_catalog.=) 'default_transaction_isolation'
UNION ALL
SELECT DISTINCT 'i', pg_catalog.split_part(w.word, '=', 2), '', ''
  FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) w (word)
 WHERE pg_catalog.starts_with(w.word, 'default_transaction_isolation=')
   AND (s.setdatabase OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR s.setdatabase OPERATOR(pg_catalog.=)
        (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
