//! Direct connections and our proxy.

use std::path::{Path, PathBuf};

use pgstmtpool_tests::{Manifest, Proxy};

use super::{Peer, Running, first_line};
use crate::stage::Stage;

/// The workload in which both settings of `applicationName` are compared.
pub(super) const NAMES_WORKLOAD: &str = "app_names";

pub(super) fn direct(stage: &Stage) -> Option<Peer> {
    let version = format!(
        "PostgreSQL {}",
        stage.cluster.master().value("show server_version")
    );
    Some(Peer {
        host: stage.host(),
        clients_max: 1100,
        ..Peer::new(stage, "direct", version, stage.port(), Running::Nothing)
    })
}

pub(super) fn proxy(stage: &Stage) -> Option<Peer> {
    Some(Peer {
        setup: "default settings, workers.max 20",
        ..started(stage, "proxy", stage.manifest())
    })
}

/// The proxy with `applicationName: pool`: clients with different names need no prefix.
pub(super) fn proxy_with_pool_names(stage: &Stage) -> Option<Peer> {
    let manifest = stage.manifest().set("applicationName", "pool");
    Some(Peer {
        setup: "the same with applicationName: pool",
        only: Some(NAMES_WORKLOAD),
        ..started(stage, "proxy-pool", manifest)
    })
}

/// The workload in which one data thread is compared with as many as there are CPUs.
pub(super) const THREADS_WORKLOAD: &str = "select1_1000";

pub(super) fn proxy_with_one_thread(stage: &Stage) -> Option<Peer> {
    let manifest = stage.manifest().set("proxy.threads", "1");
    Some(Peer {
        setup: "the same with proxy.threads: 1",
        only: Some(THREADS_WORKLOAD),
        ..started(stage, "proxy-1-thread", manifest)
    })
}

/// Another build of the proxy to be compared, `$OTHER_PROXY`.
pub(crate) fn other_build() -> Option<PathBuf> {
    std::env::var_os("OTHER_PROXY").map(PathBuf::from)
}

pub(super) fn other_proxy(stage: &Stage) -> Option<Peer> {
    let program = other_build()?;
    Some(Peer {
        setup: "another build, the same settings",
        ..started_from(stage, "proxy-other", stage.manifest(), &program)
    })
}

fn started(stage: &Stage, name: &'static str, manifest: Manifest) -> Peer {
    let program = pgstmtpool_tests::program("pgstmtpool-proxy");
    started_from(stage, name, manifest, &program)
}

fn started_from(stage: &Stage, name: &'static str, manifest: Manifest, program: &Path) -> Peer {
    let manifest = manifest.named(name).write();
    let proxy = Proxy::builder(&stage.world, &manifest)
        .named(name)
        .program(program)
        .start();
    let version = first_line(program.to_str().expect("a path"), &["--version"]);
    Peer::new(stage, name, version, proxy.port, Running::Proxy(Box::new(proxy)))
}
