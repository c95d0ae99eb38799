//! Memory per idle client: how much the peer's processes grow when many clients connect, say one thing and stay.

use std::time::Duration;

use pgstmtpool_tests::resident_of;
use pgstmtpool_tests::wire::Connection;

use crate::peers::Peer;

/// Memory per idle client of one peer.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Whose.
    pub(crate) peer: &'static str,
    /// With so many clients.
    pub(crate) clients: usize,
    /// Bytes per client, or why there is no figure.
    pub(crate) bytes: Result<u64, String>,
}

/// Measures all peers, each with as many clients as it takes.
pub(crate) fn measure(peers: &[Peer], quick: bool, filter: &str) -> Vec<Idle> {
    if !filter.is_empty() && !filter.split(',').any(|f| !f.is_empty() && "idle".contains(f)) {
        return Vec::new();
    }
    let sizes: &[usize] = if quick { &[2000] } else { &[2000, 5000] };
    let mut out = Vec::new();
    for peer in peers.iter().filter(|peer| peer.is_general()) {
        out.extend(one(peer, sizes));
    }
    out
}

/// The clients of a size stay for the next, so that all growth is counted from the same beginning.
fn one(peer: &Peer, sizes: &[usize]) -> Vec<Idle> {
    let Some(pid) = peer.pid else { return Vec::new() };
    let fits = |size: &usize| *size <= peer.clients_max;
    let mut sizes: Vec<usize> = sizes.iter().copied().filter(fits).collect();
    if sizes.is_empty() {
        sizes.push(peer.clients_max);
    }
    let before = resident_of(pid);
    let mut open = Vec::new();
    let mut out = Vec::new();
    for clients in sizes {
        let opened = fill(peer, &mut open, clients);
        // What a login leaves behind for a moment goes.
        std::thread::sleep(Duration::from_secs(2));
        let grown = resident_of(pid).saturating_sub(before);
        let bytes = opened.map(|()| grown / u64::try_from(clients).unwrap_or(1));
        match &bytes {
            Ok(bytes) => println!(
                "idle {clients:>5} clients {:<10} {bytes:>8} bytes a client",
                peer.name
            ),
            Err(fault) => println!("idle {clients:>5} clients {:<10} failed: {fault}", peer.name),
        }
        out.push(Idle {
            peer: peer.name,
            clients,
            bytes,
        });
    }
    out
}

fn fill(peer: &Peer, open: &mut Vec<Connection>, clients: usize) -> Result<(), String> {
    while open.len() < clients {
        let n = open.len();
        let mut connection =
            Connection::open(&peer.address(), "bench", "bench").map_err(|e| format!("client {n}: {e}"))?;
        connection
            .query("select 1")
            .map_err(|e| format!("client {n}: {e}"))?;
        open.push(connection);
    }
    Ok(())
}
