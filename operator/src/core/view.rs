//! What this operator saw since it started: forgotten when it dies, and rebuilt by probing.

use super::act::ActKind;
use super::types::{Name, Probe, ProxyFacts, Sample};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The class of the last probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Answered.
    Up,
    /// Lives, but does not let us in.
    Odd,
    /// Starting up.
    Starting,
    /// Port closed.
    Refused,
    /// No answer.
    Silent,
    /// Writes hang.
    WriteHung,
}

/// What was seen of one server.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When it was last probed.
    pub probed: Option<Instant>,
    /// What came of it.
    pub class: Option<Class>,
    /// Consecutive probes that failed.
    pub failures: u32,
    /// The end of the last probe that did not fail, while they fail: since when nothing was heard.
    pub silent_since: Option<Instant>,
    /// Consecutive probes that found the port closed.
    pub refusals: u32,
    /// Since when it says "starting up".
    pub starting: Option<Instant>,
    /// Its last answer, however old.
    pub sample: Option<Sample>,
    /// When that was.
    pub sampled: Option<Instant>,
    /// When the master last reported it as streaming.
    pub streamed: Option<Instant>,
    /// Since when it is seen in recovery.
    pub standby: Option<Instant>,
    /// What its login refused.
    pub oddity: Option<String>,
}

impl Seen {
    /// The answer of the last probe, if it was one.
    pub fn current(&self) -> Option<&Sample> {
        if self.class == Some(Class::Up) {
            self.sample.as_ref()
        } else {
            None
        }
    }

    /// The answer of the last probe, if it was made after `moment`.
    pub fn fresh(&self, moment: Instant) -> Option<&Sample> {
        if self.sampled.is_some_and(|at| at > moment) {
            self.current()
        } else {
            None
        }
    }

    /// Whether it was probed after `moment`, and is not in between ("starting up").
    pub fn settled(&self, moment: Instant) -> bool {
        self.probed.is_some_and(|at| at > moment) && self.class != Some(Class::Starting)
    }
}

/// What was seen of one proxy.
#[derive(Clone, Debug)]
pub struct ProxySeen {
    /// Its last report.
    pub facts: ProxyFacts,
    /// When that last changed, on our clock.
    pub changed: Instant,
}

/// What an act came to.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// When it last ended.
    pub at: Option<Instant>,
    /// How often in a row it failed.
    pub failures: u32,
    /// Its last error.
    pub error: Option<String>,
}

/// What this operator saw.
#[derive(Clone, Debug)]
pub struct View {
    /// When it began to look.
    pub born: Instant,
    servers: BTreeMap<Name, Seen>,
    /// Proxies by id.
    pub proxies: BTreeMap<String, ProxySeen>,
    /// Whether reports of proxies were read at all.
    pub heard: bool,
    tried: BTreeMap<(Name, ActKind), Tried>,
}

/// A server nobody has probed.
static UNSEEN: Seen = Seen {
    probed: None,
    class: None,
    failures: 0,
    silent_since: None,
    refusals: 0,
    starting: None,
    sample: None,
    sampled: None,
    streamed: None,
    standby: None,
    oddity: None,
};

impl View {
    /// Nothing seen yet.
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            servers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            heard: false,
            tried: BTreeMap::new(),
        }
    }

    /// What was seen of a server.
    pub fn server(&self, name: &str) -> &Seen {
        self.servers.get(name).unwrap_or(&UNSEEN)
    }

    /// Takes the result of a probe in.
    pub fn probed(&mut self, name: &str, probe: Probe, now: Instant) {
        let streaming: Vec<Name> = match &probe {
            Probe::Up(sample) => sample
                .senders
                .iter()
                .filter(|s| s.streaming)
                .map(|s| s.name.clone())
                .collect(),
            _ => Vec::new(),
        };
        let seen = self.servers.entry(name.to_owned()).or_default();
        let before = seen.probed.replace(now).unwrap_or(now);
        let (class, failed) = match &probe {
            Probe::Up(_) => (Class::Up, false),
            Probe::Odd(_) => (Class::Odd, false),
            Probe::Starting => (Class::Starting, false),
            Probe::Refused => (Class::Refused, true),
            Probe::Silent => (Class::Silent, true),
            Probe::WriteHung => (Class::WriteHung, true),
        };
        seen.class = Some(class);
        seen.silent_since = failed.then(|| seen.silent_since.unwrap_or(before));
        seen.failures = if failed {
            seen.failures.saturating_add(1)
        } else {
            0
        };
        seen.refusals = if class == Class::Refused {
            seen.refusals.saturating_add(1)
        } else {
            0
        };
        match probe {
            Probe::Up(sample) => {
                seen.starting = None;
                seen.oddity = None;
                seen.standby = if sample.recovery {
                    seen.standby.or(Some(now))
                } else {
                    None
                };
                seen.sample = Some(*sample);
                seen.sampled = Some(now);
            }
            Probe::Starting => seen.starting = seen.starting.or(Some(now)),
            Probe::Odd(why) => seen.oddity = Some(why),
            // A crash loop alternates between refused and starting up: the grace counts from its first start.
            Probe::Refused | Probe::Silent | Probe::WriteHung => {}
        }
        for standby in streaming {
            self.servers.entry(standby).or_default().streamed = Some(now);
        }
    }

    /// Takes the reports of all proxies in; those that are missing have stopped.
    pub fn heard(&mut self, reports: Vec<ProxyFacts>, now: Instant) {
        self.heard = true;
        let mut old = std::mem::take(&mut self.proxies);
        for facts in reports {
            let changed = match old.remove(&facts.id) {
                Some(before) if before.facts == facts => before.changed,
                _ => now,
            };
            self.proxies
                .insert(facts.id.clone(), ProxySeen { facts, changed });
        }
    }

    /// Takes the end of an act in.
    pub fn acted(&mut self, server: &str, kind: ActKind, error: Option<String>, now: Instant) {
        let tried = self.tried.entry((server.to_owned(), kind)).or_default();
        tried.at = Some(now);
        tried.failures = if error.is_some() {
            tried.failures.saturating_add(1)
        } else {
            0
        };
        tried.error = error;
    }

    /// What came of the last act of this kind.
    pub fn tried(&self, server: &str, kind: ActKind) -> Option<&Tried> {
        self.tried.get(&(server.to_owned(), kind))
    }

    /// Whether an act may be (re)issued: at most every half second, after failures less and less often.
    pub fn may(&self, server: &str, kind: ActKind, now: Instant) -> bool {
        let Some(tried) = self.tried(server, kind) else {
            return true;
        };
        let pause = kind.pause() * 2u32.saturating_pow(tried.failures.min(5));
        tried
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= pause.min(Duration::from_secs(15)))
    }

    /// The proxies whose report still counts.
    pub fn live_proxies(&self, lease: Duration, now: Instant) -> impl Iterator<Item = &ProxySeen> {
        self.proxies
            .values()
            .filter(move |proxy| now.saturating_duration_since(proxy.changed) < lease)
    }
}
