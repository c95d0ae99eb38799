//! sqlx: its cache of prepared statements, pool, migrations under an advisory lock, COPY, its listener.

use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

pub(crate) async fn all(port: u16) -> Vec<&'static str> {
    let options = PgConnectOptions::new()
        .host("127.0.0.1")
        .port(port)
        .username("app")
        .password("app")
        .database("app");
    let pool = PgPoolOptions::new()
        .max_connections(5)
        .connect_with(options.clone())
        .await
        .unwrap();
    let mut passed = Vec::new();
    migrations(&pool).await;
    passed.push("migrations, two migrators at once");
    statements(&pool).await;
    passed.push("many statements over a pool");
    transactions(&pool).await;
    passed.push("transactions and savepoints");
    copies(&options).await;
    passed.push("COPY in both directions");
    listening(&pool, &options).await;
    passed.push("a listener");
    settings(&options).await;
    passed.push("settings of two connections");
    pool.close().await;
    passed
}

async fn migrations(pool: &PgPool) {
    let folder = std::env::temp_dir().join(format!("sqlx-{}-{}", std::process::id(), pool.size()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "1_first.sql",
        "create table item (n int primary key, s text); insert into item select g, 'i' || g from generate_series(1, 100) g;",
    );
    write(
        "2_index.sql",
        "-- no-transaction\ncreate index concurrently item_s on item (s);",
    );
    write(
        "3_function.sql",
        "create function twice(n int) returns int language plpgsql as $$ begin return n * 2; end $$;",
    );
    let migrator = Migrator::new(folder.as_path()).await.unwrap();
    migrator.run_to(1, pool).await.unwrap();
    migrator.run(pool).await.unwrap();
    let both = join_all([migrator.run(pool), migrator.run(pool)]).await;
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    let done: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations where success")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(done, 3);
    let twice: i32 = sqlx::query_scalar("select twice(21)")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(twice, 42);
    std::fs::remove_dir_all(&folder).unwrap();
}

async fn statements(pool: &PgPool) {
    join_all((0..200_i32).map(async |n| {
        let (number, text): (i32, String) = sqlx::query_as("select $1 + 1, $2 || 'x'")
            .bind(n)
            .bind(n.to_string())
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!((number, text), (n + 1, format!("{n}x")));
    }))
    .await;
    let rows = sqlx::query_as::<_, (i32,)>("select n from item order by n")
        .fetch(pool)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    assert_eq!(rows.len(), 100);
    // More texts than its cache holds: closed and prepared again.
    let mut connection = pool.acquire().await.unwrap();
    for n in 0..250_i32 {
        let sql = AssertSqlSafe(format!("select $1 + {}", n % 125));
        let got: i32 = sqlx::query_scalar(sql)
            .bind(n)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(got, n + n % 125);
    }
    // A stream that is not read to its end.
    let mut rows = sqlx::query("select generate_series(1, 1000)").fetch(&mut *connection);
    assert!(rows.next().await.is_some());
    drop(rows);
    let one: i32 = sqlx::query_scalar("select 1")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!(one, 1);
}

async fn transactions(pool: &PgPool) {
    let count = async || {
        sqlx::query_scalar::<_, i64>("select count(*) from item where n > 1000")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let mut outer = pool.begin().await.unwrap();
    sqlx::query("insert into item values ($1, $2)")
        .bind(1001)
        .bind("a")
        .execute(&mut *outer)
        .await
        .unwrap();
    let mut inner = outer.begin().await.unwrap();
    let error = sqlx::query("insert into item values (1001, 'b')")
        .execute(&mut *inner)
        .await
        .unwrap_err();
    assert!(error.as_database_error().unwrap().is_unique_violation());
    inner.rollback().await.unwrap();
    assert_eq!(count().await, 0);
    outer.commit().await.unwrap();
    assert_eq!(count().await, 1);
    let mut dropped = pool.begin().await.unwrap();
    sqlx::query("delete from item")
        .execute(&mut *dropped)
        .await
        .unwrap();
    drop(dropped);
    assert_eq!(count().await, 1);
}

async fn copies(options: &PgConnectOptions) {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    connection
        .execute("create table copied (n int, s text)")
        .await
        .unwrap();
    let mut into = connection.copy_in_raw("copy copied from stdin").await.unwrap();
    let text: String = (0..10_000).map(|n| format!("{n}\trow {n}\n")).collect();
    for chunk in text.as_bytes().chunks(4000) {
        into.send(chunk).await.unwrap();
    }
    assert_eq!(into.finish().await.unwrap(), 10_000);
    let out = connection
        .copy_out_raw("copy (select * from copied order by n) to stdout")
        .await
        .unwrap();
    let bytes = out.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!(bytes, text.as_bytes());
    let given_up = connection.copy_in_raw("copy copied from stdin").await.unwrap();
    given_up.abort("given up").await.unwrap();
    connection.ping().await.unwrap();
    connection.close().await.unwrap();
}

async fn listening(pool: &PgPool, options: &PgConnectOptions) {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.clone())
        .await
        .unwrap();
    let mut listener = PgListener::connect_with(&own).await.unwrap();
    listener.listen_all(["talk", "more"]).await.unwrap();
    sqlx::query("select pg_notify('talk', 'one')")
        .execute(pool)
        .await
        .unwrap();
    pool.execute("notify more, 'two'").await.unwrap();
    for wanted in ["one", "two"] {
        let got = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        assert_eq!(got.unwrap().unwrap().payload(), wanted);
    }
    listener.unlisten_all().await.unwrap();
    drop(listener);
    own.close().await;
}

async fn settings(options: &PgConnectOptions) {
    let red = options
        .clone()
        .options([("timezone", "Asia/Tokyo"), ("app.tenant", "red")]);
    let mut one = PgConnection::connect_with(&red).await.unwrap();
    let mut two = PgConnection::connect_with(options).await.unwrap();
    two.execute("set app.tenant = 'blue'").await.unwrap();
    for _ in 0..10 {
        for (connection, tenant) in [(&mut one, "red"), (&mut two, "blue")] {
            let got: String = sqlx::query_scalar("select current_setting($1)")
                .bind("app.tenant")
                .fetch_one(connection)
                .await
                .unwrap();
            assert_eq!(got, tenant);
        }
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
}
