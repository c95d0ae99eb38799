//! A model test of the worker's state machine: the real pool and the real workers, a server that keeps book of its own
//! sessions, and clients that share, hold, cancel, abandon and vanish in random order.
//!
//! The invariant of LESSONS: a worker is offered only when nothing is owed on it, its status is idle, no COPY and no cancel are
//! under way, and its state is known. And each reply goes to who asked. `SEED=n` repeats a run.

mod house;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crds::PoolConfig;
use futures::future::LocalBoxFuture;
use pgnet::client::Target;
use pgnet::frontend;
use pgnet::stream::Stream;
use pgnet::tls::ClientTls;
use tokio::net::UnixListener;

use super::super::client::{Client, Door, Doorman, Login, Peer};
use super::super::pool::Pool;
use super::super::script::{Op, Step};
use super::super::settings::Settings;
use super::super::shared::Shared;
use super::super::slot::{End, Slot};
use super::super::topology::Server;
use super::super::worker::{Joins, State, Worker};
use super::Thread;
use house::{Dice, House, Truth};

struct Nobody;

impl Doorman for Nobody {
    fn login(&self, _: Stream, _: Door, _: Peer) -> LocalBoxFuture<'static, Login> {
        Box::pin(async { Login::Closed })
    }
    fn pseudo(&self, _: Box<Client>) -> LocalBoxFuture<'static, ()> {
        Box::pin(async {})
    }
    fn forward_cancel(&self, _: i32, _: Bytes) -> LocalBoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// A read that fails.
const FAILING: &str = "fail";
/// What every answer ends with.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// What a client has.
enum Has {
    Nothing,
    Shared {
        worker: Rc<Worker>,
        slot: Rc<Slot>,
        marker: String,
        got: Vec<u8>,
    },
    Lease(Held),
}

/// A worker it has alone.
struct Held {
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    owed: usize,
    dirty: bool,
    /// COPY FROM STDIN was asked for: what a client sends before the answer, a session keeps back.
    copy: bool,
    /// Of its last answer.
    status: u8,
    /// Since its transaction began it has done nothing that its end could fail for.
    only_reads: bool,
}

struct Model {
    house: House,
    dice: Dice,
    pool: Rc<Pool>,
    settings: Rc<Settings>,
    clients: Vec<Has>,
    /// Ends of transactions that were answered ahead of the server.
    ends: Vec<Rc<Slot>>,
    serial: u64,
    counts: HashMap<&'static str, usize>,
}

impl Model {
    /// The invariant, for a worker that is about to be, or could be, given away.
    fn check(&self, worker: &Worker, why: &str) {
        assert!(
            worker.is_quiet(),
            "{why}: something is owed on worker {}",
            worker.id
        );
        assert!(!worker.copying_in(), "{why}: COPY");
        assert!(!worker.is_held(), "{why}: somebody holds it");
        assert_eq!(worker.fences.get(), 0, "{why}: a cancel is under way");
        let sessions = self.house.sessions.borrow();
        let truth = &sessions[&worker.process_id];
        if truth.gone.get() || truth.killed.get() {
            return; // not yet noticed: nobody will get an answer from it
        }
        assert!(!truth.copying.get(), "{why}: the server is in COPY");
        assert!(!truth.dirty.get(), "{why}: somebody's state is left");
        if worker.runs_an_end() {
            return; // the server is about to leave a transaction
        }
        assert_eq!(truth.status.get(), b'I', "{why}: the server is in a transaction");
        assert!(!truth.in_batch.get(), "{why}: the server waits for a Sync");
        assert_eq!(truth.unread.get(), 0, "{why}: the server has not read everything");
        assert_eq!(
            truth.cancels.get(),
            0,
            "{why}: a cancel is on its way to the server"
        );
    }

