//! Test support: what starts real PostgreSQL clusters, proxies and operators, speaks to them, and cleans up.
//!
//! Begin with [`World`] (one temporary folder and everything that runs in it), then [`Cluster`] (a master and its
//! streaming replicas), [`Manifest`] and [`Proxy`], or [`Stage`], which has one of each. [`wire`] is a small protocol
//! client of its own; [`script`] runs conversations written as text.
//!
//! Nothing here is part of the product. Everything blocks; a failure is a panic that says what was waited for and
//! shows the end of the logs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a panic is a failed test"
)]

mod cluster;
mod drivers;
mod manifest;
mod procfs;
mod programs;
mod relay;
mod server;
mod stage;
mod stats;
mod status;
mod tools;
mod wait;
mod workload;
mod world;

pub mod kube;
pub mod script;
pub mod wire;

pub use cluster::{Cluster, ClusterBuilder};
pub use drivers::{Driver, DriverStage};
pub use manifest::Manifest;
pub use procfs::{Usage, open_files, raise_open_files, resident_bytes, resident_of, usage_of};
pub use programs::{Operator, OperatorBuilder, Proxy, ProxyBuilder, http_get, program};
pub use relay::{Relay, RelayMode};
pub use server::{Server, StopMode};
pub use stage::{Random, Stage};
pub use stats::{Latencies, median};
pub use status::Status;
pub use tools::{Output, pgbench, psql, run_to_end};
pub use wait::{DEADLINE, Stops, wait_for, wait_until};
pub use workload::{Manner, SetTest, SetVerdict, Tally};
pub use world::{
    Process, World, as_postgres as command_as_postgres, free_port, postgres_binary, postgres_major,
};
