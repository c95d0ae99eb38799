//! A proxy whose report cannot be written: whether it may go on (`spec.proxy.onApiLoss`).
//!
//! After [`LEASE_DURATION`] the operator, if it lives, takes this proxy for stopped and may promote another server once it has taken
//! the replicas off the old master. So as long as *every* server answers and every replica streams from our master on its
//! timeline, nobody was promoted; one miss, and nothing more is written.

use cluster::LEASE_DURATION;
use crds::status::PgPoolStatus;
use crds::{ApiLoss, PoolConfig};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Control;
use super::probe::View;
use super::seen::Seen;

/// Since when nobody hears of us, and what follows from it.
#[derive(Debug)]
pub(super) struct Contact {
    /// When the last report that was written was begun.
    renewed: Instant,
    /// Nothing may be written any more.
    pub(super) cut_off: bool,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            renewed: Instant::now(),
            cut_off: false,
        }
    }
}

impl Contact {
    /// A report that was begun at `began` was written.
    pub(super) fn renew(&mut self, began: Instant) {
        self.renewed = self.renewed.max(began);
    }

    /// Whether the operator may take us for stopped.
    pub(super) fn is_lost(&self) -> bool {
        self.renewed.elapsed() >= LEASE_DURATION
    }
}

impl Control {
    /// Judges anew whether this proxy may write. `true`: that changed.
    pub(super) fn judge_contact(&mut self) -> bool {
        let Some(snapshot) = &self.current else {
            return false;
        };
        // Without a status no operator has ever been here: nobody promotes anybody.
        let Some(status) = snapshot.status.as_deref() else {
            return false;
        };
        let (config, view) = (&snapshot.config, self.view.borrow());
        let cut_off = self.contact.is_lost()
            && match config.proxy.on_api_loss {
                ApiLoss::Continue => false,
                ApiLoss::Fence => true,
                ApiLoss::Failsafe => !all_as_it_was(config, status, &view),
            };
        let changed = std::mem::replace(&mut self.contact.cut_off, cut_off) != cut_off;
        match (changed, cut_off) {
            (true, true) => {
                warn!("Nobody hears of this proxy, and the servers may have a new master: nothing is written")
            }
            (true, false) => info!("This proxy may write again"),
            _ => {}
        }
        changed
    }
}

/// Whether every server answers, and every replica streams on the master's timeline.
fn all_as_it_was(config: &PoolConfig, status: &PgPoolStatus, view: &View) -> bool {
    let Some(master) = &status.master else {
        return false;
    };
    let on_timeline = |seen: &Seen| {
        seen.identity().is_some_and(|identity| {
            identity.timeline == master.timeline && identity.system_identifier == master.system_identifier
        })
    };
    config.servers().iter().all(|server| {
        let seen = view.get(&server.name).map(|looked| &looked.seen);
        seen.is_some_and(|seen| match seen {
            Seen::Master(_) => server.name == master.name && on_timeline(seen),
            Seen::Replica(_) => server.name != master.name && seen.is_streaming() && on_timeline(seen),
            Seen::Alive(_) | Seen::Lost { .. } => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::probe::Looked;
    use crate::control::seen::Facts;
    use crate::plane::Identity;
    use crds::ServerConfig;
    use crds::status::MasterStatus;

    fn facts(timeline: u32, streaming: bool) -> Facts {
        Facts {
            identity: Identity {
                system_identifier: "71".into(),
                timeline,
            },
            streaming,
        }
    }

    fn holds(master: Seen, replica: Seen) -> bool {
        let mut config = PoolConfig::minimal("p", ServerConfig::host("a", "h", 1));
        config.replicas = vec![ServerConfig::host("b", "h", 2)];
        let status = PgPoolStatus {
            master: Some(MasterStatus {
                name: "a".into(),
                timeline: 4,
                system_identifier: "71".into(),
                ..MasterStatus::default()
            }),
            ..PgPoolStatus::default()
        };
        let looked = |seen| Looked { times: 1, seen };
        let view = View::from([
            ("a".to_owned(), looked(master)),
            ("b".to_owned(), looked(replica)),
        ]);
        all_as_it_was(&config, &status, &view)
    }

    #[test]
    fn one_server_that_is_not_as_it_was_is_enough_to_stop() {
        let (master, replica) = (|| Seen::Master(facts(4, false)), || Seen::Replica(facts(4, true)));
        let lost = || Seen::Lost {
            error: String::new(),
            refused: false,
        };
        assert!(holds(master(), replica()));
        assert!(
            !holds(master(), Seen::Replica(facts(4, false))),
            "taken off its master"
        );
        assert!(!holds(master(), Seen::Replica(facts(5, true))), "follows another");
        assert!(!holds(master(), Seen::Master(facts(5, false))), "was promoted");
        assert!(!holds(master(), lost()));
        assert!(!holds(lost(), replica()));
        assert!(
            !holds(master(), Seen::Alive(String::new())),
            "does not say what it is"
        );
    }
}
