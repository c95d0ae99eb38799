//! Sessions that set, listen, prepare, lock, abort and die at random, while servers die too: each sees exactly its own
//! answers, settings, statements, tables and notifications. Some seconds in `make test`, minutes
//! with `SOAK=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Address, Connection, DbError, WireError, encode};
use pgstmtpool_tests::{Random, Stage};

/// Errors a client may see when servers die and statements are cancelled. Everything else is a fault.
const ALLOWED: &[&str] = &["57014", "08006", "57P01", "53300"];
/// So many clients; every eighth also does what pins a server connection.
const CLIENTS: u64 = 48;
/// No answer takes so long, unless the proxy waits for one that will never come.
const PATIENCE: Duration = Duration::from_secs(15);
/// Settings clients set to values of their own.
const NAMES: &[&str] = &[
    "app.tenant",
    "application_name",
    "work_mem",
    "timezone",
    "search_path",
];

/// What a session believes to be true of itself.
#[derive(Default)]
struct Belief {
    settings: HashMap<&'static str, String>,
    /// Statements by name: SQL or protocol, and the number they add.
    statements: HashMap<String, (bool, u64)>,
    listens: bool,
    table: Option<u64>,
    lock: bool,
}

struct Client<'a> {
    address: &'a Address,
    number: u64,
    random: Random,
    connection: Connection,
    belief: Belief,
    steps: u64,
}

/// A connection on which everything is answered in good time, with or without servers that die.
fn connect(address: &Address) -> Result<Connection, WireError> {
    let mut connection = Connection::open(address, "app", "app")?;
    connection.set_timeout(PATIENCE);
    Ok(connection)
}

