//! Wire scripts: whole conversations as text, run straight against PostgreSQL and through the proxy.
//!
//! A script is a list of lines. `#` begins a comment, `# modes: transaction` says in which pool modes the transcript
//! must equal PostgreSQL's (without it: in all). A line may begin with the name of a connection and `>`; without, it
//! is `A`. Connections are opened at their first line, or by `connect` with startup parameters.
//!
//! | line | does |
//! |---|---|
//! | `Q "sql"` | Query; several strings are joined |
//! | `P name "sql" [23 25]` | Parse; `""` is the unnamed statement, types may be left out |
//! | `B portal name [values] [formats] [result formats]` | Bind; a value is a string or `null` |
//! | `D S name`, `D P name`, `C S name`, `C P name` | Describe, Close |
//! | `E portal rows` | Execute; rows may be left out |
//! | `S`, `H`, `X` | Sync, Flush, Terminate |
//! | `d "data"`, `c`, `f "reason"` | CopyData, CopyDone, CopyFail |
//! | `F oid [values]` | FunctionCall |
//! | `raw "bytes"` | bytes as they are |
//! | `wait` | sends what is collected, reads until every Query, Sync and FunctionCall has its ReadyForQuery |
//! | `wait Z`, `wait G`, ... | reads until a frame with this tag; after `Z` nothing more is expected |
//! | `wait eof` | reads until the server closes |
//! | `send` | sends what is collected and reads nothing |
//! | `quiet` | sends, and nothing may come for a while |
//! | `drop` | closes the socket without a word |
//! | `cancel` | cancels what this connection runs |
//! | `admin "sql"` | runs SQL beside the conversation, straight at the server, as superuser |
//! | `until "sql"` | asks there until the answer is `t` |
//!
//! Strings are in double quotes with the escapes of Rust (`\n`, `\"`, `\x00`); `"ab"*1000` repeats one, `"a"+"b"*9` joins two.

mod parse;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use parse::{Line, Script, Step, Until};

use crate::{Cluster, Server, World};

/// Who talks in a script.
pub const USER: &str = "app";
/// Where.
pub const DATABASE: &str = "wire";

/// A server with that user and that database.
pub fn start(name: &str) -> (Arc<World>, Cluster) {
    let world = Arc::new(World::new(name));
    let cluster = Cluster::single(&world);
    cluster.master().sql("create role app login");
    cluster.master().sql("create database wire owner app");
    (world, cluster)
}

/// A fresh schema: every run of a script starts from the same state.
pub fn reset(server: &Server) {
    let sql = "set lock_timeout = '10s'; drop schema if exists public cascade; create schema public authorization app";
    server.sql_in(DATABASE, sql);
}

/// All scripts of `tests/wire`, by name.
pub fn all() -> Vec<Script> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("tests/wire")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "wire"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| Script::read(path).unwrap_or_else(|e| panic!("{e}")))
        .collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wire")
}

/// The first place where two transcripts differ, with some lines before it; `None` when they are equal.
pub fn difference(straight: &[String], proxied: &[String]) -> Option<String> {
    let at = (0..straight.len().max(proxied.len())).find(|n| straight.get(*n) != proxied.get(*n))?;
    let mut out = String::new();
    for line in &straight[at.saturating_sub(6).min(straight.len())..at] {
        out += &format!("      {line}\n");
    }
    for line in straight[at..].iter().take(4) {
        out += &format!("  PG  {line}\n");
    }
    for line in proxied[at..].iter().take(4) {
        out += &format!("  US  {line}\n");
    }
    Some(out)
}
