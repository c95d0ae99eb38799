//! Memory per idle client: how much the peer's processes grow when many clients connect, say one thing and stay.

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
    /// Bytes per client.
    pub(crate) bytes: u64,
}

/// Measures all peers that take so many clients.
pub(crate) fn measure(peers: &[Peer], quick: bool, filter: &str) -> Vec<Idle> {
    if !filter.is_empty() && !filter.contains("idle") {
        return Vec::new();
    }
    let sizes: &[usize] = if quick { &[2000] } else { &[2000, 5000] };
    let mut out = Vec::new();
    for clients in sizes.iter().copied() {
        for peer in peers.iter().filter(|peer| peer.clients_max() >= clients) {
            match one(peer, clients) {
                Ok(bytes) => {
                    println!(
                        "idle       {clients} clients      {:<10} {bytes} bytes a client",
                        peer.name
                    );
                    out.push(Idle {
                        peer: peer.name,
                        clients,
                        bytes,
                    });
                }
                Err(fault) => println!(
                    "idle       {clients} clients      {:<10} failed: {fault}",
                    peer.name
                ),
            }
        }
    }
    out
}

fn one(peer: &Peer, clients: usize) -> Result<u64, String> {
    let pid = peer.pid.ok_or("no process")?;
    let before = resident_of(pid);
    let mut open = Vec::with_capacity(clients);
    for n in 0..clients {
        let mut connection =
            Connection::open(&peer.address(), "bench", "bench").map_err(|e| format!("client {n}: {e}"))?;
        connection
            .query("select 1")
            .map_err(|e| format!("client {n}: {e}"))?;
        open.push(connection);
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let grown = resident_of(pid).saturating_sub(before);
    Ok(grown / u64::try_from(clients).unwrap_or(1))
}
