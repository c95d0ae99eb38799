//! A small world for tests: servers with a log, proxies that write through whoever they follow, a store with
//! compare-and-swap, and an operator that can be killed between any two instructions. Nothing here waits.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// xorshift64*: tests name their seed and need nothing else.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// A record of the log: its timeline and what it says (0: a checkpoint or the like).
pub(super) type Record = (u32, u64);

#[derive(Clone, Debug)]
pub(super) struct SimServer {
    pub(super) up: bool,
    /// The operator cannot reach it; everybody else can.
    pub(super) hidden: bool,
    pub(super) recovery: bool,
    pub(super) signal: bool,
    pub(super) log: Vec<Record>,
    /// Restarted as a standby: so many records of its own log are not applied yet, and nobody can see them.
    pub(super) behind: usize,
    pub(super) timeline: u32,
    pub(super) upstream: Option<Name>,
    pub(super) slot: String,
    pub(super) sync_names: String,
    pub(super) read_only: bool,
    pub(super) slots: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimProxy {
    pub(super) epoch: u64,
    pub(super) acked: u64,
    pub(super) mode: Mode,
    pub(super) master: Option<Master>,
    pub(super) beat: u64,
    /// Cut off from the store since this step.
    pub(super) cut: Option<u64>,
    pub(super) alive: bool,
    /// Writes sent and not yet confirmed: server, position, id.
    pub(super) open: Vec<(Name, usize, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) servers: BTreeMap<Name, SimServer>,
    pub(super) proxies: Vec<SimProxy>,
    pub(super) store: Durable,
    pub(super) settings: Settings,
    pub(super) core: Core,
    pub(super) step: u64,
    pub(super) dice: Dice,
    pub(super) acked: BTreeSet<u64>,
    next: u64,
    base: Instant,
    /// epoch -> the only server written to.
    wrote: BTreeMap<u64, Name>,
    pub(super) promoted: BTreeMap<String, BTreeSet<Name>>,
    pub(super) trace: Vec<String>,
    /// Decisions taken so far, and after which the operator is to die.
    pub(super) decisions: u64,
    pub(super) die_at: Option<u64>,
}

pub(super) const STEP: Duration = Duration::from_millis(100);
/// Steps after which a proxy that cannot renew its lease has stopped writing.
pub(super) const LEASE_STEPS: u64 = 100;

pub(super) fn settings(durability: Durability) -> Settings {
    let server = |name: &str, port| Server {
        name: name.into(),
        host: "h".into(),
        port,
        priority: 50,
    };
    Settings {
        servers: vec![server("a", 1), server("b", 2), server("c", 3)],
        seed: "a".into(),
        ha: true,
        paused: false,
        threshold: 5,
        probe_period: STEP,
        crash_grace: Duration::from_secs(3),
        election_timeout: Duration::from_secs(3),
        max_lag: 0,
        durability,
        sync_replicas: 1,
        rejoin: RejoinPolicy::Auto,
        drain: Duration::from_secs(2),
        switchover: None,
        force: None,
        can_restart: true,
        can_rewind: true,
        lease: Duration::from_secs(10),
    }
}

impl World {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        let base = Instant::now();
        let mut servers = BTreeMap::new();
        for server in &settings.servers {
            let is_master = server.name == settings.seed;
            servers.insert(
                server.name.clone(),
                SimServer {
                    up: true,
                    hidden: false,
                    recovery: !is_master,
                    signal: !is_master,
                    log: vec![(1, 0)],
                    behind: 0,
                    timeline: 1,
                    upstream: (!is_master).then(|| settings.seed.clone()),
                    slot: String::new(),
                    sync_names: String::new(),
                    read_only: false,
                    slots: BTreeSet::new(),
                },
            );
        }
        let proxies = vec![
            SimProxy {
                alive: true,
                ..SimProxy::default()
            };
            2
        ];
        let core = Core::new(settings.clone(), Durable::default(), base);
        Self {
            servers,
            proxies,
            store: Durable::default(),
            settings,
            core,
            step: 0,
            dice: Dice::new(seed),
            acked: BTreeSet::new(),
            next: 1,
            base,
            wrote: BTreeMap::new(),
            promoted: BTreeMap::new(),
            trace: Vec::new(),
            decisions: 0,
            die_at: None,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.base + STEP * u32::try_from(self.step).unwrap()
    }

