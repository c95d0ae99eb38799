//! From what was written to what is valid: every rule of the resource, and every fault at once.
//!
//! Each function takes its part of [`crate::raw`] apart without `..`, so that a new key must be handled here. Where
//! something is wrong it adds a fault and goes on with a value of the right type, which nobody will see.

mod access;
mod ha;
mod limits;
mod proxy;
mod reads;
mod servers;

use crate::raw::PgPoolSpec;
use crate::{Fault, Faults, PoolConfig};

/// Where a spec was written, which decides what it may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file: there are no pods.
    File,
    /// In the Kubernetes API.
    Cluster,
}

/// The metadata of a resource that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; empty: `default`.
    pub namespace: String,
    /// `metadata.generation`; 0: none.
    pub generation: i64,
}

/// A valid pool, and what is allowed in it but probably not meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The pool.
    pub config: PoolConfig,
    /// For a log or a condition, each with its path.
    pub warnings: Vec<Fault>,
}

/// Longest name of a pool or server.
pub(crate) const NAME_MAX: usize = 40;

impl PoolConfig {
    /// Checks a spec as a person wrote it.
    ///
    /// # Errors
    /// Every fault at once, each with its path from `spec` on.
    pub fn from_spec(identity: Identity, spec: PgPoolSpec, place: Place) -> Result<Checked, Vec<Fault>> {
        let mut faults = Faults::default();
        let mut warnings = Faults::new("spec");
        faults.within("metadata", |faults| name(faults, "name", Some(&identity.name)));
        let config = faults.within("spec", |faults| {
            read(faults, &mut warnings, identity, spec, place)
        });
        match (config, faults.is_empty()) {
            (Some(config), true) => Ok(Checked {
                config,
                warnings: warnings.into_vec(),
            }),
            _ => Err(faults.into_vec()),
        }
    }
}

/// Names of pools and servers: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most [`NAME_MAX`].
fn name(faults: &mut Faults, key: &str, name: Option<&str>) {
    let Some(name) = name else {
        return faults.add(key, "is missing");
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(allowed);
    if !good || name.starts_with('-') || name.ends_with('-') {
        faults.add(
            key,
            format!("must be 1 to {NAME_MAX} of a-z, 0-9 and - (not first or last), is {name:?}"),
        );
    }
}

fn read(
    faults: &mut Faults,
    warnings: &mut Faults,
    identity: Identity,
    spec: PgPoolSpec,
    place: Place,
) -> Option<PoolConfig> {
    let PgPoolSpec {
        master,
        replicas,
        selector,
        admin_secret_ref,
        proxy_admin_secret_ref,
        replication_secret_ref,
        server_tls,
        pool_mode,
        workers,
        budget,
        limits,
        timeouts,
        defer_begin,
        application_name,
        databases,
        users,
        reset_query,
        on_listen_gap,
        sequence_state,
        idle_exemptions,
        client_rules,
        allow_replication,
        auth,
        tls,
        routing,
        cache,
        ha,
        durability,
        switchover,
        failover,
        proxy,
    } = spec;

    let servers = servers::servers(faults, place, master, replicas, &selector);
    let mut login = |key: &str, secret| faults.within(key, |faults| servers::login_secret(faults, secret));
    let admin_secret = login("adminSecretRef", admin_secret_ref);
    let proxy_admin_secret = login("proxyAdminSecretRef", proxy_admin_secret_ref);
    let replication_secret = login("replicationSecretRef", replication_secret_ref);
    let server_tls = faults.within("serverTls", |faults| servers::server_tls(faults, server_tls));
    let workers = faults.within("workers", |faults| limits::workers(faults, workers));
    let budget = faults.within("budget", |faults| limits::budget(faults, budget));
    let limits = faults.within("limits", |faults| limits::limits(faults, limits));
    let timeouts = faults.within("timeouts", |faults| limits::timeouts(faults, timeouts));
    let databases = limits::databases(faults, databases);
    let users = limits::users(faults, users);
    if reset_query.len() > 4096 || reset_query.contains('\0') {
        faults.add("resetQuery", "must be at most 4096 bytes without NUL");
    }
    let client_rules = limits::client_rules(faults, client_rules);
    let idle_exemptions = access::idle_exemptions(faults, idle_exemptions);
    let tls = faults.within("tls", |faults| access::tls(faults, tls));
    let mut auth = access::auth(faults, warnings, auth, &tls);
    let routing = faults.within("routing", |faults| reads::routing(faults, routing));
    let cache = faults.within("cache", |faults| reads::cache(faults, cache));
    let ha = faults.within("ha", |faults| ha::ha(faults, ha));
    let durability = faults.within("durability", |faults| ha::durability(faults, durability));
    let switchover = switchover
        .and_then(|switchover| faults.within("switchover", |faults| ha::switchover(faults, switchover)));
    let failover =
        failover.and_then(|failover| faults.within("failover", |faults| ha::failover(faults, failover)));
    let proxy = faults.within("proxy", |faults| proxy::proxy(faults, proxy));

    if ha.enabled && admin_secret.is_none() {
        faults.add(
            "adminSecretRef",
            "is missing: ha.enabled needs the operator's login",
        );
    }
    if auth.auth_query && admin_secret.is_none() && proxy_admin_secret.is_none() {
        auth.auth_query = false;
        let text = "no proxyAdminSecretRef and no adminSecretRef: nobody is asked for verifiers, \
                    only users of userSecretRefs can give a password";
        warnings.add("auth.authQuery", text);
    }

    let (master, replicas) = servers?;
    let config = PoolConfig {
        name: identity.name,
        namespace: if identity.namespace.is_empty() {
            "default".to_owned()
        } else {
            identity.namespace
        },
        generation: identity.generation,
        master,
        replicas,
        selector,
        admin_secret,
        proxy_admin_secret,
        replication_secret,
        server_tls,
        pool_mode,
        workers,
        budget,
        limits,
        timeouts,
        defer_begin,
        application_name,
        databases,
        users,
        reset_query,
        on_listen_gap,
        sequence_state,
        idle_exemptions,
        client_rules,
        allow_replication,
        auth,
        tls,
        routing,
        cache,
        ha,
        durability,
        switchover,
        failover,
        proxy,
    };
    ha::agreement(faults, &config);
    Some(config)
}