impl Client<'_> {
    fn step(&mut self) -> Result<(), WireError> {
        self.steps += 1;
        let pins = self.number.is_multiple_of(8);
        match self.random.below(if pins { 20 } else { 17 }) {
            0 | 1 => self.set(),
            2 | 3 => self.check_settings(),
            4 => self.set_and_roll_back(),
            5 => self.prepare(),
            6..=8 => self.run_prepared(),
            9 => self.transaction(),
            10 => self.aborted(),
            11 => self.cancelled(),
            12 => self.reset(),
            13 => self.leave(),
            14 => self.read(),
            15 => self.listen(),
            16 => self.hear(),
            17 => self.temporary_table(),
            18 => self.advisory_lock(),
            _ => self.held_cursor(),
        }
    }

    fn expect(&mut self, sql: &str, right: &str) -> Result<(), WireError> {
        let got = self.connection.value(sql)?;
        assert_eq!(got, right, "client {}, step {}: {sql}", self.number, self.steps);
        Ok(())
    }

    fn read(&mut self) -> Result<(), WireError> {
        let marker = format!("{}-{}", self.number, self.steps);
        let rows = self
            .connection
            .query_params("select $1::text", &[Some(&marker)])?;
        assert_eq!(rows[0][0].as_deref(), Some(marker.as_str()));
        self.expect(&format!("select '{marker}'"), &marker)
    }

    /// A value that no other client would have.
    fn value_of(&mut self, name: &str) -> String {
        let own = self.number * 100 + self.random.below(50);
        match name {
            "work_mem" => format!("{}kB", 1025 + 2 * own),
            "timezone" => (*self
                .random
                .choose(&["Asia/Tokyo", "Africa/Nairobi", "Europe/Paris", "UTC"]))
            .to_owned(),
            _ => format!("own_{own}"),
        }
    }

    fn set(&mut self) -> Result<(), WireError> {
        let name = *self.random.choose(NAMES);
        let value = self.value_of(name);
        let sql = match self.random.below(3) {
            0 => format!("set {name} = '{value}'"),
            1 => format!("select set_config('{name}', '{value}', false)"),
            _ => format!("begin; set {name} = '{value}'; commit"),
        };
        self.connection.query(&sql)?;
        self.belief.settings.insert(name, value);
        Ok(())
    }

    fn check_settings(&mut self) -> Result<(), WireError> {
        for (name, value) in self.belief.settings.clone() {
            self.expect(&format!("show {name}"), &value)?;
        }
        Ok(())
    }

    fn set_and_roll_back(&mut self) -> Result<(), WireError> {
        let name = *self.random.choose(NAMES);
        let value = self.value_of(name);
        self.connection.query("begin")?;
        self.connection.query(&format!("set {name} = '{value}'"))?;
        self.expect(&format!("show {name}"), &value)?;
        self.connection.query("rollback")?;
        self.check_settings()
    }

    fn prepare(&mut self) -> Result<(), WireError> {
        // Names and numbers overlap between clients, texts do not.
        let name = format!("p{}", self.random.below(4));
        let number = self.number * 1000 + self.steps;
        if self.belief.statements.remove(&name).is_some() {
            self.connection.query(&format!("deallocate {name}"))?;
        }
        let sql = self.random.below(2) == 0;
        if sql {
            self.connection
                .query(&format!("prepare {name} (bigint) as select $1 + {number}"))?;
        } else {
            let text = format!("select $1::bigint + {number}");
            let bytes = [
                encode::parse(name.as_bytes(), text.as_bytes(), &[]),
                encode::sync(),
            ];
            self.connection.send(&bytes.concat())?;
            self.connection.collect()?;
        }
        self.belief.statements.insert(name, (sql, number));
        Ok(())
    }

    fn run_prepared(&mut self) -> Result<(), WireError> {
        for (name, (sql, number)) in self.belief.statements.clone() {
            let argument = self.random.below(100);
            let wanted = (argument + number).to_string();
            if sql && self.random.below(2) == 0 {
                self.expect(&format!("execute {name} ({argument})"), &wanted)?;
                continue;
            }
            let bytes = [
                encode::bind(
                    b"",
                    name.as_bytes(),
                    &[],
                    &[Some(argument.to_string().into_bytes())],
                    &[],
                ),
                encode::execute(b"", 0),
                encode::sync(),
            ];
            self.connection.send(&bytes.concat())?;
            let (rows, _) = self.connection.collect()?;
            assert_eq!(
                rows[0][0].as_deref(),
                Some(wanted.as_str()),
                "client {}: {name}",
                self.number
            );
        }
        Ok(())
    }

    fn transaction(&mut self) -> Result<(), WireError> {
        let own = self.number;
        self.connection.query("begin")?;
        self.connection.query(&format!(
            "insert into public.counted values ({own}, 1) on conflict (client) do update set n = counted.n + 1"
        ))?;
        self.run_prepared()?;
        if self.random.below(3) == 0 {
            self.connection.query("rollback").map(drop)
        } else {
            self.connection.query("commit").map(drop)
        }
    }

    fn aborted(&mut self) -> Result<(), WireError> {
        self.connection.query("begin")?;
        let error = self.connection.query("select 1/0").unwrap_err();
        if error.code() != "22012" {
            return Err(error);
        }
        let error = self.connection.query("select 1").unwrap_err();
        if error.code() != "25P02" {
            return Err(error);
        }
        self.connection.query("rollback").map(drop)
    }

    fn cancelled(&mut self) -> Result<(), WireError> {
        let marker = format!("{}-{}", self.number, self.steps);
        let sql = format!("select '{marker}', pg_sleep(0.005)");
        self.connection.send(&encode::query(sql.as_bytes()))?;
        let _ = self.connection.cancel(self.address);
        let (rows, _) = self.connection.collect()?;
        assert_eq!(rows[0][0].as_deref(), Some(marker.as_str()));
        Ok(())
    }

    fn reset(&mut self) -> Result<(), WireError> {
        self.connection.query("discard all")?;
        self.belief = Belief::default();
        self.connection.notifications.clear();
        self.expect("select coalesce(current_setting('app.tenant', true), '')", "")
    }

    /// Goes in the middle of something and comes back as a new client, who knows nothing of the old one's state.
    fn leave(&mut self) -> Result<(), WireError> {
        let half: &[&[u8]] = &[
            b"",
            &encode::query(b"select pg_sleep(0.01)"),
            &encode::query(b"begin; set work_mem = '7MB'"),
            &encode::parse(b"p1", b"select 'of the dead'", &[]),
            b"Q\0\0",
        ];
        let message = *self.random.choose(half);
        let _ = self.connection.send(message);
        self.reconnect()?;
        self.expect("select coalesce(current_setting('app.tenant', true), '')", "")?;
        self.expect("select count(*) from pg_listening_channels()", "0")
    }

    fn listen(&mut self) -> Result<(), WireError> {
        self.connection.query(&format!("listen own_{}", self.number))?;
        self.belief.listens = true;
        Ok(())
    }

    /// Its own notification comes, in order, and only what is meant for it; or it is told that one may be missing: what listens
    /// for it is a server connection too, and may be the one that is ended.
    fn hear(&mut self) -> Result<(), WireError> {
        if !self.belief.listens {
            return Ok(());
        }
        let payload = format!("{}-{}", self.number, self.steps);
        self.connection.notices.clear();
        self.connection
            .query(&format!("notify own_{}, '{payload}'", self.number))?;
        let end = Instant::now() + Duration::from_secs(20);
        let is_warning = |notice: &DbError| notice.message().contains("may have been lost");
        while !self.connection.notifications.iter().any(|(_, p)| *p == payload) {
            if self.connection.notices.iter().any(is_warning) {
                break;
            }
            assert!(
                Instant::now() < end,
                "client {}: {payload} never came",
                self.number
            );
            self.connection.query("select 1")?;
        }
        let channel = format!("own_{}", self.number);
        assert!(
            self.connection.notifications.iter().all(|(c, _)| *c == channel),
            "client {} heard {:?}",
            self.number,
            self.connection.notifications
        );
        self.connection.notifications.clear();
        if self.random.below(2) == 0 {
            self.connection.query("unlisten *")?;
            self.belief.listens = false;
        }
        Ok(())
    }

    fn temporary_table(&mut self) -> Result<(), WireError> {
        if let Some(number) = self.belief.table {
            self.expect("select n from scratch", &number.to_string())?;
            if self.random.below(2) == 0 {
                self.belief.table = None;
                self.connection.query("drop table scratch")?;
            }
            return Ok(());
        }
        let number = self.number * 1000 + self.steps;
        self.connection
            .query(&format!("create temp table scratch as select {number} as n"))?;
        self.belief.table = Some(number);
        Ok(())
    }

    fn advisory_lock(&mut self) -> Result<(), WireError> {
        let function = if self.belief.lock {
            "pg_advisory_unlock"
        } else {
            "pg_try_advisory_lock"
        };
        self.expect(&format!("select {function}({})", 7000 + self.number), "t")?;
        self.belief.lock = !self.belief.lock;
        Ok(())
    }

    fn held_cursor(&mut self) -> Result<(), WireError> {
        let own = self.number;
        self.connection.query(&format!(
            "declare held cursor with hold for select {own} from generate_series(1, 3)"
        ))?;
        self.expect("fetch held", &own.to_string())?;
        self.connection.query("close held").map(drop)
    }

    fn reconnect(&mut self) -> Result<(), WireError> {
        self.belief = Belief::default();
        self.connection = connect(self.address)?;
        Ok(())
    }

    fn run(mut self, stop: &AtomicBool, total: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            let Err(error) = self.step() else {
                total.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let gone =
                matches!(error, WireError::Closed) || matches!(&error, WireError::Db(e) if e.is_fatal());
            assert!(
                matches!(error, WireError::Closed) || ALLOWED.contains(&error.code()),
                "client {}, step {}: {error}",
                self.number,
                self.steps
            );
            // What was half done is not known any more; a new client begins with nothing.
            if !gone && self.connection.status != b'I' {
                let _ = self.connection.query("rollback");
            }
            while self.reconnect().is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Some seconds, or minutes with `SOAK=1`.
fn length() -> Duration {
    Duration::from_secs(if std::env::var_os("SOAK").is_some() {
        300
    } else {
        8
    })
}

#[test]
fn sessions_that_set_listen_prepare_abort_and_die_at_random_see_only_what_is_theirs() {
    let stage = Stage::start("long-run", |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 4, max: 14}")
    });
    stage
        .client()
        .query("create table counted (client bigint primary key, n bigint)")
        .unwrap();
    let address = stage.proxy.tcp();
    let mut random = Random::of_test(5);
    let seed = random.below(1 << 40);
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    address: &address,
                    number,
                    random: Random::seeded(seed + number),
                    connection: connect(&address).unwrap(),
                    belief: Belief::default(),
                    steps: 0,
                };
                let (stop, total) = (&stop, &total);
                scope.spawn(move || client.run(stop, total))
            })
            .collect();
        let end = Instant::now() + length();
        while Instant::now() < end && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(100));
            if random.below(2) == 0 {
                let sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' order by random() limit 1";
                stage.direct(&format!("select count(*) from ({sql}) x"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("every client must see only what is its own");
        }
    });
    let answered = total.load(Ordering::Relaxed);
    println!("{answered} steps");
    assert!(answered > CLIENTS * 10, "they must have been served");
    stage.wait_servers_clean(Duration::from_secs(20));
    let left = "select count(*) from pg_locks where locktype = 'advisory'";
    pgstmtpool_tests::wait_until("every lock to be free", Duration::from_secs(20), || {
        stage.direct(left) == "0"
    });
}