    pub(super) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.tick();
        }
    }

    /// Runs until `done`, at most `steps`.
    pub(super) fn until(&mut self, steps: u64, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..steps {
            if done(self) {
                return;
            }
            self.tick();
        }
        let servers: Vec<_> = self
            .servers
            .iter()
            .map(|(n, s)| (n, s.up, s.recovery, s.timeline, s.log.len(), &s.upstream))
            .collect();
        assert!(
            done(self),
            "never came: {what}\n{:#?}\n{}\n{servers:?}",
            self.store,
            self.trace.join("\n")
        );
    }

    pub(super) fn tick(&mut self) {
        self.step += 1;
        self.replicate();
        self.proxies_tick();
        self.operator_tick();
        self.check();
    }

    pub(super) fn is_settled(&self) -> bool {
        let Some(master) = &self.store.master else {
            return false;
        };
        let follows = |(name, server): (&Name, &SimServer)| {
            *name == master.name
                || (server.recovery && self.source(name).is_some_and(|from| from == master.name))
                || self.store.rejoin.get(name).is_some_and(|rejoin| rejoin.given_up)
        };
        self.store.operation.is_none()
            && self.store.mode == Mode::Open
            && self.servers.iter().all(follows)
            && self
                .servers
                .values()
                .filter(|server| server.up && !server.recovery && !server.read_only)
                .count()
                == 1
    }

    // --- servers

    pub(super) fn kill(&mut self, name: &str) {
        let server = self.servers.get_mut(name).unwrap();
        server.up = false;
        for proxy in &mut self.proxies {
            proxy.open.retain(|(on, ..)| on != name);
        }
    }

    /// As a supervisor would: whatever the files say.
    pub(super) fn supervise(&mut self, name: &str) {
        let server = self.servers.get_mut(name).unwrap();
        if server.up {
            return;
        }
        // A master that crashed lets nobody in before it has applied all of its log.
        let was_standby = std::mem::replace(&mut server.recovery, server.signal);
        server.up = true;
        server.behind = 0;
        if server.recovery && was_standby {
            let most = u64::try_from(server.log.len()).unwrap().min(30);
            server.behind = usize::try_from(self.dice.roll(most)).unwrap();
        }
        if !server.recovery {
            server.log.push((server.timeline, 0)); // the checkpoint that ends crash recovery
        }
    }

    /// The server `name` streams from, if it does.
    pub(super) fn source(&self, name: &str) -> Option<Name> {
        let server = &self.servers[name];
        let from = server.upstream.as_ref()?;
        let source = self.servers.get(from)?;
        let fits = source.log.len() >= server.log.len() && source.log[..server.log.len()] == server.log[..];
        let asks = server.up && server.recovery && server.behind == 0;
        (asks && source.up && !source.recovery && fits).then(|| from.clone())
    }

    fn replicate(&mut self) {
        let names: Vec<Name> = self.servers.keys().cloned().collect();
        for name in names {
            let server = self.servers.get_mut(&name).unwrap();
            server.behind = server.behind.saturating_sub(1);
            if let Some(from) = self.source(&name) {
                let have = self.servers[&name].log.len();
                let more = self.servers[&from].log[have..].to_vec();
                let take = if self.dice.one_in(3) {
                    self.dice.roll(more.len() as u64 + 1)
                } else {
                    more.len() as u64
                };
                let server = self.servers.get_mut(&name).unwrap();
                server
                    .log
                    .extend_from_slice(&more[..usize::try_from(take).unwrap()]);
                server.timeline = server.log.last().unwrap().0;
            }
        }
    }

    fn probe(&self, name: &str) -> Probe {
        let server = &self.servers[name];
        if server.hidden {
            return Probe::Silent;
        }
        if !server.up {
            return Probe::Refused;
        }
        let applied = server.log.len() - server.behind;
        let forks = server.log[..applied]
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0].0 != pair[1].0);
        let history = forks
            .map(|(at, pair)| Fork {
                timeline: pair[0].0,
                at: Lsn(at as u64 + 1),
            })
            .collect();
        let streams = |standby: &str| self.source(standby).is_some_and(|from| from == *name);
        let senders = self
            .servers
            .iter()
            .filter(|(standby, _)| streams(standby))
            .map(|(standby, s)| Sender {
                name: standby.clone(),
                streaming: true,
                sync_state: if server.sync_names.contains(&format!("\"{standby}\"")) {
                    "quorum"
                } else {
                    "async"
                }
                .into(),
                flushed: Lsn(s.log.len() as u64),
            });
        let upstream = server.upstream.as_ref().map(|to| {
            let target = self.settings.server(to);
            Upstream {
                host: if target.is_some() {
                    "h".into()
                } else {
                    DETACHED_HOST.into()
                },
                port: target.map_or(0, |target| target.port),
                application_name: name.to_owned(),
            }
        });
        let receiver = self.source(name).map(|from| Receiver {
            streaming: true,
            timeline: self.servers[&from].timeline,
            host: "h".into(),
            port: 0,
            message_age: Duration::ZERO,
        });
        Probe::Up(Box::new(Sample {
            version: 150_000,
            system: "s".into(),
            recovery: server.recovery,
            timeline: if server.behind == 0 {
                server.timeline
            } else {
                server.log[applied - 1].0
            },
            lsn: Lsn(applied as u64),
            replay: Lsn(applied as u64),
            replaying: server.behind > 0,
            receiver,
            upstream,
            slot: server.slot.clone(),
            sync_names: server.sync_names.clone(),
            read_only: server.read_only,
            standby_signal: server.signal,
            can_stop: true,
            senders: senders.collect(),
            slots: server.slots.iter().map(|slot| (slot.clone(), false)).collect(),
            history,
            ..Sample::default()
        }))
    }

    // --- proxies

    fn proxies_tick(&mut self) {
        for at in 0..self.proxies.len() {
            let id = self.next;
            let step = self.step;
            let store = self.store.clone();
            let proxy = &mut self.proxies[at];
            if !proxy.alive {
                continue;
            }
            if proxy.cut.is_none() {
                if store.epoch > proxy.epoch {
                    proxy.epoch = store.epoch;
                    proxy.mode = store.mode;
                    proxy.master = store.master.clone();
                    if proxy.mode == Mode::Fenced || proxy.mode == Mode::Open {
                        proxy.open.clear();
                    }
                }
                // In the mode Paused what runs may end first.
                if proxy.mode != Mode::Paused || proxy.open.is_empty() {
                    proxy.acked = proxy.epoch;
                }
                proxy.beat += 1;
            }
            let stopped = proxy.cut.is_some_and(|since| step - since >= LEASE_STEPS);
            if stopped {
                proxy.open.clear();
            } else if matches!(proxy.mode, Mode::Open | Mode::Holding)
                && let Some(master) = proxy.master.clone()
            {
                let epoch = proxy.epoch;
                let server = self.servers.get_mut(&master.name).unwrap();
                if server.up && !server.recovery && !server.read_only && server.timeline == master.timeline {
                    server.log.push((server.timeline, id));
                    proxy.open.push((master.name.clone(), server.log.len() - 1, id));
                    self.next += 1;
                    let only = self.wrote.entry(epoch).or_insert_with(|| master.name.clone());
                    assert_eq!(*only, master.name, "I1: two servers written to in epoch {epoch}");
                }
            }
            let open = std::mem::take(&mut self.proxies[at].open);
            for (on, position, id) in open {
                if self.is_confirmed(&on, position, id) {
                    self.acked.insert(id);
                } else if self.servers[&on].up && !self.servers[&on].recovery {
                    self.proxies[at].open.push((on, position, id));
                }
            }
        }
    }

    fn is_confirmed(&self, on: &str, position: usize, id: u64) -> bool {
        let server = &self.servers[on];
        if !server.up || server.recovery {
            return false;
        }
        let Some(rest) = server.sync_names.strip_prefix("ANY ") else {
            return true;
        };
        let (k, names) = rest.split_once(" (").unwrap();
        let confirmers = names
            .trim_end_matches(')')
            .split(',')
            .map(|name| name.trim_matches('"'));
        let have = confirmers
            .filter(|name| self.source(name).is_some_and(|from| from == on))
            .filter(|name| {
                self.servers[*name]
                    .log
                    .get(position)
                    .is_some_and(|record| record.1 == id)
            })
            .count();
        have >= k.parse().unwrap()
    }

    fn reports(&self) -> Vec<ProxyFacts> {
        let alive = self.proxies.iter().enumerate().filter(|(_, proxy)| proxy.alive);
        alive
            .map(|(at, proxy)| {
                let master = proxy.master.as_ref().map(|master| &self.servers[&master.name]);
                let fails = master.is_some_and(|server| !server.up);
                ProxyFacts {
                    id: format!("p{at}"),
                    acked: proxy.acked,
                    drained: proxy.acked == proxy.epoch
                        && (proxy.open.is_empty() || proxy.mode == Mode::Holding),
                    budget: 0,
                    master_fails: if fails { 9 } else { 0 },
                    master_refused: fails,
                    beat: proxy.beat.to_string(),
                }
            })
            .collect()
    }

    // --- operator

    pub(super) fn restart_operator(&mut self) {
        self.core = Core::new(self.settings.clone(), self.store.clone(), self.now());
    }

    /// `true`: the operator dies here.
    fn dies(&mut self) -> bool {
        self.decisions += 1;
        let dies = self.die_at == Some(self.decisions);
        if dies {
            self.trace.push(format!("{}: the operator is killed", self.step));
            self.restart_operator();
        }
        dies
    }

    /// The operator looks, and does nothing.
    pub(super) fn look(&mut self) {
        self.step += 1;
        self.see();
    }

    fn see(&mut self) {
        let now = self.now();
        self.core
            .on(Event::Configured(Box::new(self.settings.clone())), now);
        let names: Vec<Name> = self.servers.keys().cloned().collect();
        for server in names {
            let probe = self.probe(&server);
            self.core.on(Event::Probed { server, probe }, now);
        }
        self.core.on(Event::Heard(self.reports()), now);
    }

    fn operator_tick(&mut self) {
        let now = self.now();
        self.see();
        for round in 0.. {
            assert!(
                round < 20,
                "the core turns in a circle at {:?}\n{}",
                self.store,
                self.trace.join("\n")
            );
            let decision = self.core.decide(now);
            for note in &decision.notes {
                self.trace
                    .push(format!("{}: {:?} {}", self.step, note.reason, note.message));
            }
            let Some(durable) = decision.write else {
                if !decision.acts.is_empty() && self.dies() {
                    return;
                }
                for act in decision.acts {
                    self.act(act);
                }
                return;
            };
            assert!(decision.acts.is_empty(), "I5: an act beside an unwritten record");
            if self.dies() {
                return;
            }
            self.write(*durable);
            if self.dies() {
                return;
            }
            self.core.recorded(self.store.clone(), now);
        }
    }

    fn write(&mut self, durable: Durable) {
        assert!(durable.epoch >= self.store.epoch, "the epoch went back");
        let before = self.store.operation.as_ref().map(|op| (op.id.clone(), op.step));
        let after = durable.operation.as_ref().map(|op| (op.id.clone(), op.step));
        if before != after {
            self.trace
                .push(format!("{}: epoch {} {after:?}", self.step, durable.epoch));
        }
        if let (Some(old), Some(new)) = (&self.store.operation, &durable.operation)
            && old.step == Step::Promoting
            && new.step == Step::Promoting
        {
            assert_eq!(old.target, new.target, "I5: a recorded target was replaced");
        }
        self.store = durable;
    }

    // --- what must hold at each step

    fn check(&self) {
        if self.settings.durability != Durability::Required || self.store.mode != Mode::Open {
            return;
        }
        let Some(master) = &self.store.master else { return };
        let server = &self.servers[&master.name];
        if !server.up || server.recovery || server.timeline != master.timeline {
            return;
        }
        let held: BTreeSet<u64> = server.log.iter().map(|record| record.1).collect();
        let lost: Vec<&u64> = self.acked.iter().filter(|id| !held.contains(id)).collect();
        assert!(
            lost.is_empty(),
            "acknowledged and lost: {lost:?}\n{}",
            self.trace.join("\n")
        );
    }
}
