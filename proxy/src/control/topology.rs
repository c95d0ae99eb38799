//! From what is written to what data threads follow: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crds::status::{PgPoolStatus, RoutingMode, ServerStatus};
use crds::{Address, PoolConfig, ServerConfig};
use pgnet::client::Target;
use pgnet::tls::ClientTls;

use super::seen::Seen;
use crate::plane::{Identity, Mode, Replica, Server, Topology};

/// The share of reads of the spec's master once it is a replica and the spec gives it none.
const FORMER_MASTER_WEIGHT: u32 = 100;

/// What the operator wrote, as data threads follow it. `None`: it knows no master yet.
pub(super) fn of_status(
    config: &PoolConfig,
    status: &PgPoolStatus,
    tls: &Arc<ClientTls>,
) -> Option<Topology> {
    let known = status.master.as_ref()?;
    let weights = weights(config, &known.name);
    let identity = Identity {
        system_identifier: known.system_identifier.clone(),
        timeline: known.timeline,
    };
    let identity =
        Some(identity).filter(|identity| !identity.system_identifier.is_empty() && identity.timeline != 0);
    let target = target_of(&known.address).or_else(|| config_target(config, &known.name));
    let server = |name: &str, target: Target, identity: Option<Identity>| {
        Arc::new(Server {
            name: name.to_owned(),
            target,
            tls: Arc::clone(tls),
            identity,
        })
    };
    let master = target.map(|target| server(&known.name, target, identity));
    let eligible = |member: &&ServerStatus| member.name == known.name || member.read_eligible;
    let replicas = status.servers.iter().filter(eligible).filter_map(|member| {
        let weight = weights
            .get(member.name.as_str())
            .copied()
            .filter(|weight| *weight > 0)?;
        let server = match &master {
            Some(master) if member.name == known.name => Arc::clone(master),
            _ => {
                let target = target_of(&member.address).or_else(|| config_target(config, &member.name))?;
                server(&member.name, target, None)
            }
        };
        Some(Replica { server, weight })
    });
    Some(Topology {
        epoch: status.epoch,
        mode: match (status.routing.mode, status.routing.leases_only) {
            (RoutingMode::Open, _) => Mode::Open,
            (RoutingMode::Paused, true) => Mode::HoldingLeases,
            (RoutingMode::Paused, false) => Mode::Paused,
            (RoutingMode::Fenced, _) => Mode::Fenced,
        },
        force: status.routing.force,
        replicas: replicas.collect(),
        master,
    })
}

/// Without an operator: whoever is master, from what was seen of the servers. Nobody is promoted.
///
/// `before` stays master until it is seen to be in recovery or another one is seen not to be while it does not answer.
/// `None`: no server is known to be master.
pub(super) fn of_sight(
    config: &PoolConfig,
    before: Option<&str>,
    seen: &HashMap<String, Seen>,
) -> Option<String> {
    let is_master = |name: &str| matches!(seen.get(name), Some(Seen::Master(_)));
    let is_replica = |name: &str| matches!(seen.get(name), Some(Seen::Replica(_)));
    let preferred = before.unwrap_or(&config.master.name);
    if is_master(preferred) {
        return Some(preferred.to_owned());
    }
    let mut others = config
        .servers()
        .into_iter()
        .map(|server| server.name)
        .filter(|name| is_master(name));
    match (others.next(), others.next()) {
        // One that does not answer may be master still, but it serves nobody.
        (Some(only), None) => Some(only),
        // Two that say so: nobody is believed.
        (Some(_), Some(_)) => None,
        (None, _) => before.filter(|name| !is_replica(name)).map(str::to_owned),
    }
}

/// Servers and parts without a status: `master` as found, and replicas that were seen to follow (or all, where nothing can be seen).
pub(super) fn without_status(
    config: &PoolConfig,
    epoch: u64,
    master: Option<&str>,
    seen: Option<&HashMap<String, Seen>>,
    tls: &Arc<ClientTls>,
) -> Topology {
    let server = |config: &ServerConfig| {
        let identity = seen
            .and_then(|seen| seen.get(&config.name))
            .and_then(Seen::identity)
            .cloned();
        let target = target(&config.address);
        Arc::new(Server {
            name: config.name.clone(),
            target,
            tls: Arc::clone(tls),
            identity,
        })
    };
    let weights = weights(config, master.unwrap_or(&config.master.name));
    let found = master
        .and_then(|name| config.server(name))
        .map(|config| server(&config));
    let follows = |name: &str| seen.is_none_or(|seen| seen.get(name).is_some_and(Seen::is_streaming));
    let replicas = config.servers().into_iter().filter_map(|member| {
        let weight = weights
            .get(member.name.as_str())
            .copied()
            .filter(|weight| *weight > 0)?;
        match &found {
            Some(found) if found.name == member.name => Some(Replica {
                server: Arc::clone(found),
                weight,
            }),
            // A replica is not held to a timeline: it follows its master through one.
            _ if follows(&member.name) => {
                let mut server = server(&member).as_ref().clone();
                server.identity = None;
                Some(Replica {
                    server: Arc::new(server),
                    weight,
                })
            }
            _ => None,
        }
    });
    let mode = if found.is_some() { Mode::Open } else { Mode::Fenced };
    Topology {
        epoch,
        mode,
        force: false,
        replicas: replicas.collect(),
        master: found,
    }
}

