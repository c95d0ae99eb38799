//! The client library against a real PostgreSQL: a test for each of the rows PC-*.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::time::Duration;

use pgnet::backend::TransactionStatus;
use pgnet::client::{
    Array, AsyncMessage, ByteArray, Connection, Error, Fatal, Format, Lsn, MESSAGES_MAX, Options, Range,
    Results, ValueError,
};
use pgnet::quote::{identifier, literal};
use support::server;

async fn one(connection: &mut Connection, sql: &str) -> String {
    connection
        .query_one(sql)
        .await
        .unwrap()
        .get(0, 0)
        .unwrap_or("null")
        .to_owned()
}

#[tokio::test]
async fn pc02_a_database_error_leaves_the_connection_and_a_fatal_one_ends_it() {
    let server = server();
    let mut connection = server.connect().await;
    let error = connection.query("select 1/0").await.unwrap_err();
    assert!(matches!(error, Error::Db(_)) && !error.is_fatal() && error.sqlstate().as_str() == "22012");
    assert_eq!(one(&mut connection, "select 1").await, "1");

    let error = connection
        .query("select pg_terminate_backend(pg_backend_pid())")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Fatal(Fatal::Server(fields)) if fields.code.as_str() == "57P01"),
        "{error:?}"
    );
    assert!(connection.is_broken());
    assert!(matches!(
        connection.query("select 1").await,
        Err(Error::Fatal(Fatal::Abandoned))
    ));
}

#[tokio::test]
async fn pc03_several_statements_give_several_results_in_one_transaction() {
    let server = server();
    let mut connection = server.connect().await;
    let results = connection
        .query("create temp table t(a int); insert into t values (1), (2); ; select a from t; select")
        .await
        .unwrap();
    let tags: Vec<&str> = results.iter().map(|result| result.tag()).collect();
    assert_eq!(tags, ["CREATE TABLE", "INSERT 0 2", "SELECT 2", "SELECT 1"]);
    assert!(
        connection
            .query("insert into t values (3); select 1/0")
            .await
            .is_err()
    );
    assert_eq!(
        one(&mut connection, "select count(*) from t").await,
        "2",
        "rolled back together"
    );
    let empty = connection.query("").await.unwrap();
    assert_eq!((empty.len(), empty[0].tag(), empty[0].columns()), (1, "", None));
}

#[tokio::test]
async fn pc04_one_statement_runs_for_many_rows_as_one_pipeline() {
    let server = server();
    let mut connection = server.connect().await;
    connection
        .query("create temp table t(a int primary key, b text)")
        .await
        .unwrap();
    let rows: Vec<[Option<String>; 2]> = (0..20_000)
        .map(|i| [Some(i.to_string()), (i % 2 == 0).then(|| "x".repeat(20))])
        .collect();
    let results = connection
        .query_many("insert into t values ($1, $2)", &rows, Options::default())
        .await
        .unwrap();
    assert_eq!(results.len(), 20_000);
    assert!(
        results
            .iter()
            .all(|result| result.tag() == "INSERT 0 1" && result.rows_affected() == Some(1))
    );
    assert_eq!(one(&mut connection, "select count(b) from t").await, "10000");

    let discard = Options {
        results: Results::Discard,
        ..Options::default()
    };
    let results = connection
        .query_many(
            "select * from t where a < $1",
            [[Some("5000")], [Some("9")]],
            discard,
        )
        .await
        .unwrap();
    assert!(results.is_empty());

    let twice = [[Some("90000")], [Some("90001")], [Some("90000")]];
    let error = connection
        .query_many("insert into t values ($1)", twice, Options::default())
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate().as_str(), "23505");
    assert_eq!(
        one(&mut connection, "select count(*) from t where a >= 90000").await,
        "0",
        "all or none"
    );
    assert!(
        connection
            .query_many("selec", [[Some("1")]; 5_000], Options::default())
            .await
            .is_err()
    );
    let none: [[Option<&str>; 0]; 0] = [];
    assert!(
        connection
            .query_many("select 1", none, Options::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        one(&mut connection, "select 1").await,
        "1",
        "in step after all of this"
    );
}

