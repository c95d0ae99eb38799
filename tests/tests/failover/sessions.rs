//! What a planned switchover means for sessions of every kind.

use std::time::{Duration, Instant};

use pgstmtpool_tests::wait_for;
use pgstmtpool_tests::wire::{Connection, encode};

use super::{LIMIT, Scene};

/// So long a transaction goes on when the switchover has begun.
const GOES_ON: Duration = Duration::from_millis(700);

fn closed_with_57p01(mut client: Connection, which: &str) {
    let (error, _) = client.read_to_close().unwrap();
    let error = error.unwrap_or_else(|| panic!("{which}: closed without a word"));
    assert_eq!(error.code(), "57P01", "{which}: {error}");
}

/// Ends a transaction that was open when the switchover began.
fn finishes(client: &mut Connection, n: u32) {
    std::thread::sleep(GOES_ON);
    client
        .query(&format!("insert into seen values ({n}, 'second')"))
        .unwrap();
    assert_eq!(client.execute("commit").unwrap(), "COMMIT");
}

#[test]
fn in_a_switchover_transactions_end_idle_holders_are_sent_away_and_nobody_else_sees_an_error() {
    let mut scene = Scene::start("fo-sessions", |m| {
        m.set("timeouts", "{drain: 20s}")
            .set("users", "[{name: own, poolMode: session}]")
    });
    let old = scene.status().master();
    let server = scene.server(&old);
    server.sql("create role own login; create table seen (n int, what text); grant all on seen to public");
    let client = |scene: &Scene, user: &str| scene.proxies[0].connect(user, "postgres");

    let mut settings = client(&scene, "app");
    settings.query("set app.tenant = '7'").unwrap();
    settings.query("prepare mine as select 'prepared'").unwrap();
    let named = [encode::parse(b"named", b"select 'named'", &[]), encode::sync()];
    settings.send(&named.concat()).unwrap();
    settings.collect().unwrap();
    let mut deferred = client(&scene, "app");
    deferred.query("begin").unwrap();
    let mut listener = client(&scene, "app");
    listener.query("listen moved").unwrap();
    let mut pinned = client(&scene, "app");
    pinned.query("create temp table mine (n int)").unwrap();
    let mut own = client(&scene, "own");
    own.query("select 1").unwrap();
    let mut transaction = client(&scene, "app");
    let mut own_transaction = client(&scene, "own");
    for (n, client) in [(1, &mut transaction), (2, &mut own_transaction)] {
        client.query("begin").unwrap();
        client
            .query(&format!("insert into seen values ({n}, 'first')"))
            .unwrap();
    }
    let load = scene.load(4);

    let to = scene.other_than(&old);
    scene.switch_to(&to, "sessions");
    std::thread::scope(|scope| {
        scope.spawn(|| finishes(&mut transaction, 1));
        scope.spawn(|| finishes(&mut own_transaction, 2));
    });
    assert_eq!(scene.wait_moved(&old), to);

    closed_with_57p01(pinned, "pinned");
    closed_with_57p01(own, "session mode, idle");
    closed_with_57p01(own_transaction, "session mode, after its transaction");
    let seen = "select count(*) from seen where what = 'second'";
    assert_eq!(transaction.value(seen).unwrap(), "2");
    assert_eq!(
        settings.value("select current_setting('app.tenant')").unwrap(),
        "7"
    );
    assert_eq!(settings.value("execute mine").unwrap(), "prepared");
    let bytes = [
        encode::bind(b"", b"named", &[], &[], &[]),
        encode::execute(b"", 0),
        encode::sync(),
    ];
    settings.send(&bytes.concat()).unwrap();
    assert_eq!(settings.collect().unwrap().0[0][0].as_deref(), Some("named"));
    deferred.query("insert into seen values (3, 'third')").unwrap();
    assert_eq!(deferred.execute("commit").unwrap(), "COMMIT");

    let asked = Instant::now();
    wait_for("the listener to hear of the new master", LIMIT, || {
        transaction.query("notify moved, 'again'").unwrap();
        listener.query("select 1").unwrap();
        match listener.notifications.last() {
            Some((channel, payload)) if channel == "moved" && payload == "again" => Ok(()),
            _ => Err(format!("nothing after {:?}", asked.elapsed())),
        }
    });
    assert!(
        listener
            .notices
            .iter()
            .any(|notice| notice.message().contains("may have been lost")),
        "it is told of the gap: {:?}",
        listener.notices
    );
    load.wait_progress(100, LIMIT);
    let verdict = load.finish(scene.server(&to));
    assert!(
        verdict.is_clean() && verdict.unknown == 0 && verdict.errors.is_empty(),
        "{verdict:?}"
    );
}
