//! What a data directory may come up as: pure.

use crds::status::PgPoolStatus;
use crds::{Address, PoolConfig, Rejoin};

/// What is in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// Nothing, or half a copy.
    None,
    /// A cluster with `standby.signal`.
    Standby,
    /// A cluster that would come up writable.
    Writable,
    /// A rewind of it was interrupted.
    HalfRewound,
}

/// What the API says of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing: it cannot be reached, or refuses us.
    Silence(String),
    /// There is no such pool, or its operator has not looked yet.
    NoMaster,
    /// Who is master.
    Master(Order),
}

/// Who is master, and what that means for this pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The name of this pod's server.
    pub mine: String,
    /// The name of the master.
    pub master: String,
    /// Where it is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// This server has to be rewound before it can follow.
    pub rewinding: bool,
    /// The promotion of another server was ordered.
    pub deposed: bool,
    /// A rewind that fails may end in a new copy.
    pub rebuild: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Start the command as it is.
    Run,
    /// Make a standby of it, then start.
    Follow {
        /// Rewind it first.
        rewind: bool,
    },
    /// Copy the master, then start as a standby.
    Copy,
    /// Copy the first master.
    CopyFirst,
    /// Ask again in a moment.
    Wait(String),
}

/// The table of docs/KUBERNETES.md. `first`: this pod makes the cluster where nobody has.
pub(super) fn decide(data: Data, told: &Told, first: bool) -> Plan {
    let order = match told {
        Told::Silence(why) if data == Data::Standby => {
            let _ = why;
            return Plan::Run; // it writes nothing
        }
        Told::Silence(why) => return Plan::Wait(format!("nobody says who is master: {why}")),
        Told::NoMaster => {
            return match data {
                Data::None if !first => Plan::CopyFirst,
                Data::HalfRewound => {
                    Plan::Wait("a rewind was interrupted here, and nobody says who is master".to_owned())
                }
                _ => Plan::Run,
            };
        }
        Told::Master(order) => order,
    };
    if order.master != order.mine {
        return match data {
            Data::None => Plan::Copy,
            Data::Standby => Plan::Follow {
                rewind: order.rewinding,
            },
            Data::Writable | Data::HalfRewound => Plan::Follow { rewind: true },
        };
    }
    match data {
        // A new, empty cluster in the master's place would be the end of all data.
        Data::None => {
            Plan::Wait("this pod is master, and its data is gone: fail over, or restore it".to_owned())
        }
        Data::HalfRewound => {
            Plan::Wait("this pod is master, and a rewind of it was interrupted: fail over".to_owned())
        }
        Data::Writable if order.deposed => {
            Plan::Wait("the promotion of another server was ordered: waiting for its end".to_owned())
        }
        Data::Writable | Data::Standby => Plan::Run,
    }
}