/// Replies that fill every buffer while requests are still being sent: neither side may wait for the other.
#[tokio::test]
async fn pc04_a_pipeline_with_large_answers_does_not_lock_up() {
    let server = server();
    let mut connection = server.connect().await;
    let rows = vec![[Some("20000")]; 2_000];
    let results = connection
        .query_many("select repeat('x', $1::int)", &rows, Options::default())
        .await
        .unwrap();
    assert!(results.len() == 2_000 && results.iter().all(|r| r.get(0, 0).unwrap().len() == 20_000));
}

#[tokio::test]
async fn pc05_rows_are_copied_in_text_and_binary() {
    let server = server();
    let mut connection = server.connect().await;
    connection
        .query("create temp table t(a int, b text)")
        .await
        .unwrap();
    let mut copy = connection.copy_in("copy t from stdin").await.unwrap();
    copy.send_row(&[Some("1"), Some("tab\tnew\nline\\.")])
        .await
        .unwrap();
    copy.send_row(&[Some("2"), None]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap().rows_affected(), Some(2));
    assert_eq!(
        one(&mut connection, "select b from t where a = 1").await,
        "tab\tnew\nline\\."
    );

    let many = (0..100_000).map(|i| format!("{i}\tvalue {i}\n"));
    assert_eq!(
        connection
            .copy_in_all("copy t from stdin", many)
            .await
            .unwrap()
            .tag(),
        "COPY 100000"
    );

    let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    binary.extend_from_slice(b"\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x02hi\xff\xff");
    connection
        .copy_in_all("copy t from stdin binary", [binary])
        .await
        .unwrap();
    assert_eq!(
        one(&mut connection, "select b from t where a = 7 and b = 'hi'").await,
        "hi"
    );
}

#[tokio::test]
async fn pc05_a_copy_that_fails_or_is_given_up_copies_nothing() {
    let server = server();
    let mut connection = server.connect().await;
    connection.query("create temp table t(a int)").await.unwrap();
    // Far more than fits anywhere, so that the refusal comes while we send.
    let bad = (0..200_000).map(|i| {
        if i == 10 {
            "bad\n".to_owned()
        } else {
            format!("{i}\n")
        }
    });
    assert_eq!(
        connection
            .copy_in_all("copy t from stdin", bad)
            .await
            .unwrap_err()
            .sqlstate()
            .as_str(),
        "22P02"
    );
    let mut copy = connection.copy_in("copy t from stdin").await.unwrap();
    copy.send(b"1\n").await.unwrap();
    copy.abort("changed my mind").await.unwrap();
    assert!(matches!(
        connection.copy_in("select 1").await,
        Err(Error::Input(_))
    ));
    assert!(matches!(
        connection.copy_in("copy t to stdout").await,
        Err(Error::Input(_))
    ));
    assert!(matches!(
        connection.copy_in("copy nowhere from stdin").await,
        Err(Error::Db(_))
    ));
    assert!(
        matches!(connection.query("copy t from stdin").await, Err(Error::Db(_))),
        "no data by query"
    );
    assert_eq!(one(&mut connection, "select count(*) from t").await, "0");

    let mut copy = connection.copy_in("copy t from stdin").await.unwrap();
    copy.send(b"1\n").await.unwrap();
    drop(copy);
    assert!(connection.is_broken(), "dropped in the middle");
}

#[tokio::test]
async fn pc06_rows_are_copied_out() {
    let server = server();
    let mut connection = server.connect().await;
    let mut lines = Vec::new();
    let sql = "copy (select i, null from generate_series(1, 50000) i) to stdout";
    connection
        .copy_out_all(sql, |piece| lines.push(piece.to_vec()))
        .await
        .unwrap();
    assert_eq!((lines.len(), lines[0].as_slice()), (50_000, &b"1\t\\N\n"[..]));

    let mut copy = connection
        .copy_out("copy (select 1/(3-i) from generate_series(1, 5) i) to stdout")
        .await
        .unwrap();
    let error = loop {
        match copy.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate().as_str(), "22012");
    assert!(matches!(
        connection.copy_out("copy pg_class from stdin").await,
        Err(Error::Input(_) | Error::Db(_))
    ));
    assert_eq!(one(&mut connection, "select 1").await, "1");
}

