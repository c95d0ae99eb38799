//! What the acts of the core do to the small world of [`super::sim`], and what must hold when they are done.

use super::sim::{LEASE_STEPS, World};
use super::*;

impl World {
    pub(super) fn act(&mut self, act: Act) {
        self.trace.push(format!("{}: {act:?}", self.step));
        let now = self.now();
        let (name, kind) = (act.server().clone(), act.kind());
        let reachable = self.servers[&name].up && !self.servers[&name].hidden;
        let by_sql = !matches!(kind, ActKind::Start | ActKind::Rewind);
        let error = if by_sql && !reachable {
            Some("no connection".to_owned())
        } else {
            self.perform(act)
        };
        self.core.on(
            Event::Acted {
                server: name,
                kind,
                error,
            },
            now,
        );
    }

    pub(super) fn perform(&mut self, act: Act) -> Option<String> {
        let name = act.server().clone();
        if let Act::Promote { .. } = act {
            self.check_promotion(&name);
        }
        let slot = slot_name(&name);
        match act {
            Act::Rewind { master, .. } => {
                let source = self.servers[&master].clone();
                if !source.up || source.recovery {
                    return Some("no source".into());
                }
                let server = self.servers.get_mut(&name).unwrap();
                if server.timeline == source.timeline {
                    return None; // "source and target cluster are on the same timeline": no rewind required
                }
                let common = server
                    .log
                    .iter()
                    .zip(&source.log)
                    .take_while(|(a, b)| a == b)
                    .count();
                server.log.truncate(common);
                server.timeline = server.log.last().unwrap().0;
                self.start_as_standby(&name, &master);
            }
            Act::Start { master, .. } => self.start_as_standby(&name, &master),
            Act::Stop { .. } => {
                let server = self.servers.get_mut(&name).unwrap();
                if !server.recovery {
                    server.log.push((server.timeline, 0));
                }
                // A clean stop waits until those who stream have everything.
                let standbys: Vec<Name> = self.servers.keys().cloned().collect();
                for standby in standbys {
                    if self.source(&standby).is_some_and(|from| from == name) {
                        self.servers.get_mut(&standby).unwrap().log = self.servers[&name].log.clone();
                    }
                }
                self.kill(&name);
                if self.dice.one_in(2) {
                    self.supervise(&name);
                }
            }
            Act::Promote { .. } => {
                let server = self.servers.get_mut(&name).unwrap();
                if !server.recovery {
                    return Some("recovery is not in progress".into());
                }
                server.recovery = false;
                server.signal = false;
                server.behind = 0;
                server.timeline += 1;
                server.log.push((server.timeline, 0));
            }
            other => {
                let server = self.servers.get_mut(&name).unwrap();
                match other {
                    Act::Fence { .. } => {
                        server.read_only = true;
                        for proxy in &mut self.proxies {
                            proxy.open.retain(|(on, ..)| *on != name);
                        }
                    }
                    Act::Unfence { .. } => server.read_only = false,
                    Act::Detach { .. } => server.upstream = Some("nobody".into()),
                    Act::Follow { master, .. } => {
                        server.upstream = Some(master);
                        server.slot = slot;
                    }
                    Act::MakeStandby { master, .. } => {
                        server.upstream = Some(master);
                        server.slot = slot;
                        server.signal = true;
                    }
                    Act::UnmakeStandby { .. } => server.signal = false,
                    Act::Slots { slots, .. } => server.slots.extend(slots),
                    Act::DropSlots { slots, .. } => server.slots.retain(|slot| !slots.contains(slot)),
                    Act::SyncNames { set, .. } => server.sync_names = set.render(),
                    _ => {}
                }
            }
        }
        None
    }

    pub(super) fn start_as_standby(&mut self, name: &str, master: &str) {
        let server = self.servers.get_mut(name).unwrap();
        server.up = true;
        server.signal = true;
        server.recovery = true;
        server.behind = 0;
        server.read_only = false;
        server.upstream = Some(master.to_owned());
        server.slot = slot_name(name);
    }

    pub(super) fn check_promotion(&mut self, name: &str) {
        let op = self
            .store
            .operation
            .clone()
            .expect("I5: a promotion without an operation");
        assert_eq!(
            op.target.as_deref(),
            Some(name),
            "I5: promoted whom nobody recorded"
        );
        assert!(op.promote_issued, "I5: promoted before it was recorded");
        self.promoted
            .entry(op.id.clone())
            .or_default()
            .insert(name.to_owned());
        let is_safe = self.settings.durability == Durability::Required;
        for proxy in self.proxies.iter().filter(|proxy| proxy.alive && !is_safe) {
            let stopped = proxy.cut.is_some_and(|since| self.step - since >= LEASE_STEPS);
            assert!(
                proxy.acked >= op.epoch || stopped,
                "I2: promoted {name} while a proxy is at epoch {} of {}\n{}",
                proxy.acked,
                op.epoch,
                self.trace.join("\n")
            );
        }
        if op.stopped_at.is_none() {
            for (other, server) in &self.servers {
                if server.up
                    && !server.hidden
                    && server.recovery
                    && self.source(other).as_ref() == Some(&op.from)
                {
                    // Only one that came up in this very moment may be attached still.
                    let seen = op.candidates.iter().any(|c| c.name == *other);
                    assert!(!seen, "I3: {other} was measured while attached");
                }
            }
        }
    }
}
