//! Which rule a client falls under.
//!
//! The rules themselves and their matching are `crds::hba`. Here stands what matching needs of the world: groups and
//! names of hosts are asked for only when a rule that otherwise fits depends on them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crds::hba::{AddressItem, Facts, Rule};
use ipnet::IpNet;
use pgnet::sqlstate::SqlState;

use crate::error::Refused;
use crate::metrics::Refusal;

/// What is known of a client before it has proven anything.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The role it names, without suffix.
    pub user: &'a str,
    /// The database it asks for, without suffix.
    pub database: &'a str,
    /// Where it comes from; `None`: a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it wants to replicate a whole server.
    pub replication: bool,
}

/// What had to be asked of the world.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Roles the user is a member of, itself included; `None`: not asked yet.
    pub groups: Option<HashSet<String>>,
    /// Whether the address belongs to a host.
    pub hosts: HashMap<String, bool>,
    /// The networks of this machine, each with our own address in it.
    pub own_networks: Vec<IpNet>,
}

/// What a search came to.
#[derive(Debug, PartialEq)]
pub(super) enum Found<'a> {
    /// The first rule that is for this client.
    Rule(&'a Rule),
    /// None is.
    Nothing,
    /// It depends on something not asked yet: ask and search again.
    Ask(Question),
}

/// Something a rule depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// Which roles the user is a member of.
    Groups,
    /// Whether the address belongs to this host.
    Host(String),
}

/// The rule for a client. Ends after as many questions as there are different ones: each answer is kept in `world`.
pub(super) fn find<'a>(rules: &'a [Rule], attempt: &Attempt<'_>, world: &World) -> Found<'a> {
    for rule in rules {
        // What is not known is taken to be so: a rule that does not fit even then needs no question.
        let question = RefCell::new(None);
        let member_of = |group: &str| match &world.groups {
            Some(groups) => groups.contains(group),
            None => {
                question.borrow_mut().get_or_insert(Question::Groups);
                true
            }
        };
        let comes_from = |host: &str| match world.hosts.get(host) {
            Some(known) => *known,
            None => {
                question
                    .borrow_mut()
                    .get_or_insert_with(|| Question::Host(host.to_owned()));
                true
            }
        };
        let facts = Facts {
            address: attempt.address,
            tls: attempt.tls,
            database: attempt.database,
            user: attempt.user,
            replication: attempt.replication,
            member_of: &member_of,
            comes_from: &comes_from,
            own_networks: &world.own_networks,
        };
        if rule.matches(&facts) {
            return question.into_inner().map_or(Found::Rule(rule), Found::Ask);
        }
    }
    Found::Nothing
}

/// Whether a rule asks for the networks of this machine.
pub(super) fn asks_for_networks(rules: &[Rule]) -> bool {
    rules
        .iter()
        .any(|rule| matches!(rule.address, AddressItem::SameHost | AddressItem::SameNet))
}

/// The networks of this machine.
pub(super) fn own_networks() -> Vec<IpNet> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let (address, mask) = (ip(interface.address?)?, ip(interface.netmask?)?);
            IpNet::with_netmask(address, mask).ok()
        })
        .collect()
}