#[tokio::test]
async fn pc07_a_transaction_is_committed_rolled_back_or_forgotten() {
    let server = server();
    let mut connection = server.connect().await;
    connection.query("create temp table t(a int)").await.unwrap();

    let mut transaction = connection.transaction().await.unwrap();
    transaction.query("insert into t values (1)").await.unwrap();
    assert_eq!(transaction.transaction_status(), TransactionStatus::InTransaction);
    transaction.commit().await.unwrap();

    let mut transaction = connection.transaction().await.unwrap();
    transaction.query("insert into t values (2)").await.unwrap();
    transaction.rollback().await.unwrap();

    let mut forgotten = connection
        .transaction_with("isolation level serializable")
        .await
        .unwrap();
    forgotten.query("insert into t values (3)").await.unwrap();
    drop(forgotten);
    assert_eq!(
        one(&mut connection, "select string_agg(a::text, ',') from t").await,
        "1"
    );
    assert_eq!(connection.transaction_status(), TransactionStatus::Idle);

    let mut failed = connection.transaction().await.unwrap();
    assert!(failed.query("select 1/0").await.is_err());
    assert_eq!(failed.transaction_status(), TransactionStatus::Failed);
    assert!(
        matches!(failed.commit().await, Err(Error::RolledBack)),
        "a COMMIT that does not commit is an error"
    );

    connection.query("begin").await.unwrap();
    assert!(matches!(connection.transaction().await, Err(Error::Input(_))));
}

#[tokio::test]
async fn pc08_an_error_has_all_its_fields() {
    let server = server();
    let mut connection = server.connect().await;
    connection
        .query("create table fields(a int constraint positive check (a > 0))")
        .await
        .unwrap();
    let error = connection
        .query("insert into fields values (-1)")
        .await
        .unwrap_err();
    connection.query("drop table fields").await.unwrap();
    let fields = error.fields().unwrap();
    assert_eq!(fields.code.name(), Some("check_violation"));
    assert_eq!(
        (fields.schema.as_deref(), fields.table.as_deref()),
        (Some("public"), Some("fields"))
    );
    assert_eq!(fields.constraint.as_deref(), Some("positive"));
    assert!(
        fields.detail.is_some() && fields.routine.is_some() && fields.line.is_some() && fields.file.is_some()
    );
    let error = connection.query("select nowhere").await.unwrap_err();
    assert_eq!(error.fields().unwrap().position.as_deref(), Some("8"));
}

#[tokio::test]
async fn pc09_quoted_text_comes_back_as_it_was() {
    let server = server();
    let mut connection = server.connect().await;
    for conforming in ["on", "off"] {
        connection
            .query(&format!(
                "set standard_conforming_strings = {conforming}; set escape_string_warning = off"
            ))
            .await
            .unwrap();
        for text in [
            "",
            "plain",
            "O'Neill",
            "back\\slash",
            "\\'; drop table x; --",
            "$$é$$",
            "\n\t\"",
            "E'",
        ] {
            let sql = format!("select{} as {}", literal(text), identifier(&format!("c{text}")));
            let result = connection.query_one(&sql).await.unwrap();
            assert_eq!(result.get(0, 0), Some(text), "{conforming}");
            assert_eq!(result.columns().unwrap()[0].name, format!("c{text}"));
        }
    }
}

#[tokio::test]
async fn pc10_a_result_is_read_by_number_and_name() {
    let server = server();
    let mut connection = server.connect().await;
    let result = connection
        .query_one("select 1 as a, null as b, 'x'::varchar(7) as a")
        .await
        .unwrap();
    let row = result.first().unwrap();
    assert_eq!(
        (
            row.get(0),
            row.get("a"),
            row.get("b"),
            row.get(2),
            row.get("c"),
            row.get(3)
        ),
        (Some("1"), Some("1"), None, Some("x"), None, None)
    );
    assert_eq!(row.value::<i32>("a"), Ok(Some(1)));
    assert_eq!(row.required::<i32>("b"), Err(ValueError::Null("b".to_owned())));
    assert_eq!(row.value::<i32>("c"), Err(ValueError::NoColumn("c".to_owned())));
    let columns = result.columns().unwrap();
    assert_eq!((columns[0].type_oid, columns[2].type_modifier), (23, 11));
    assert_eq!((result.tag(), result.rows_affected()), ("SELECT 1", Some(1)));

    let none = connection.query_one("select 1 where false").await.unwrap();
    assert_eq!((none.columns().map(<[_]>::len), none.rows().len()), (Some(1), 0));
    let set = connection.query_one("set work_mem = '1MB'").await.unwrap();
    assert!(
        set.columns().is_none() && set.rows_affected().is_none(),
        "no rows at all is not the same as none of them"
    );
}