/// Shares of reads by name. "The master takes reads too" is written as the master's name among the replicas; it holds for
/// whoever is master now. Weights of replicas stay with the server.
fn weights(config: &PoolConfig, master: &str) -> HashMap<String, u32> {
    let spec_master = &config.master.name;
    let servers = config.servers();
    let of_master = servers
        .iter()
        .find(|server| server.name == *spec_master)
        .map_or(0, |server| server.weight);
    servers
        .into_iter()
        .map(|server| {
            let weight = if server.name == master {
                of_master
            } else if server.name == *spec_master && server.weight == 0 {
                FORMER_MASTER_WEIGHT
            } else {
                server.weight
            };
            (server.name, weight)
        })
        .collect()
}

/// Where a server of the manifest is. A pod is known by the operator's status only; its name may resolve.
pub(super) fn target(address: &Address) -> Target {
    match address {
        Address::Host { host, port } => Target::new(host.clone(), *port),
        Address::Pod { name, port } => Target::new(name.clone(), *port),
    }
}

fn config_target(config: &PoolConfig, name: &str) -> Option<Target> {
    config.server(name).map(|server| target(&server.address))
}

/// `host:port`, `[v6]:port` or `/folder:port`.
fn target_of(address: &str) -> Option<Target> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty()).then(|| Target::new(host, port))
}

#[cfg(test)]
mod tests {
    use crds::status::{MasterStatus, RoutingStatus};

    use super::*;
    use crate::control::seen::Facts;

    fn config() -> PoolConfig {
        let mut config = PoolConfig::minimal("p", ServerConfig::host("a", "10.0.0.1", 5432));
        config.replicas = vec![
            ServerConfig::host("b", "10.0.0.2", 5432),
            ServerConfig::host("b", "10.0.0.2", 5432),
            ServerConfig::host("c", "10.0.0.3", 5433),
        ];
        config
    }

    fn tls() -> Arc<ClientTls> {
        Arc::new(ClientTls::disabled())
    }

    fn member(name: &str, address: &str, read_eligible: bool) -> ServerStatus {
        ServerStatus {
            name: name.into(),
            address: address.into(),
            read_eligible,
            ..ServerStatus::default()
        }
    }

    fn status(master: &str) -> PgPoolStatus {
        PgPoolStatus {
            epoch: 4,
            master: Some(MasterStatus {
                name: master.into(),
                address: "10.0.0.9:7".into(),
                timeline: 2,
                system_identifier: "71".into(),
                ..MasterStatus::default()
            }),
            servers: vec![
                member("a", "10.0.0.1:5432", true),
                member("b", "[::1]:5432", true),
                member("c", "/run:1", false),
            ],
            ..PgPoolStatus::default()
        }
    }

    fn shares(topology: &Topology) -> Vec<(&str, u32)> {
        topology
            .replicas
            .iter()
            .map(|replica| (replica.server.name.as_str(), replica.weight))
            .collect()
    }

    #[test]
    fn the_status_says_who_is_master_and_where() {
        let topology = of_status(&config(), &status("a"), &tls()).unwrap();
        let master = topology.master.clone().unwrap();
        assert_eq!(
            (master.name.as_str(), master.target.to_string()),
            ("a", "10.0.0.9:7".into())
        );
        assert_eq!(
            master.identity,
            Some(Identity {
                system_identifier: "71".into(),
                timeline: 2
            })
        );
        assert_eq!(topology.epoch, 4);
        assert_eq!(
            shares(&topology),
            [("b", 200)],
            "weights of a server listed twice add up"
        );
        assert_eq!(topology.replicas[0].server.target.host, "::1");
        assert!(of_status(&config(), &PgPoolStatus::default(), &tls()).is_none());
    }

