//! From what is written and seen to a topology, and to the plane where it differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::Snapshot;
use crds::PoolConfig;
use pgnet::tls::ClientTls;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::seen::Seen;
use super::{AGAIN, Applied, Control, topology};
use crate::auth::Where;
use crate::plane::{Mode, Server, Topology};

impl Control {
    fn tls_to_servers(&mut self, snapshot: &Snapshot) -> Option<Arc<ClientTls>> {
        match self
            .certificates
            .to_servers(&snapshot.config.server_tls, &snapshot.secrets)
        {
            Ok(tls) => Some(tls),
            Err(cause) => {
                error!(error = %cause, "TLS towards servers stays as it was");
                self.parts
                    .house
                    .wait_for(format!("TLS towards servers cannot be set up: {cause}"));
                self.certificates.last_to_servers()
            }
        }
    }

    /// From what is written and seen to a topology, and to the plane where it differs.
    pub(super) fn follow(&mut self) {
        let Some(snapshot) = self.current.clone() else {
            return;
        };
        // Without any, nothing is reached: better than in clear text where that was not asked for.
        let Some(tls) = self.tls_to_servers(&snapshot) else {
            return;
        };
        let topology = match snapshot.status.as_deref() {
            Some(status) => {
                let above = self.sight.epoch;
                let unknown = Topology {
                    epoch: status.epoch,
                    ..Topology::unknown()
                };
                let written = topology::of_status(&snapshot.config, status, &tls).unwrap_or_else(|| {
                    self.parts.house.wait_for("the operator knows no master yet");
                    unknown
                });
                let mode = if self.identity.wrong || self.contact.cut_off {
                    Mode::Fenced
                } else {
                    written.mode
                };
                Topology {
                    epoch: written.epoch.saturating_add(above),
                    mode,
                    ..written
                }
            }
            None => self.by_sight(&snapshot.config, &tls),
        };
        self.look_at(&snapshot.config, &topology, &tls);
        self.hand_over(Arc::new(topology));
    }

    /// Without a status: who is master as far as we can see.
    fn by_sight(&mut self, config: &PoolConfig, tls: &Arc<ClientTls>) -> Topology {
        if self.login.is_none() {
            if self.sight.master.is_none() {
                warn!(master = %config.master.name, "No login for look-ups: the manifest's master is taken at its word");
                self.sight.master = Some(config.master.name.clone());
            }
            return topology::without_status(
                config,
                self.sight.epoch,
                self.sight.master.as_deref(),
                None,
                tls,
            );
        }
        let seen: HashMap<String, Seen> = self
            .view
            .borrow()
            .iter()
            .map(|(name, looked)| (name.clone(), looked.seen.clone()))
            .collect();
        let master = topology::of_sight(config, self.sight.master.as_deref(), &seen);
        if master != self.sight.master {
            info!(
                from = self.sight.master.as_deref(),
                to = master.as_deref(),
                "This server is master, as far as is seen"
            );
            if self.sight.master.is_some() {
                self.sight.epoch += 1;
            }
            self.sight.master = master;
        }
        if self.sight.master.is_none() {
            self.parts.house.wait_for(why_no_master(config, &seen));
        }
        topology::without_status(
            config,
            self.sight.epoch,
            self.sight.master.as_deref(),
            Some(&seen),
            tls,
        )
    }

    fn look_at(&mut self, config: &PoolConfig, topology: &Topology, tls: &Arc<ClientTls>) {
        let known = topology
            .master
            .iter()
            .chain(topology.replicas.iter().map(|replica| &replica.server));
        let mut servers: Vec<Arc<Server>> = known.cloned().collect();
        for server in config.servers() {
            let target = topology::target(&server.address);
            let tls = Arc::clone(tls);
            servers.push(Arc::new(Server {
                name: server.name,
                target,
                tls,
                identity: None,
            }));
        }
        let mut names = std::collections::HashSet::new();
        servers.retain(|server| names.insert(server.name.clone()));
        self.probes.look_at(&servers, self.login.as_ref());

        let current = self.parts.place.borrow().clone();
        let mut asked: Vec<Arc<Server>> = topology.master.iter().cloned().collect();
        asked.extend(
            topology
                .replicas
                .iter()
                .map(|replica| Arc::clone(&replica.server)),
        );
        asked.dedup_by(|left, right| left.name == right.name);
        let place = Where {
            servers: asked,
            login: self.login.clone(),
        };
        let same =
            |left: &Server, right: &Server| left.target == right.target && Arc::ptr_eq(&left.tls, &right.tls);
        let unchanged = current.login == place.login
            && current.servers.len() == place.servers.len()
            && current
                .servers
                .iter()
                .zip(&place.servers)
                .all(|(left, right)| same(left, right));
        if !unchanged {
            self.parts.place.send_replace(Arc::new(place));
        }
    }

