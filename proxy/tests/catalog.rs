//! The catalog query and what is concluded from it, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is a failed test"
)]

use std::sync::Arc;

use pgstmtpool_proxy::classify::{
    CATALOG_QUERY, Catalog, Class, Classifier, Context, Kind, Lexing, Limits, Touches,
};
use pgstmtpool_tests::wire::Row;
use pgstmtpool_tests::{Cluster, Server, World};

const SCHEMA: &str = include_str!("../src/classify/tests/schema.sql");
const TABLE: &str = include_str!("../src/classify/tests/golden.txt");

fn start(name: &str) -> (Arc<World>, Cluster) {
    let world = Arc::new(World::new(name));
    let cluster = Cluster::single(&world);
    cluster.master().sql(SCHEMA);
    (world, cluster)
}

fn rows(server: &Server, role: &str, search_path: &str) -> Vec<Row> {
    let mut connection = server.connect("postgres");
    connection
        .query(&format!("SET ROLE {role}; SET search_path = {search_path}"))
        .unwrap();
    let mut rows = connection
        .query(CATALOG_QUERY)
        .unwrap_or_else(|error| panic!("as {role}: {error}"));
    rows.sort();
    rows
}

fn catalog(rows: &[Row]) -> Catalog {
    let fields = |row: &'_ Row| -> [Option<Vec<u8>>; 4] {
        std::array::from_fn(|at| row.get(at).cloned().flatten().map(String::into_bytes))
    };
    let rows: Vec<[Option<Vec<u8>>; 4]> = rows.iter().map(fields).collect();
    Catalog::from_rows(
        rows.iter()
            .map(|row| row.each_ref().map(|field| field.as_deref())),
    )
    .unwrap()
}

fn classify(sql: &str, catalog: &Catalog) -> Class {
    let context = Context {
        catalog: Some(catalog),
        role: "ann",
        search_path: "\"$user\", public",
        lexing: Lexing::Standard,
    };
    Classifier::new(Limits::default()).classify(sql.as_bytes(), &context)
}

fn table() -> impl Iterator<Item = (String, &'static str)> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (sql, what) = line.split_once(" ==> ")?;
            Some((sql.replace("\\n", "\n"), what))
        })
}

/// What a session could have left behind, as one text.
const STATE: &str = "SELECT pg_catalog.concat_ws('|',
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'),
  (SELECT pg_catalog.string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_catalog.pg_settings WHERE source = 'session'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_listening_channels()),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relpersistence = 't'))";

#[test]
fn the_catalog_query_gives_any_role_the_same_rows_whatever_its_search_path() {
    let (_world, cluster) = start("catalog-query");
    let server = cluster.master();
    // Somebody else's operators, first in the path, must not be called.
    server.sql(
        "CREATE ROLE ordinary;
         CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO ordinary;
         CREATE FUNCTION trap.sprung(oid, oid) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$trap$$; END';
         CREATE FUNCTION trap.sprung(name, name) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$trap$$; END';
         CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.sprung);
         CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.sprung);
         CREATE FUNCTION trap.concat(VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_concat';",
    );
    let trapped = server
        .connect("postgres")
        .query("SET search_path = trap, pg_catalog; SELECT 1::oid = 1::oid");
    assert!(trapped.is_err(), "the trap works");
    let ours = rows(server, "postgres", "public");
    let theirs = rows(server, "ordinary", "trap, pg_catalog");
    assert!(ours.len() > 3000);
    assert_eq!(ours, theirs);
}

#[test]
fn a_catalog_read_from_a_server_gives_the_verdicts_of_the_table() {
    let (_world, cluster) = start("catalog-verdicts");
    let catalog = catalog(&rows(cluster.master(), "postgres", "public"));
    let (mut known, mut others) = (0, 0);
    for (sql, what) in table() {
        let found = classify(&sql, &catalog);
        let expected = what.starts_with("KnownRead") || what.starts_with("Show");
        assert_eq!(found.is_known_read(), expected, "{sql}");
        assert_eq!(
            found.kind == Kind::Dml { neutral: true },
            what.starts_with("Dml neutral"),
            "{sql}"
        );
        if expected { known += 1 } else { others += 1 }
    }
    assert!(known > 50 && others > 200);
}

