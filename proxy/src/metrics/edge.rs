//! Counted at the doors, by any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

/// A count that several threads raise. Logins are rare beside statements: an atomic addition is cheap enough here.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn raise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It did not speak the protocol, or it left.
    Protocol,
    /// TLS failed, or was demanded and not spoken.
    Tls,
    /// No rule lets it in.
    Rule,
    /// Wrong password, unknown user, no or a wrong certificate.
    Password,
    /// It took too long.
    Timeout,
    /// Too many clients.
    Limit,
    /// Its verifier could not be looked up.
    Lookup,
    /// It asked for something we do not do, as replication.
    NotServed,
}

impl Refusal {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Protocol, "protocol"),
        (Self::Tls, "tls"),
        (Self::Rule, "rule"),
        (Self::Password, "password"),
        (Self::Timeout, "timeout"),
        (Self::Limit, "limit"),
        (Self::Lookup, "lookup"),
        (Self::NotServed, "not_served"),
    ];
}

/// What happens at the doors.
#[derive(Debug, Default)]
pub struct Edge {
    refused: [Count; Refusal::ALL.len()],
    in_login: AtomicU64,
    /// Look-ups of verifiers that were asked of the master.
    pub lookups: Count,
    /// Those that could not be answered.
    pub lookup_failures: Count,
    /// CancelRequests handed to another proxy.
    pub cancels_forwarded: Count,
}

impl Edge {
    /// A login begins. `None`: so many are in progress already.
    pub fn enter(self: &Arc<Self>, max: u64) -> Option<InLogin> {
        let entered = self
            .in_login
            .fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1));
        entered.ok().map(|_| InLogin(Arc::clone(self)))
    }

    /// A client was not let in.
    pub fn refused(&self, reason: Refusal) {
        if let Some(index) = Refusal::ALL.iter().position(|(known, _)| *known == reason) {
            self.refused[index].raise();
        }
    }

    /// Clients that have not logged in yet.
    pub fn in_login(&self) -> u64 {
        self.in_login.load(Relaxed)
    }

    pub(super) fn refusals(&self) -> Refusals {
        Refusals(std::array::from_fn(|index| self.refused[index].read()))
    }
}

/// Holds the place of a login in progress.
#[derive(Debug)]
pub struct InLogin(Arc<Edge>);

impl Drop for InLogin {
    fn drop(&mut self) {
        self.0.in_login.fetch_sub(1, Relaxed);
    }
}

/// The refusals at one moment.
#[derive(Debug)]
pub(super) struct Refusals([u64; Refusal::ALL.len()]);

impl Collector for Refusals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Clients that were not let in, by reason";
        let mut family = encoder.encode_descriptor("logins_refused", help, None, MetricType::Counter)?;
        for ((_, reason), count) in Refusal::ALL.iter().zip(self.0) {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}