#[tokio::test]
async fn pc11_unasked_messages_are_queued_and_bounded() {
    let server = server();
    let mut connection = server.connect().await;
    connection
        .query("listen news; do $$ begin raise notice 'hello'; end $$; set application_name = 'other'")
        .await
        .unwrap();
    connection
        .query("notify news, 'read all about it'")
        .await
        .unwrap();
    let messages = connection.messages();
    assert!(matches!(&messages[0], AsyncMessage::Notice(fields) if fields.message == "hello"));
    assert!(messages.contains(&AsyncMessage::Parameter {
        name: "application_name".to_owned(),
        value: "other".to_owned()
    }));
    assert!(messages.contains(&AsyncMessage::Notification {
        process_id: connection.process_id(),
        channel: "news".to_owned(),
        payload: "read all about it".to_owned(),
    }));
    assert_eq!(connection.parameter("application_name"), Some("other"));
    assert_eq!(connection.message(), None);

    let flood = format!(
        "do $$ begin for i in 1..{} loop raise notice '%', i; end loop; end $$",
        MESSAGES_MAX + 5
    );
    connection.query(&flood).await.unwrap();
    // A server may have something of its own to say meanwhile: at least the five that found no room are counted as lost.
    assert_eq!(connection.messages().len(), MESSAGES_MAX);
    assert!(connection.messages_lost() >= 5);
}

#[tokio::test]
async fn pc12_messages_are_waited_for() {
    let server = server();
    let (mut listener, mut speaker) = (server.connect().await, server.connect().await);
    listener.query("listen tidings").await.unwrap();
    assert_eq!(listener.wait_messages(Some(Duration::ZERO)).await.unwrap(), 0);
    let (message, sent) = tokio::join!(listener.next_message(), speaker.query("notify tidings, 'now'"));
    sent.unwrap();
    assert!(matches!(message.unwrap(), AsyncMessage::Notification { payload, .. } if payload == "now"));
    let (count, sent) = tokio::join!(
        listener.wait_messages(None),
        speaker.query("notify tidings, '1'; notify tidings, '2'")
    );
    sent.unwrap();
    assert!(count.unwrap() >= 1);

    let pid = listener.process_id();
    let end = format!("select pg_terminate_backend({pid})");
    listener.messages();
    let (ended, _) = tokio::join!(listener.next_message(), speaker.query(&end));
    // The second of the two notifications may still come first.
    let ended = match ended {
        Ok(_) => listener.next_message().await,
        ended => ended,
    };
    assert!(matches!(ended, Err(Error::Fatal(Fatal::Server(_)))), "{ended:?}");
}

