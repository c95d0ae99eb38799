//! What this proxy tells the operator of the servers: pure.

use cluster::{MasterProbe, Witness};

use super::probe::{Looked, View};
use super::seen::Seen;

/// Counts probes of the master, and keeps what was seen of the others.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    master: MasterProbe,
    /// Probes of the master that were counted.
    counted: u64,
    replicas: Vec<Witness>,
}

impl Witnesses {
    /// Takes what is seen. `true`: it should be told at once: the master fails, answers again, or is another one.
    pub(super) fn take(&mut self, view: &View, master: Option<&str>) -> bool {
        let name = master.unwrap_or_default();
        let mut telling = false;
        if self.master.name != name {
            self.master = MasterProbe {
                name: name.to_owned(),
                ..MasterProbe::default()
            };
            self.counted = view.get(name).map_or(0, |looked| looked.times.saturating_sub(1));
            telling = true;
        }
        if let Some(looked) = view.get(name).filter(|looked| looked.times != self.counted) {
            self.counted = looked.times;
            telling |= self.count(looked);
        }
        let timeline = timeline(view.get(name));
        self.replicas = view
            .iter()
            .filter(|(other, _)| other.as_str() != name)
            .map(|(other, looked)| witness(other, looked, timeline))
            .collect();
        self.replicas.sort_by(|left, right| left.name.cmp(&right.name));
        telling
    }

    /// One probe of the master more. `true`: it failed, or it answers again.
    fn count(&mut self, looked: &Looked) -> bool {
        let failure = match &looked.seen {
            Seen::Master(_) | Seen::Alive(_) => None,
            Seen::Replica(_) => Some(("it is in recovery", false)),
            Seen::Lost { error, refused } => Some((error.as_str(), *refused)),
        };
        let failed_before = self.master.fails > 0;
        match failure {
            None => {
                self.master.ok = self.master.ok.saturating_add(1);
                (self.master.fails, self.master.refused) = (0, false);
                failed_before
            }
            Some((error, refused)) => {
                self.master.fails = self.master.fails.saturating_add(1);
                (self.master.ok, self.master.refused, self.master.error) = (0, refused, error.to_owned());
                true
            }
        }
    }

    /// The master's count.
    pub(super) fn master(&self) -> &MasterProbe {
        &self.master
    }

    /// The other servers, by name.
    pub(super) fn replicas(&self) -> Vec<Witness> {
        self.replicas.clone()
    }
}

fn timeline(looked: Option<&Looked>) -> u32 {
    looked
        .and_then(|looked| looked.seen.identity())
        .map_or(0, |identity| identity.timeline)
}

fn witness(name: &str, looked: &Looked, of_master: u32) -> Witness {
    let own = timeline(Some(looked));
    Witness {
        name: name.to_owned(),
        reachable: looked.seen.is_reachable(),
        streaming: looked.seen.is_streaming() && (of_master == 0 || own == of_master),
        timeline: own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::seen::Facts;
    use crate::plane::Identity;

    fn facts(timeline: u32) -> Facts {
        Facts {
            identity: Identity {
                system_identifier: "71".into(),
                timeline,
            },
            streaming: true,
        }
    }

    fn lost(refused: bool) -> Seen {
        Seen::Lost {
            error: "gone".into(),
            refused,
        }
    }

    fn view(times: u64, master: Seen, replica: Seen) -> View {
        let looked = |seen| Looked { times, seen };
        View::from([
            ("a".to_owned(), looked(master)),
            ("b".to_owned(), looked(replica)),
        ])
    }

    #[test]
    fn failures_in_a_row_are_counted_once_each_and_told() {
        let mut witnesses = Witnesses::default();
        let replica = || Seen::Replica(facts(1));
        assert!(witnesses.take(&view(1, Seen::Master(facts(1)), replica()), Some("a")));
        assert_eq!((witnesses.master().ok, witnesses.master().fails), (1, 0));
        assert!(
            !witnesses.take(&view(1, Seen::Master(facts(1)), replica()), Some("a")),
            "the same probe"
        );
        assert!(
            !witnesses.take(&view(2, Seen::Alive("53300".into()), replica()), Some("a")),
            "it lives"
        );
        assert_eq!(witnesses.master().ok, 2);
        for times in 3..6 {
            assert!(witnesses.take(&view(times, lost(true), replica()), Some("a")));
        }
        assert_eq!(
            (
                witnesses.master().ok,
                witnesses.master().fails,
                witnesses.master().refused
            ),
            (0, 3, true)
        );
        assert!(witnesses.take(&view(6, Seen::Replica(facts(1)), replica()), Some("a")));
        assert_eq!(witnesses.master().error, "it is in recovery");
        assert!(
            witnesses.take(&view(7, Seen::Master(facts(1)), replica()), Some("a")),
            "it answers again"
        );
        assert_eq!((witnesses.master().ok, witnesses.master().fails), (1, 0));
    }

    #[test]
    fn another_master_begins_anew() {
        let mut witnesses = Witnesses::default();
        witnesses.take(&view(5, lost(true), Seen::Master(facts(2))), Some("a"));
        assert_eq!(witnesses.master().fails, 1);
        assert!(witnesses.take(&view(5, lost(true), Seen::Master(facts(2))), Some("b")));
        assert_eq!(
            (
                witnesses.master().name.as_str(),
                witnesses.master().ok,
                witnesses.master().fails
            ),
            ("b", 1, 0)
        );
    }

    #[test]
    fn a_replica_streams_only_on_the_masters_timeline() {
        let mut witnesses = Witnesses::default();
        let mut streaming = |of_master, own| {
            witnesses.take(
                &view(1, Seen::Master(facts(of_master)), Seen::Replica(facts(own))),
                Some("a"),
            );
            witnesses.replicas()[0].streaming
        };
        assert!(streaming(2, 2));
        assert!(!streaming(2, 1));
        witnesses.take(&view(1, Seen::Master(facts(1)), lost(false)), Some("a"));
        assert!(!witnesses.replicas()[0].reachable && !witnesses.replicas()[0].streaming);
    }
}