    /// Gives the plane a topology, unless it is the one it has.
    fn hand_over(&mut self, topology: Arc<Topology>) {
        let before = self.parts.house.topology.load_full();
        if self.latest > 0 && same(&before, &topology) {
            return;
        }
        if topology.epoch < before.epoch {
            return error!(
                seen = before.epoch,
                written = topology.epoch,
                "An older epoch was written: it is not followed"
            );
        }
        let master = topology.master.as_ref().map(|master| master.name.as_str());
        info!(epoch = topology.epoch, mode = ?topology.mode, master, replicas = topology.replicas.len(), "Following");
        let name = master.unwrap_or_default();
        if self.identity.since.0 != name {
            let times = self.view.borrow().get(name).map_or(0, |looked| looked.times);
            self.identity.since = (name.to_owned(), times + 1); // one may be under way
        }
        self.parts.house.topology.store(Arc::clone(&topology));
        self.latest += 1;
        self.applying.abort_all(); // nobody waits for an older one any more, nor tries it again
        self.apply(topology, Duration::ZERO);
        self.note();
    }

    fn apply(&mut self, topology: Arc<Topology>, after: Duration) {
        let follower = Arc::clone(&self.parts.follower);
        let number = self.latest;
        let epoch = match self
            .current
            .as_ref()
            .and_then(|snapshot| snapshot.status.as_ref())
        {
            Some(status) => status.epoch,
            None => 0,
        };
        self.applying.spawn(async move {
            sleep(after).await;
            let drained = follower.apply(Arc::clone(&topology)).await;
            Applied {
                number,
                topology,
                epoch,
                drained,
            }
        });
    }

    /// Data threads have done what a topology asks for.
    pub(super) async fn applied(&mut self, applied: Applied) {
        if applied.number != self.latest {
            return; // another one came meanwhile, and will be answered for itself
        }
        if !applied.drained {
            info!(epoch = applied.epoch, "Not drained yet");
            return self.apply(applied.topology, AGAIN);
        }
        let report = &mut self.parts.report;
        report.acked_epoch = report.acked_epoch.max(applied.epoch);
        report.drained = applied.topology.mode != Mode::Open;
        if applied.topology.master.is_some() {
            self.parts.house.serve();
        }
        self.tell().await;
    }

    /// A probe has come back.
    pub(super) async fn look(&mut self) {
        let master = self
            .parts
            .house
            .topology
            .load()
            .master
            .as_ref()
            .map(|master| master.name.clone());
        let changed = self
            .witness
            .take(&self.view.borrow_and_update(), master.as_deref());
        let checked = self.check_identity();
        let judged = self.judge_contact();
        if checked
            || judged
            || self
                .current
                .as_ref()
                .is_some_and(|snapshot| snapshot.status.is_none())
        {
            self.follow();
        }
        self.note();
        if changed {
            self.tell().await;
        }
    }

    /// Compares the master with what the status says it is. `true`: that changed.
    ///
    /// Only what is certain counts: another cluster, or a timeline that the master has already left.
    fn check_identity(&mut self) -> bool {
        let topology = self.parts.house.topology.load();
        let Some(master) = &topology.master else {
            return false;
        };
        let view = self.view.borrow();
        let (Some(looked), Some(meant)) = (view.get(&master.name), &master.identity) else {
            return std::mem::take(&mut self.identity.wrong);
        };
        let (Some(found), true) = (looked.seen.identity(), looked.times > self.identity.since.1) else {
            return false;
        };
        let other = !found.system_identifier.is_empty() && found.system_identifier != meant.system_identifier;
        let wrong = other || (found.timeline != 0 && found.timeline < meant.timeline);
        if wrong && !self.identity.wrong {
            error!(master = %master.name, ?found, ?meant, "This is not our master: nothing is sent to it");
        }
        std::mem::replace(&mut self.identity.wrong, wrong) != wrong
    }
}

/// Whether data threads would do the same with both.
fn same(left: &Topology, right: &Topology) -> bool {
    let same_server = |left: &Arc<Server>, right: &Arc<Server>| {
        left.name == right.name
            && left.target == right.target
            && left.identity == right.identity
            && Arc::ptr_eq(&left.tls, &right.tls)
    };
    left.epoch == right.epoch
        && left.mode == right.mode
        && left.force == right.force
        && match (&left.master, &right.master) {
            (Some(left), Some(right)) => same_server(left, right),
            (None, None) => true,
            _ => false,
        }
        && left.replicas.len() == right.replicas.len()
        && left
            .replicas
            .iter()
            .zip(&right.replicas)
            .all(|(left, right)| left.weight == right.weight && same_server(&left.server, &right.server))
}

fn why_no_master(config: &PoolConfig, seen: &HashMap<String, Seen>) -> String {
    let name = &config.master.name;
    match seen.get(name) {
        None => format!("server {name} was not looked at yet"),
        Some(Seen::Master(_)) => "several servers say that they are master".to_owned(),
        Some(Seen::Replica(_)) => format!("server {name} is a replica, and no other is master"),
        Some(Seen::Alive(text)) => format!("server {name} does not say what it is: {text}"),
        Some(Seen::Lost { error, .. }) => format!("server {name} does not answer: {error}"),
    }
}