#[tokio::test]
async fn pc14_values_are_read_from_text_and_binary() {
    let server = server();
    let mut connection = server.connect().await;
    let sql = "select true, 7::int2, -7::int4, 9e18::int8, 1.5::float8, 'é'::text, '\\x00ff'::bytea, '16/B374D848'::pg_lsn,
               array[1, null, 3]::int4[], '{}'::text[], int4range(1, 5), 'empty'::int4range, '{\"a\": [1]}'::json, 42::oid,
               array['a,b', 'c\"d', 'NULL', null], '(,\"x,y\"]'::text";
    for columns in [Format::Text, Format::Binary] {
        let options = Options {
            columns,
            ..Options::default()
        };
        let none: [[Option<&str>; 0]; 1] = [[]];
        let result = connection.query_many(sql, none, options).await.unwrap().remove(0);
        let row = result.first().unwrap();
        assert_eq!(row.required::<bool>(0), Ok(true));
        assert_eq!(
            (
                row.required::<i16>(1),
                row.required::<i32>(2),
                row.required::<i64>(3)
            ),
            (Ok(7), Ok(-7), Ok(9_000_000_000_000_000_000))
        );
        assert_eq!(
            (row.required::<f64>(4), row.required::<String>(5)),
            (Ok(1.5), Ok("é".to_owned()))
        );
        assert_eq!(row.required::<ByteArray>(6), Ok(ByteArray(vec![0, 255])));
        assert_eq!(
            row.required::<Lsn>(7).map(|lsn| lsn.to_string()),
            Ok("16/B374D848".to_owned())
        );
        assert_eq!(
            row.required::<Array<i32>>(8),
            Ok(Array(vec![Some(1), None, Some(3)]))
        );
        assert_eq!(row.required::<Array<String>>(9), Ok(Array(vec![])));
        assert_eq!(
            row.required::<Range<i32>>(10),
            Ok(Range::Between {
                lower: Some((1, true)),
                upper: Some((5, false))
            })
        );
        assert_eq!(row.required::<Range<i32>>(11), Ok(Range::Empty));
        assert_eq!(
            (row.required::<String>(12), row.required::<u32>(13)),
            (Ok("{\"a\": [1]}".to_owned()), Ok(42))
        );
        let texts = [Some("a,b"), Some("c\"d"), Some("NULL"), None].map(|t| t.map(str::to_owned));
        assert_eq!(row.required::<Array<String>>(14), Ok(Array(texts.to_vec())));
    }
}

#[tokio::test]
async fn pc17_columns_come_in_the_format_asked_for() {
    let server = server();
    let mut connection = server.connect().await;
    let options = Options {
        types: &[23],
        params: Format::Binary,
        columns: Format::Binary,
        ..Options::default()
    };
    let result = connection
        .query_many("select $1 + 1", [[Some(41i32.to_be_bytes())]], options)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (
            result.first().unwrap().bytes(0),
            result.columns().unwrap()[0].format
        ),
        (Some(&42i32.to_be_bytes()[..]), 1)
    );
}

/// pgx GHSA-j88v-2chj-qfwx: parameters pasted into the text, by a weaker tokenizer than the server's.
#[tokio::test]
async fn ghsa_j88v_2chj_qfwx_parameters_are_values_and_never_sql() {
    let server = server();
    let mut connection = server.connect().await;
    let nasty = "'; drop table x; --\\";
    let result = connection
        .query_params("select $1::text, $2::text", &[Some(nasty), None])
        .await
        .unwrap();
    assert_eq!((result.get(0, 0), result.get(0, 1)), (Some(nasty), None));
    assert!(matches!(
        connection.query("select '\0'").await,
        Err(Error::Input(_))
    ));
    let many = vec![Some("1"); 65_536];
    assert!(matches!(
        connection.query_params("select 1", &many).await,
        Err(Error::Input(_))
    ));
    assert_eq!(one(&mut connection, "select 1").await, "1");
}

#[tokio::test]
async fn a_result_over_the_limit_ends_the_connection_and_not_the_memory() {
    let server = server();
    let mut connection = server.connect().await;
    connection.set_result_max(100_000);
    let error = connection
        .query("select repeat('x', 1000) from generate_series(1, 1000000)")
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Fatal(Fatal::TooLarge(100_000))),
        "{error:?}"
    );
    let mut connection = server.connect().await;
    connection.set_result_max(100_000);
    let error = connection.query("select repeat('x', 1000000)").await.unwrap_err();
    assert!(
        matches!(error, Error::Fatal(Fatal::TooLarge(100_000))),
        "one row alone: {error:?}"
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_breaks_the_connection() {
    let server = server();
    let mut connection = server.connect().await;
    let slow = connection.query("select pg_sleep(60)");
    assert!(
        tokio::time::timeout(Duration::from_millis(1), slow)
            .await
            .is_err()
    );
    assert!(connection.is_broken());
    assert!(matches!(
        connection.query("select 1").await,
        Err(Error::Fatal(Fatal::Abandoned))
    ));
}
