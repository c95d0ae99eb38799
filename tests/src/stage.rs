//! The usual scene of a test: a cluster, a manifest, a proxy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, ClusterBuilder};
use crate::manifest::Manifest;
use crate::programs::{Proxy, ProxyBuilder};
use crate::wait::{DEADLINE, wait_for, wait_until};
use crate::wire::Connection;
use crate::world::World;

/// A proxy in front of a cluster with a role and a database `app`.
#[derive(Debug)]
pub struct Stage {
    /// The proxy.
    pub proxy: Proxy,
    /// The servers behind it.
    pub cluster: Cluster,
    /// The manifest, to be changed and written again.
    pub manifest: Manifest,
    /// Its file.
    pub path: PathBuf,
    /// The folder and processes.
    pub world: Arc<World>,
}

impl Stage {
    /// One server without replicas; `change` completes the manifest.
    pub fn start(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Self {
        Self::with(name, |cluster| cluster, change, |proxy| proxy)
    }

    /// A scene made to measure.
    pub fn with(
        name: &str,
        cluster: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
        change: impl FnOnce(Manifest) -> Manifest,
        proxy: impl FnOnce(ProxyBuilder) -> ProxyBuilder,
    ) -> Self {
        let world = Arc::new(World::new(name));
        let cluster = cluster(Cluster::builder(&world)).start();
        cluster.master().sql("create role app login password 'app'");
        cluster.master().sql("create database app owner app");
        cluster.master().sql_in("app", "alter schema public owner to app");
        cluster.wait_caught_up();
        let manifest = change(Manifest::of(&cluster));
        let path = manifest.write();
        let proxy = proxy(Proxy::builder(&world, &path)).start();
        Self {
            proxy,
            cluster,
            manifest,
            path,
            world,
        }
    }

    /// One server with a table `t` of one row, `a` = 1, and a proxy that knows how to read it.
    pub fn with_table(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Self {
        let stage = Self::start(name, change);
        let mut client = stage.client();
        client.query("create table t as select 1 as a").expect("a table");
        wait_until("a table that is known", DEADLINE, || {
            let before = stage.stat("requests_shared");
            client.query("select a from t").expect("its row");
            stage.stat("requests_shared") > before
        });
        stage
    }

    /// A client of the proxy: user `app`, database `app`.
    pub fn client(&self) -> Connection {
        self.proxy.connect("app", "app")
    }

    /// The connection string of such a client.
    pub fn conninfo(&self) -> String {
        self.proxy.conninfo("app", "app")
    }

    /// SQL straight at the master in database `app`, as superuser; one value.
    pub fn direct(&self, sql: &str) -> String {
        let mut connection = self.cluster.master().connect("app");
        connection.value(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// How many connections user `app` has at the master now.
    pub fn servers_of_app(&self) -> usize {
        self.direct("select count(*) from pg_stat_activity where usename = 'app'")
            .parse()
            .expect("a count")
    }

    /// A number of the proxy's SHOW STATS.
    pub fn stat(&self, name: &str) -> u64 {
        let rows = self.proxy.pseudo("show stats");
        let row = rows.iter().find(|row| row[0].as_deref() == Some(name));
        row.and_then(|row| row[1].as_ref()?.parse().ok())
            .expect("a number")
    }

    /// Changes the manifest of the running proxy.
    pub fn change(&mut self, change: impl FnOnce(Manifest) -> Manifest) {
        self.manifest = change(self.manifest.clone());
        self.manifest.write();
    }

    /// Waits until no connection of user `app` is in a transaction or runs a statement, and none holds a lock.
    pub fn wait_servers_clean(&self, limit: Duration) {
        let sql = "select coalesce(string_agg(state || ': ' || query, ' | '), '') from pg_stat_activity \
                   where usename = 'app' and state <> 'idle'";
        wait_for(
            "every server connection to be idle outside a transaction",
            limit,
            || {
                let busy = self.direct(sql);
                if busy.is_empty() { Ok(()) } else { Err(busy) }
            },
        );
    }
}

/// A small generator of pseudo-random numbers (xorshift), the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The seed of a test: `$SEED`, else this; printed, so that a failure can be repeated.
    pub fn of_test(default: u64) -> Self {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(default);
        println!("SEED={seed}");
        Self::seeded(seed)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    /// One of these.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let at = self.below(items.len() as u64);
        &items[usize::try_from(at).expect("a small number")]
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
