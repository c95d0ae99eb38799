//! Drivers and frameworks of other languages, unmodified: each program of `tests/drivers` passes straight at PostgreSQL
//! and through the proxy, while neighbours with odd settings use the same pool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pgstmtpool_tests::{Driver, DriverStage};

fn matrix(name: &str, driver: impl FnOnce(&DriverStage) -> Driver) {
    let stage = DriverStage::start(name, "transaction");
    let driver = driver(&stage);
    stage.check(&driver);
}

fn python(name: &str) {
    matrix(name, |_| Driver::python(&format!("{name}_check.py")));
}

#[test]
fn psycopg_3() {
    python("psycopg3");
}

#[test]
fn psycopg_3_in_statement_mode() {
    let stage = DriverStage::start("psycopg3-stmt", "statement");
    stage.proxied(&Driver::python("psycopg3_check.py").arg("statement"));
}

#[test]
fn psycopg2() {
    python("psycopg2");
}

#[test]
fn asyncpg() {
    python("asyncpg");
}

#[test]
fn asyncpg_in_statement_mode() {
    let stage = DriverStage::start("asyncpg-stmt", "statement");
    stage.proxied(&Driver::python("asyncpg_check.py").arg("statement"));
}

#[test]
fn sqlalchemy() {
    python("sqlalchemy");
}

#[test]
fn alembic() {
    python("alembic");
}

#[test]
fn django() {
    python("django");
}

#[test]
fn django_with_server_side_binding() {
    matrix("django-binding", |_| {
        Driver::python("django_check.py").arg("binding")
    });
}

#[test]
fn django_with_its_pool() {
    matrix("django-pool", |_| Driver::python("django_check.py").arg("pool"));
}

fn node(name: &str) {
    matrix(name, |_| Driver::node(&format!("{name}_check.js")));
}

#[test]
fn node_postgres() {
    node("pg");
}

#[test]
fn postgres_js() {
    node("postgresjs");
}

#[test]
fn sequelize() {
    node("sequelize");
}

#[test]
fn knex() {
    node("knex");
}

#[test]
fn pgx() {
    matrix("pgx", |stage| Driver::go(stage.world(), "pgx"));
}

#[test]
fn lib_pq() {
    matrix("pq", |stage| Driver::go(stage.world(), "pq"));
}

#[test]
fn pgjdbc_and_hikaricp() {
    matrix("pgjdbc", |stage| Driver::java(stage.world(), "PgjdbcCheck"));
}

#[test]
fn flyway() {
    matrix("flyway", |stage| Driver::java(stage.world(), "FlywayCheck"));
}

#[test]
fn hibernate() {
    matrix("hibernate", |stage| Driver::java(stage.world(), "HibernateCheck"));
}

#[test]
fn php_pdo() {
    matrix("pdo", |_| Driver::php("pdo_check.php"));
}

#[test]
fn ruby_pg() {
    matrix("ruby-pg", |_| Driver::ruby("pg_check.rb"));
}

#[test]
fn activerecord() {
    matrix("activerecord", |_| Driver::ruby("activerecord_check.rb"));
}

#[test]
fn libpq_pipeline_mode() {
    matrix("libpq", |stage| Driver::libpq(stage.world(), "pipeline"));
}