/// What a pool and its status say to a pod.
pub(super) fn order(config: &PoolConfig, status: Option<&PgPoolStatus>, pod: &str) -> Told {
    let Some((status, master)) = status.and_then(|status| Some((status, status.master.as_ref()?))) else {
        return Told::NoMaster;
    };
    let is_mine = |address: &Address| matches!(address, Address::Pod { name, .. } if name == pod);
    let mine = config
        .servers()
        .into_iter()
        .find(|server| is_mine(&server.address))
        .map_or_else(|| pod.to_owned(), |server| server.name);
    let Some((host, port)) = master
        .address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
    else {
        return Told::Silence(format!(
            "the master's address {:?} cannot be read",
            master.address
        ));
    };
    let rejoin = status.server(&mine).and_then(|server| server.rejoin.as_ref());
    let operation = status.operation.as_ref();
    Told::Master(Order {
        master: master.name.clone(),
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port,
        rewinding: rejoin.is_some_and(|rejoin| rejoin.rewinding),
        deposed: operation.is_some_and(|operation| {
            operation.promote_issued_at.is_some() && operation.target.as_deref() != Some(mine.as_str())
        }),
        rebuild: config.ha.rejoin == Rejoin::Rebuild,
        mine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::ServerConfig;
    use crds::status::{MasterStatus, Operation, RejoinStatus, ServerStatus};

    fn of(master: &str, rewinding: bool, deposed: bool) -> Told {
        Told::Master(Order {
            mine: "a".to_owned(),
            master: master.to_owned(),
            host: "h".to_owned(),
            port: 5432,
            rewinding,
            deposed,
            rebuild: false,
        })
    }

    #[test]
    fn a_former_master_never_starts_writable() {
        let silence = || Told::Silence("refused".to_owned());
        for told in [silence(), of("b", false, false), of("a", false, true)] {
            for first in [true, false] {
                assert_ne!(decide(Data::Writable, &told, first), Plan::Run, "{told:?}");
            }
        }
    }

    #[test]
    fn no_new_cluster_is_made_where_one_is_known() {
        for told in [
            of("a", false, false),
            of("b", false, false),
            Told::Silence(String::new()),
        ] {
            assert_ne!(decide(Data::None, &told, true), Plan::Run, "{told:?}");
        }
        assert_eq!(decide(Data::None, &Told::NoMaster, true), Plan::Run);
        assert_eq!(decide(Data::None, &Told::NoMaster, false), Plan::CopyFirst);
    }

    #[test]
    fn each_row_of_the_table() {
        let silence = Told::Silence("x".to_owned());
        let cases = [
            (Data::Writable, of("a", false, false), Plan::Run),
            (Data::Standby, of("a", false, true), Plan::Run),
            (
                Data::Standby,
                of("b", false, false),
                Plan::Follow { rewind: false },
            ),
            (Data::Standby, of("b", true, false), Plan::Follow { rewind: true }),
            (
                Data::Writable,
                of("b", false, false),
                Plan::Follow { rewind: true },
            ),
            (
                Data::HalfRewound,
                of("b", false, false),
                Plan::Follow { rewind: true },
            ),
            (Data::None, of("b", false, false), Plan::Copy),
            (Data::Writable, Told::NoMaster, Plan::Run),
            (Data::Standby, silence, Plan::Run),
        ];
        for (data, told, plan) in cases {
            assert_eq!(decide(data, &told, false), plan, "{data:?} {told:?}");
        }
    }

    #[test]
    fn a_pod_finds_itself_in_the_pool_by_its_name_there() {
        let mut config = PoolConfig::minimal("orders", ServerConfig::host("x", "h", 5432));
        config.master.address = Address::Pod {
            name: "pg-0".to_owned(),
            port: 5432,
        };
        let mut status = PgPoolStatus {
            master: Some(MasterStatus {
                name: "pg-1".to_owned(),
                address: "pg-1.pg.db.svc:5432".to_owned(),
                ..MasterStatus::default()
            }),
            servers: vec![ServerStatus {
                name: "x".to_owned(),
                rejoin: Some(RejoinStatus {
                    rewinding: true,
                    ..RejoinStatus::default()
                }),
                ..ServerStatus::default()
            }],
            ..PgPoolStatus::default()
        };
        let Told::Master(found) = order(&config, Some(&status), "pg-0") else {
            panic!("a master is known");
        };
        assert_eq!(
            (found.mine.as_str(), found.host.as_str(), found.port),
            ("x", "pg-1.pg.db.svc", 5432)
        );
        assert!(found.rewinding && !found.deposed);
        status.operation = Some(Operation {
            target: Some("pg-2".to_owned()),
            promote_issued_at: Some("2026-01-01T00:00:00Z".to_owned()),
            ..Operation::default()
        });
        assert!(matches!(order(&config, Some(&status), "pg-0"), Told::Master(order) if order.deposed));
        assert_eq!(order(&config, None, "pg-0"), Told::NoMaster);
    }
}
