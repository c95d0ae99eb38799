//! tokio-postgres: pipelined statements, portals, COPY, notifications, cancel.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::{SinkExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, IsolationLevel, NoTls, Notification};

type Heard = mpsc::UnboundedReceiver<Notification>;

async fn connect(port: u16) -> (Client, Heard) {
    connect_with(port, "").await
}

async fn connect_with(port: u16, options: &str) -> (Client, Heard) {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user("app")
        .password("app")
        .dbname("app")
        .options(options);
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(|context| connection.poll_message(context));
        while let Ok(Some(message)) = messages.try_next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = tell.send(notification);
            }
        }
    });
    (client, heard)
}

pub(crate) async fn all(port: u16) -> Vec<&'static str> {
    let mut passed = Vec::new();
    statements(port).await;
    passed.push("prepared statements of two connections, pipelined");
    transactions(port).await;
    passed.push("transactions, savepoints, portals");
    copies(port).await;
    passed.push("COPY in both directions");
    listening(port).await;
    passed.push("notifications");
    cancels(port).await;
    passed.push("cancel");
    settings(port).await;
    passed.push("settings of two connections");
    changing(port).await;
    passed.push("an error between pipelined statements");
    passed
}

async fn statements(port: u16) {
    let ((one, _a), (two, _b)) = join(connect(port), connect(port)).await;
    let (plus, twice) = join(
        one.prepare("select $1::int4 + 1"),
        two.prepare("select $1::int4 * 2"),
    )
    .await;
    let (plus, twice) = (plus.unwrap(), twice.unwrap());
    let numbers: Vec<i32> = (0..100).collect();
    let sums = join_all(
        numbers
            .iter()
            .map(async |n| one.query_one(&plus, &[n]).await.unwrap().get::<_, i32>(0)),
    );
    let doubles = join_all(
        numbers
            .iter()
            .map(async |n| two.query_one(&twice, &[n]).await.unwrap().get::<_, i32>(0)),
    );
    let (sums, doubles) = join(sums, doubles).await;
    assert!(
        numbers
            .iter()
            .zip(sums.iter().zip(&doubles))
            .all(|(n, (s, d))| *s == n + 1 && *d == n * 2)
    );
    drop((plus, twice));
    let row = one
        .query_one(
            "select $1::text, $2::bytea, $3::float8, null::int4",
            &[&"ä€😀", &&b"\x00\xff"[..], &0.1_f64],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "ä€😀");
    assert_eq!(row.get::<_, &[u8]>(1), b"\x00\xff");
    assert_eq!(row.get::<_, Option<i32>>(3), None);
}

async fn transactions(port: u16) {
    let ((mut one, _a), (two, _b)) = join(connect(port), connect(port)).await;
    one.batch_execute("create table accounts (n int4 primary key)")
        .await
        .unwrap();
    let count = async || {
        two.query_one("select count(*) from accounts", &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    let mut outer = one
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .start()
        .await
        .unwrap();
    outer
        .execute("insert into accounts values ($1)", &[&1_i32])
        .await
        .unwrap();
    assert_eq!(count().await, 0);
    let inner = outer.transaction().await.unwrap();
    let error = inner
        .execute("insert into accounts values ($1)", &[&1_i32])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    inner.rollback().await.unwrap();
    let portal = outer
        .bind("select g from generate_series(1, 100) g", &[])
        .await
        .unwrap();
    assert_eq!(outer.query_portal(&portal, 30).await.unwrap().len(), 30);
    assert_eq!(outer.query_portal(&portal, 0).await.unwrap().len(), 70);
    outer.commit().await.unwrap();
    assert_eq!(count().await, 1);
    // Dropped: rolled back in the background, before the next statement of this client.
    let dropped = one.transaction().await.unwrap();
    dropped
        .execute("insert into accounts values (2)", &[])
        .await
        .unwrap();
    drop(dropped);
    assert_eq!(
        one.query_one("select count(*) from accounts", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
}

async fn copies(port: u16) {
    let (client, _heard) = connect(port).await;
    client
        .batch_execute("create table copied (n int4, s text)")
        .await
        .unwrap();
    let mut sink = pin!(client.copy_in("copy copied from stdin").await.unwrap());
    for n in 0..10_000 {
        sink.feed(Bytes::from(format!("{n}\trow {n}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 10_000);
    let out = client
        .copy_out("copy (select n from copied order by n) to stdout")
        .await
        .unwrap();
    let bytes: Vec<Bytes> = out.try_collect().await.unwrap();
    assert_eq!(bytes.concat().iter().filter(|b| **b == b'\n').count(), 10_000);
    // A sink that is dropped gives up: nothing of it stays.
    let given_up = client
        .copy_in::<_, Bytes>("copy copied from stdin")
        .await
        .unwrap();
    drop(given_up);
    let row = client
        .query_one("select count(*) from copied", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 10_000);
}

async fn listening(port: u16) {
    let ((one, mut heard), (two, _b)) = join(connect(port), connect(port)).await;
    one.batch_execute("listen talk").await.unwrap();
    two.batch_execute("notify talk, 'from two'").await.unwrap();
    two.execute("select pg_notify('talk', $1)", &[&"again"])
        .await
        .unwrap();
    for wanted in ["from two", "again"] {
        let got = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await;
        assert_eq!(got.unwrap().unwrap().payload(), wanted);
    }
    one.batch_execute("unlisten talk").await.unwrap();
}

async fn cancels(port: u16) {
    let (client, _heard) = connect(port).await;
    let token = client.cancel_token();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (ended, ()) = join(client.batch_execute("select pg_sleep(20)"), cancel).await;
    assert_eq!(ended.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    client.batch_execute("").await.unwrap();
}

async fn settings(port: u16) {
    let ((one, _a), (two, _b)) = join(connect_with(port, "-c timezone=Asia/Tokyo"), connect(port)).await;
    two.batch_execute("set timezone = 'Africa/Nairobi'")
        .await
        .unwrap();
    for _ in 0..10 {
        for (client, zone) in [(&one, "Asia/Tokyo"), (&two, "Africa/Nairobi")] {
            let row = client
                .query_one("select current_setting('timezone')", &[])
                .await
                .unwrap();
            assert_eq!(row.get::<_, &str>(0), zone);
        }
    }
}

async fn changing(port: u16) {
    let (client, _heard) = connect(port).await;
    let statements = [
        "select 1",
        "select 1/0",
        "select 2",
        "select * from nosuch",
        "select 3",
    ];
    let answers = join_all(statements.map(|sql| client.simple_query(sql))).await;
    let good: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, true, false, true]);
}
