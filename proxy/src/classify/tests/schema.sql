-- What the golden table and the test on a real server classify against.
CREATE TABLE users (id serial PRIMARY KEY, name text DEFAULT 'nobody', email text, created timestamptz DEFAULT now());
CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users, total numeric CHECK (total > 0), key uuid DEFAULT gen_random_uuid());
CREATE TABLE plain (a int, b int, c text);
CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY, a int);
CREATE TABLE doubled (a int, b int GENERATED ALWAYS AS (a * 2) STORED);
CREATE UNLOGGED TABLE unlogged (a int);

CREATE FUNCTION f_volatile(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION f_stable(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1; END';
CREATE FUNCTION f_immutable(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION f_of_row(plain) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION f_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';

CREATE TABLE triggered (a int);
CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f_trigger();
CREATE TABLE ruled (a int);
CREATE RULE r AS ON INSERT TO ruled DO ALSO NOTIFY ruled;
CREATE TABLE secured (tenant text, a int);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
CREATE TABLE checked (a int CHECK (f_immutable(a) > 0));
CREATE TABLE defaulted (a int DEFAULT f_volatile(1));
CREATE TABLE indexed (a int);
CREATE INDEX ON indexed (f_immutable(a));
CREATE TABLE parted_strangely (a int) PARTITION BY RANGE (f_immutable(a));
CREATE TABLE measured (a int, b int);
CREATE STATISTICS measured_stats ON (f_immutable(a)), b FROM measured;
CREATE TABLE sleepy (a int, b text DEFAULT pg_sleep(0)::text);
CREATE TABLE referenced (id int PRIMARY KEY);
CREATE TABLE referencing (id int REFERENCES referenced ON DELETE CASCADE, a int);
CREATE TRIGGER t BEFORE DELETE ON referencing FOR EACH ROW EXECUTE FUNCTION f_trigger();

CREATE TABLE parted (a int, b int) PARTITION BY LIST (a);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE TABLE mixed (a int, b int) PARTITION BY LIST (a);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER far FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE mixed_far PARTITION OF mixed FOR VALUES IN (1) SERVER far;
CREATE FOREIGN TABLE remote (a int) SERVER far;

CREATE VIEW v_plain AS SELECT u.id, u.name, lower(u.email) AS email FROM users u WHERE u.created < now();
CREATE VIEW v_nested AS SELECT count(*) AS n, max(total) AS m FROM v_plain p JOIN orders o ON o.user_id = p.id;
CREATE VIEW v_user_function AS SELECT f_stable(a) AS a FROM plain;
CREATE VIEW v_over_user_function AS SELECT a + 1 AS a FROM v_user_function;
CREATE VIEW v_nextval AS SELECT nextval('users_id_seq') AS n;
CREATE VIEW v_secured AS SELECT a FROM secured;
CREATE VIEW v_remote AS SELECT a FROM remote;
CREATE VIEW v_locking AS SELECT a FROM plain FOR UPDATE;
CREATE VIEW v_settings AS SELECT set_config('work_mem', '1MB', false) AS s;
CREATE MATERIALIZED VIEW mv AS SELECT a FROM plain;

CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE moods (m mood, ms mood[]);
CREATE FUNCTION f_operator(int, int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE OPERATOR <-> (LEFTARG = int, RIGHTARG = int, FUNCTION = f_operator);

CREATE SCHEMA other;
CREATE TABLE other.users (id int, secret text);
CREATE TABLE other.only_there (a int);
CREATE SCHEMA evil;
CREATE VIEW evil.plain AS SELECT f_volatile(1) AS a;
CREATE FUNCTION evil.upper(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION f_state(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE AGGREGATE evil.bool_or(int) (SFUNC = f_state, STYPE = int);
CREATE EXTENSION citext;
CREATE TABLE cased (a citext);