#[test]
fn known_reads_and_neutral_writes_leave_nothing_in_the_session() {
    let (_world, cluster) = start("catalog-proof");
    let server = cluster.master();
    server.sql("INSERT INTO plain VALUES (1, 2, 'x'); INSERT INTO other.users VALUES (1, 'x'); INSERT INTO users (name) VALUES ('x')");
    let catalog = catalog(&rows(server, "postgres", "public"));
    let before = server.value(STATE);
    let mut proven = 0;
    for (sql, _) in table() {
        let class = classify(&sql, &catalog);
        let writes = class.kind == Kind::Dml { neutral: true };
        if !(class.is_known_read() || writes) || sql.contains('$') {
            continue;
        }
        let mut connection = server.connect("postgres");
        if connection.query(&sql).is_err() {
            continue; // not every statement of the table makes sense to a server
        }
        if !writes {
            let list = format!(
                "{}\n; SELECT pg_catalog.pg_current_xact_id_if_assigned()::text",
                sql.trim_end_matches(';')
            );
            let last = connection.query(&list).unwrap();
            assert_eq!(last, [[None]], "assigned a transaction id: {sql}");
        }
        let drew = connection.query("SELECT lastval()").is_ok();
        let said = class
            .touches
            .intersects(Touches::SEQUENCE | Touches::SEQUENCE_DEFAULT);
        assert!(said || !drew, "drew from a sequence: {sql}");
        let after = connection.query(STATE).unwrap();
        assert_eq!(after[0][0].as_deref(), Some(&*before), "left something: {sql}");
        proven += 1;
    }
    assert!(proven > 60, "{proven}");
}

#[test]
fn domains_with_code_in_their_checks_are_noticed() {
    let (_world, cluster) = start("catalog-domains");
    let server = cluster.master();
    let known = |sql: &str| classify(sql, &catalog(&rows(server, "postgres", "public"))).is_known_read();
    server.sql("CREATE DOMAIN positive AS int CHECK (VALUE > 0)");
    assert!(known("SELECT a::positive FROM plain"));
    server.sql("CREATE DOMAIN strange AS int CHECK (f_volatile(VALUE) > 0); CREATE VIEW v_strange AS SELECT a::strange FROM plain");
    assert!(!known("SELECT a::strange FROM plain"));
    assert!(
        !known("SELECT a::positive FROM plain"),
        "a domain may stand on another"
    );
    assert!(!known("SELECT * FROM v_strange"));
    assert!(known("SELECT a::int FROM plain"));
    server.sql("CREATE TYPE pair AS (a int, b int); CREATE CAST (text AS pair) WITH INOUT");
    assert!(known("SELECT a::int FROM plain"));
    server.sql(
        "CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql AS 'SELECT ROW(1, 2)::pair';
         CREATE CAST (int AS pair) WITH FUNCTION to_pair(int)",
    );
    assert!(
        !known("SELECT a::int FROM plain"),
        "nobody can see where a cast is called"
    );
}

#[test]
fn a_function_smuggled_into_an_extension_is_still_a_users_code() {
    let (_world, cluster) = start("catalog-extension");
    let server = cluster.master();
    let known = |sql: &str| classify(sql, &catalog(&rows(server, "postgres", "public"))).is_known_read();
    assert!(
        known("SELECT strpos('a', 'b')"),
        "citext's own overload is trusted"
    );
    server.sql(
        "CREATE ROLE smuggler; GRANT CREATE ON SCHEMA public TO smuggler; SET ROLE smuggler;
         CREATE FUNCTION strpos(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END';
         RESET ROLE; ALTER EXTENSION citext ADD FUNCTION strpos(int, int)",
    );
    assert!(!known("SELECT strpos('a', 'b')"));
}