    fn check_all(&self) {
        for worker in self.pool.workers.borrow().iter() {
            if worker.state.get() == State::Idle && worker.fences.get() == 0 && worker.tickets.get() == 0 {
                self.check(worker, "offered");
            }
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self, at: usize) {
        let has = std::mem::replace(&mut self.clients[at], Has::Nothing);
        self.clients[at] = match has {
            Has::Nothing => self.begin(at),
            Has::Shared {
                worker,
                slot,
                marker,
                got,
            } => self.shared(worker, slot, marker, got),
            Has::Lease(held) => self.leased(held),
        };
    }

    fn begin(&mut self, at: usize) -> Has {
        let slot = Rc::new(Slot::default());
        self.serial += 1;
        if self.dice.below(2) == 0 {
            let Some(worker) = self.pool.pick_shared(&self.settings, 1) else {
                return Has::Nothing;
            };
            if worker.state.get() == State::Idle {
                self.check(&worker, "picked for a read");
            }
            assert!(matches!(worker.state.get(), State::Idle | State::Shared));
            let marker = match self.dice.below(12) {
                0 => FAILING.to_owned(),
                _ => format!("read:{at}:{}", self.serial),
            };
            let joins =
                [Joins::Nothing, Joins::Query, Joins::Batch, Joins::Batch][self.dice.below(4) as usize];
            worker.state.set(State::Shared);
            let text = [marker.as_bytes(), b"\0"].concat();
            worker.append_read(slot.clone(), 1, Duration::ZERO, joins, |to, behind_another| {
                if behind_another || joins == Joins::Batch {
                    to.query_as_batch(&text);
                    to.client_sync();
                } else {
                    frontend::query(to.out(), marker.as_bytes());
                    to.step(Step::client(Op::Query));
                }
            });
            worker.write_soon();
            self.count("shared");
            return Has::Shared {
                worker,
                slot,
                marker,
                got: Vec::new(),
            };
        }
        let free: Vec<Rc<Worker>> = self.pool.workers.borrow().clone();
        let idle: Vec<u64> = free
            .iter()
            .filter(|w| w.state.get() == State::Idle)
            .map(|w| w.id)
            .collect();
        let Some(worker) = self.pool.take_idle(&self.settings, self.serial) else {
            return Has::Nothing;
        };
        assert!(idle.contains(&worker.id), "taken while it was not idle");
        self.check(&worker, "taken");
        worker.set_holder(Some(slot.clone()));
        self.count("leased");
        Has::Lease(Held {
            worker,
            slot,
            owed: 0,
            dirty: false,
            copy: false,
            status: b'I',
            only_reads: true,
        })
    }

    fn shared(&mut self, worker: Rc<Worker>, slot: Rc<Slot>, marker: String, mut got: Vec<u8>) -> Has {
        while let Some(chunk) = slot.pop() {
            got.extend_from_slice(&chunk);
        }
        match slot.take_end() {
            Some(End::Done { error, .. }) => {
                let seen = String::from_utf8_lossy(&got).into_owned();
                let fails = marker == FAILING;
                assert_eq!(error, fails, "a read failed with its neighbour: {marker}");
                let rows = usize::from(!fails);
                assert!(
                    (fails || seen.contains(&marker)) && seen.matches("read:").count() == rows,
                    "{marker}: {seen:?}"
                );
                let ready: Vec<usize> = got
                    .windows(6)
                    .enumerate()
                    .filter(|(_, w)| *w == READY)
                    .map(|(at, _)| at)
                    .collect();
                assert_eq!(ready, [got.len() - READY.len()], "{marker}: {seen:?}");
                self.count("answered");
                return Has::Nothing;
            }
            Some(_) => return Has::Nothing, // repeated or lost: nothing to check here
            None => {}
        }
        match self.dice.below(40) {
            0 if worker.position(&slot) == Some(0) => {
                // As a cancel does it; a read that was cancelled is forgotten here, its answer may be an error.
                worker.detach_followers();
                worker.detach(&slot);
                self.cancel(&worker);
                Has::Nothing
            }
            1 => {
                worker.detach(&slot);
                slot.clear();
                self.count("vanished");
                Has::Nothing
            }
            2..5 if worker.head_is_joined() => {
                // As the pool's watch does it.
                self.count("given up");
                let begun = worker.position(&slot) == Some(0) && !got.is_empty();
                if worker.give_up_joined(self.dice.below(2) == 0) {
                    assert!(!begun, "a reply that has begun is not cancelled");
                    self.cancel(&worker);
                }
                Has::Shared {
                    worker,
                    slot,
                    marker,
                    got,
                }
            }
            _ => Has::Shared {
                worker,
                slot,
                marker,
                got,
            },
        }
    }

    fn cancel(&mut self, worker: &Rc<Worker>) {
        self.count("cancelled");
        let worker = worker.clone();
        tokio::task::spawn_local(async move { super::super::cancel::on_server(&worker).await });
    }

    fn leased(&mut self, held: Held) -> Has {
        let Held {
            worker,
            slot,
            mut owed,
            mut dirty,
            mut copy,
            mut status,
            mut only_reads,
        } = held;
        while slot.pop().is_some() {}
        if slot.take_copy_in() == Some(true) {
            owed -= 1;
        }
        while let Some(end) = slot.take_end() {
            match end {
                End::Done { status: last, .. } => {
                    owed -= 1;
                    status = last;
                    self.count("answered alone");
                }
                _ => {
                    self.pool.give_back(&worker, true);
                    return Has::Nothing;
                }
            }
        }
        copy &= owed > 0 || worker.batch_is_open() || worker.copying_in();
        let query = |sql: &str| {
            worker.stream(&slot, |to| {
                frontend::query(to.out(), sql.as_bytes());
                to.step(Step::client(Op::Query));
            });
            worker.finish_batch();
        };
        match self.dice.below(14) {
            0 => {
                self.pool.abandon(&worker);
                self.count("abandoned");
                return Has::Nothing;
            }
            1 if owed > 0 => self.cancel(&worker),
            2 | 3 if worker.copying_in() => {
                let mut data = BytesMut::new();
                frontend::copy_data(&mut data, b"1\n");
                worker.append_raw(&data);
            }
            4 | 5 if worker.copying_in() => {
                let mut done = BytesMut::new();
                match self.dice.below(2) {
                    0 => frontend::copy_done(&mut done),
                    _ => frontend::copy_fail(&mut done, b"no"),
                }
                worker.append_raw(&done);
                worker.copy_ended();
            }
            _ if worker.copying_in() => {}
            6 | 7 if worker.batch_is_open() => {
                worker.stream(&slot, |to| {
                    frontend::sync(to.out());
                    to.step(Step::client(Op::Sync));
                });
                worker.finish_batch();
                owed += 1;
            }
            _ if copy => {}
            2..8 if owed == 0 && status == b'T' && only_reads && !dirty && !worker.batch_is_open() => {
                let ended = Rc::new(Slot::default());
                let text = ["commit", "ROLLBACK"][self.dice.below(2) as usize];
                worker.end_transaction(ended.clone(), text.as_bytes());
                self.pool.give_back(&worker, false);
                self.ends.push(ended);
                self.count("ended early");
                return Has::Nothing;
            }
            2 | 3 if owed == 0 && !worker.batch_is_open() => {
                // A session that is through with it: what is not quiet is cleaned up, whatever it is.
                self.pool.give_back(&worker, dirty);
                self.count("given back");
                return Has::Nothing;
            }
            4 | 5 => {
                let text = ["ok", "fail", "copy"][self.dice.below(if owed > 0 { 2 } else { 3 }) as usize];
                worker.stream(&slot, |to| {
                    frontend::parse(to.out(), b"", text.as_bytes(), &[]);
                    to.step(Step::client(Op::Parse(None)));
                    frontend::bind(to.out(), b"", b"", &[], &[], &[]);
                    to.step(Step::client(Op::Bind(None)));
                    frontend::execute(to.out(), b"", 0);
                    to.step(Step::client(Op::Execute));
                });
                copy |= text == "copy";
                only_reads = false;
                self.count("batch");
            }
            _ if worker.batch_is_open() || owed > 2 => {}
            _ => {
                let kinds = ["ok", "fail", "begin", "commit", "dirty", "sleep", "copy"];
                // COPY stands alone: what a client sends behind it would be refused anyway.
                let most = if owed == 0 { kinds.len() } else { kinds.len() - 1 } as u64;
                let kind = kinds[self.dice.below(most) as usize];
                dirty |= kind == "dirty";
                copy |= kind == "copy";
                only_reads &= matches!(kind, "ok" | "begin" | "sleep");
                query(kind);
                owed += 1;
                self.count(kind);
            }
        }
        worker.write_soon();
        Has::Lease(Held {
            worker,
            slot,
            owed,
            dirty,
            copy,
            status,
            only_reads,
        })
    }
}

async fn walk(seed: u64, steps: usize) -> HashMap<&'static str, usize> {
    let folder = Folder::new(seed);
    let dice = Dice(Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)));
    let house = House {
        dice: dice.clone(),
        sessions: Rc::default(),
        next: Rc::new(Cell::new(1000)),
    };
    let listener = UnixListener::bind(folder.0.join(".s.PGSQL.5432")).unwrap();
    tokio::task::spawn_local(house.clone().listen(listener));
    let mut config = PoolConfig::default();
    config.workers.min_by_clients = vec![3];
    config.workers.max = 4;
    let thread = Thread::new(
        0,
        Arc::new(Shared::new(0, Arc::new(Nobody), 1)),
        Arc::default(),
        Arc::new(config),
    )
    .unwrap();
    let server = Arc::new(Server {
        name: "a".to_owned(),
        target: Target::new(folder.0.to_str().unwrap(), 5432),
        tls: Arc::new(ClientTls::disabled()),
        identity: None,
    });
    let pool = thread.pool(&server, &"d".into(), &"u".into(), None, false);
    pool.clients.set(8);
    let settings = thread.settings.intern([]);
    pool.start_worker(settings.clone());
    let mut model = Model {
        house: house.clone(),
        dice: dice.clone(),
        pool: pool.clone(),
        settings,
        clients: (0..8).map(|_| Has::Nothing).collect(),
        ends: Vec::new(),
        serial: 0,
        counts: HashMap::new(),
    };
    for _ in 0..steps {
        let at = dice.below(8) as usize;
        model.step(at);
        model.check_all();
        if dice.below(3) == 0 {
            tokio::time::sleep(Duration::from_micros(dice.below(2000))).await;
            model.check_all();
        }
        if dice.below(400) == 0 {
            let sessions = house.sessions.borrow();
            let alive: Vec<&Rc<Truth>> = sessions.values().filter(|t| !t.gone.get()).collect();
            if let Some(victim) = alive.get(dice.below(alive.len().max(1) as u64) as usize) {
                victim.killed.set(true);
                victim.wake.notify_waiters();
                model.counts.entry("killed").and_modify(|n| *n += 1).or_insert(1);
            }
        }
        if dice.below(50) == 0 {
            pool.sweep(std::time::Instant::now());
        }
    }
    model
        .counts
        .insert("joined", pool.counters().reads_joined.read() as usize);
    // Everybody leaves: every worker comes back, clean.
    for client in std::mem::take(&mut model.clients) {
        match client {
            Has::Shared { worker, slot, .. } => worker.detach(&slot),
            Has::Lease(held) => pool.abandon(&held.worker),
            Has::Nothing => {}
        }
    }
    for _ in 0..5000 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        model.check_all();
        let workers = pool.workers.borrow();
        if workers
            .iter()
            .all(|w| w.state.get() == State::Idle && !w.runs_an_end())
        {
            for ended in &model.ends {
                assert!(ended.take_end().is_some(), "an end nobody was told of");
                assert!(ended.take_end().is_none() && ended.pop().is_none());
            }
            return model.counts;
        }
    }
    let states: Vec<State> = pool.workers.borrow().iter().map(|w| w.state.get()).collect();
    panic!("workers that never came back: {states:?}");
}

struct Folder(PathBuf);

impl Folder {
    fn new(seed: u64) -> Self {
        let path = std::env::temp_dir().join(format!("pgp-model-{}-{seed}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_worker_is_offered_only_when_nothing_is_owed_on_it_in_any_interleaving() {
    let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let mut sums: HashMap<&'static str, usize> = HashMap::new();
    for seed in given.map_or(1..25, |seed: u64| seed..seed + 1) {
        println!("SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        for (what, n) in runtime.block_on(walk(seed, 1500)) {
            *sums.entry(what).or_default() += n;
        }
    }
    println!("{sums:?}");
    if given.is_none() {
        // A walk that never gets anywhere proves nothing.
        for what in [
            "shared",
            "answered",
            "answered alone",
            "leased",
            "given back",
            "ended early",
            "abandoned",
            "vanished",
            "cancelled",
            "killed",
            "batch",
            "copy",
            "begin",
            "dirty",
            "sleep",
            "fail",
            "given up",
            "joined",
        ] {
            assert!(sums.get(what).is_some_and(|n| *n > 20), "{what}: {sums:?}");
        }
    }
}