fn ip(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Whether `host` is a name of this address. A name that begins with a dot stands for a domain: that takes a reverse
/// look-up, which is not done; such a rule is for nobody.
pub(super) async fn belongs(address: IpAddr, host: &str) -> bool {
    if host.starts_with('.') {
        return false;
    }
    let looked_up =
        tokio::time::timeout(crate::limits::LOOKUP_TIMEOUT, tokio::net::lookup_host((host, 0))).await;
    let Ok(Ok(mut addresses)) = looked_up else {
        return false;
    };
    addresses.any(|found| found.ip().to_canonical() == address.to_canonical())
}

/// No rule is for this client: PostgreSQL's words.
pub(super) fn no_entry(attempt: &Attempt<'_>) -> Refused {
    refusal("no pg_hba.conf entry for host", attempt)
}

/// A rule turns it away: PostgreSQL's words.
pub(super) fn rejected(attempt: &Attempt<'_>) -> Refused {
    refusal("pg_hba.conf rejects connection for host", attempt)
}

fn refusal(what: &str, attempt: &Attempt<'_>) -> Refused {
    let Attempt {
        user,
        database,
        address,
        tls,
        replication,
    } = attempt;
    let host = address.map_or_else(
        || "[local]".to_owned(),
        |address| address.to_canonical().to_string(),
    );
    let encryption = if *tls { "SSL encryption" } else { "no encryption" };
    let text = if *replication {
        format!("{what} \"{host}\", user \"{user}\", replication connection, {encryption}")
    } else {
        format!("{what} \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
    };
    Refused::fatal(Refusal::Rule, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Vec<Rule> {
        lines
            .iter()
            .map(|line| crds::hba::parse(line).unwrap().unwrap())
            .collect()
    }

    fn attempt(address: Option<&str>, tls: bool) -> Attempt<'static> {
        Attempt {
            user: "app",
            database: "shop",
            address: address.map(|a| a.parse().unwrap()),
            tls,
            replication: false,
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(&[
            "local all all trust",
            "hostssl shop app all scram-sha-256",
            "host shop app 10.0.0.0/8 md5",
            "host all all 127.0.0.1/32 reject",
        ]);
        let cases = [
            (attempt(None, false), Some(0)),
            (attempt(Some("10.1.2.3"), true), Some(1)),
            (attempt(Some("10.1.2.3"), false), Some(2)),
            (attempt(Some("::ffff:10.1.2.3"), false), Some(2)),
            (attempt(Some("127.0.0.1"), false), Some(3)),
            (attempt(Some("192.168.0.1"), false), None),
        ];
        for (attempt, expected) in cases {
            let expected = expected.map_or(Found::Nothing, |index: usize| Found::Rule(&rules[index]));
            assert_eq!(find(&rules, &attempt, &World::default()), expected, "{attempt:?}");
        }
    }

    #[test]
    fn groups_are_asked_for_only_by_a_rule_that_otherwise_fits() {
        let rules = rules(&[
            "host other +ops all trust",
            "host shop +ops all trust",
            "host all all all md5",
        ]);
        let attempt = attempt(Some("10.0.0.1"), false);
        let mut world = World::default();
        assert_eq!(find(&rules, &attempt, &world), Found::Ask(Question::Groups));
        world.groups = Some(HashSet::from(["app".to_owned()]));
        assert_eq!(find(&rules, &attempt, &world), Found::Rule(&rules[2]));
        world.groups = Some(HashSet::from(["app".to_owned(), "ops".to_owned()]));
        assert_eq!(find(&rules, &attempt, &world), Found::Rule(&rules[1]));
    }

    #[test]
    fn hosts_are_asked_for_by_name() {
        let rules = rules(&["host all all db.example trust"]);
        let attempt = attempt(Some("10.0.0.1"), false);
        let mut world = World::default();
        assert_eq!(
            find(&rules, &attempt, &world),
            Found::Ask(Question::Host("db.example".into()))
        );
        world.hosts.insert("db.example".into(), false);
        assert_eq!(find(&rules, &attempt, &world), Found::Nothing);
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        let networks = own_networks();
        assert!(
            networks.iter().any(|net| net.addr().is_loopback()),
            "{networks:?}"
        );
    }

    #[test]
    fn refusals_speak_as_postgresql_does() {
        let text = |refused: Refused| {
            refused
                .answer
                .map(|answer| (answer.code.as_str().to_owned(), answer.message))
        };
        assert_eq!(
            text(no_entry(&attempt(Some("::ffff:10.0.0.1"), false))),
            Some((
                "28000".into(),
                "no pg_hba.conf entry for host \"10.0.0.1\", user \"app\", database \"shop\", no encryption"
                    .into()
            ))
        );
        assert_eq!(
            text(rejected(&attempt(None, false))).unwrap().1,
            "pg_hba.conf rejects connection for host \"[local]\", user \"app\", database \"shop\", no encryption"
        );
        assert!(
            text(no_entry(&attempt(Some("::1"), true)))
                .unwrap()
                .1
                .ends_with(", SSL encryption")
        );
    }
}