    #[test]
    fn a_former_master_takes_reads_and_the_new_one_only_if_the_master_should() {
        let topology = of_status(&config(), &status("b"), &tls()).unwrap();
        assert_eq!(shares(&topology), [("a", 100)]);
        let mut config = config();
        config.replicas.push(ServerConfig {
            weight: 50,
            ..ServerConfig::host("a", "10.0.0.1", 5432)
        });
        let topology = of_status(&config, &status("b"), &tls()).unwrap();
        assert_eq!(shares(&topology), [("a", 50), ("b", 50)]);
        assert!(Arc::ptr_eq(
            &topology.replicas[1].server,
            topology.master.as_ref().unwrap()
        ));
    }

    #[test]
    fn modes_are_those_of_the_status() {
        let mode = |mode, leases_only| {
            let routing = RoutingStatus {
                mode,
                leases_only,
                ..RoutingStatus::default()
            };
            of_status(
                &config(),
                &PgPoolStatus {
                    routing,
                    ..status("a")
                },
                &tls(),
            )
            .unwrap()
            .mode
        };
        assert_eq!(mode(RoutingMode::Open, false), Mode::Open);
        assert_eq!(mode(RoutingMode::Paused, true), Mode::HoldingLeases);
        assert_eq!(mode(RoutingMode::Paused, false), Mode::Paused);
        assert_eq!(mode(RoutingMode::Fenced, false), Mode::Fenced);
    }

    fn seen(list: &[(&str, Seen)]) -> HashMap<String, Seen> {
        list.iter()
            .map(|(name, seen)| ((*name).to_owned(), seen.clone()))
            .collect()
    }

    fn facts() -> Facts {
        Facts {
            identity: Identity {
                system_identifier: "71".into(),
                timeline: 1,
            },
            streaming: true,
        }
    }

    #[test]
    fn without_an_operator_whoever_is_master_is_followed() {
        let (master, replica) = (Seen::Master(facts()), Seen::Replica(facts()));
        let lost = Seen::Lost {
            error: String::new(),
            refused: true,
        };
        let cases = [
            (
                None,
                vec![("a", master.clone()), ("b", replica.clone())],
                Some("a"),
            ),
            (
                None,
                vec![("a", replica.clone()), ("b", master.clone())],
                Some("b"),
            ),
            (None, vec![("a", lost.clone()), ("b", replica.clone())], None),
            (
                Some("a"),
                vec![("a", lost.clone()), ("b", replica.clone())],
                Some("a"),
            ),
            (
                Some("a"),
                vec![("a", lost.clone()), ("b", master.clone())],
                Some("b"),
            ),
            (
                Some("a"),
                vec![("a", master.clone()), ("b", master.clone())],
                Some("a"),
            ),
            (
                Some("a"),
                vec![("a", replica.clone()), ("b", replica.clone())],
                None,
            ),
            (
                Some("a"),
                vec![("a", lost), ("b", master.clone()), ("c", master)],
                None,
            ),
            (Some("a"), vec![], Some("a")),
        ];
        for (before, list, expected) in cases {
            let found = of_sight(&config(), before, &seen(&list));
            assert_eq!(found.as_deref(), expected, "{before:?} {list:?}");
        }
    }

    #[test]
    fn without_a_status_only_replicas_seen_to_follow_take_reads() {
        let seen = seen(&[("a", Seen::Master(facts())), ("b", Seen::Replica(facts()))]);
        let topology = without_status(&config(), 0, Some("a"), Some(&seen), &tls());
        assert_eq!((topology.mode, shares(&topology)), (Mode::Open, vec![("b", 200)]));
        let blind = without_status(&config(), 0, Some("a"), None, &tls());
        assert_eq!(shares(&blind), [("b", 200), ("c", 100)]);
        let none = without_status(&config(), 1, None, Some(&seen), &tls());
        assert!(none.mode == Mode::Fenced && none.master.is_none());
    }

    #[test]
    fn addresses_have_three_forms() {
        let cases = [
            ("h:1", Some(("h", 1))),
            ("[::1]:2", Some(("::1", 2))),
            ("/a b:3", Some(("/a b", 3))),
            ("h", None),
            (":1", None),
            ("h:x", None),
        ];
        for (text, expected) in cases {
            let target = target_of(text);
            assert_eq!(
                target.as_ref().map(|target| (target.host.as_str(), target.port)),
                expected,
                "{text}"
            );
        }
    }
}
