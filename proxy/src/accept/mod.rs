//! The doors: listening sockets, bound before anything else is started.
//!
//! Accepting is the work of the data threads; here sockets are only made, and the files of Unix sockets removed at
//! the end. Begin at [`open`].

mod unix;

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use pgnet::sockopt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tracing::{debug, info};

use crate::plane::{Door, Listener};

pub use unix::SocketFile;

/// Connections the kernel may hold that no data thread has accepted yet (the kernel's own limit may be lower).
const BACKLOG: i32 = 4096;

/// So long the kernel keeps a connection to itself whose client has said nothing: a client speaks first, and right away, so that a
/// thread is woken once for both. The least there is: what watches a port by connecting is not to wait.
const SILENT: Duration = Duration::from_secs(1);

/// A door that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}")]
pub struct OpenError {
    place: String,
    #[source]
    cause: io::Error,
}

/// Where a door is: a name or address with its port, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Empty host: every address, of both families where there are two.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 lets the system choose.
        port: u16,
    },
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

/// Every door, open.
pub struct Doors {
    /// For the data threads.
    pub listeners: Vec<(Listener, Door)>,
    /// Removes the files of Unix sockets when it is dropped.
    pub files: Vec<SocketFile>,
}

/// Opens all doors, or none.
///
/// # Errors
/// The first door that cannot be opened: a port that is taken, a folder that is missing, a Unix socket that is served.
pub fn open(places: &[(Place, Door)]) -> Result<Doors, OpenError> {
    let mut doors = Doors {
        listeners: Vec::new(),
        files: Vec::new(),
    };
    for (place, door) in places {
        match place {
            Place::Tcp { host, port } => {
                let failed = |cause| OpenError {
                    place: format!("{host}:{port}"),
                    cause,
                };
                for address in resolve(host, *port).map_err(failed)? {
                    let listener = tcp(address)
                        .or_else(|error| fall_back(host, *port, error))
                        .map_err(failed)?;
                    let bound = listener.local_addr().map_err(failed)?;
                    info!(address = %bound, door = ?door, "Listening");
                    doors.listeners.push((Listener::Tcp(listener), *door));
                }
            }
            Place::Unix(path) => {
                let failed = |cause| OpenError {
                    place: path.display().to_string(),
                    cause,
                };
                let (listener, file) = unix::listen(path, unix::CLIENTS_MODE).map_err(failed)?;
                info!(path = %path.display(), door = ?door, "Listening");
                doors.listeners.push((Listener::Unix(listener), *door));
                doors.files.push(file);
            }
        }
    }
    Ok(doors)
}

pub(crate) use unix::{OWNER_MODE, listen as listen_unix};

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = if host.is_empty() { "::" } else { host };
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the name has no address",
        ));
    }
    Ok(addresses)
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, a certain IPv6 address does not need to.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux passes it on to every accepted connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    if let Err(error) = sockopt::defer_accept(socket.as_fd(), SILENT) {
        debug!(%error, "Connections are accepted before their clients speak");
    }
    Ok(socket.into())
}

/// A host without IPv6 still has "every address".
fn fall_back(host: &str, port: u16, error: io::Error) -> io::Result<TcpListener> {
    if host.is_empty() && error.kind() != io::ErrorKind::AddrInUse {
        return tcp(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(doors: &Doors) -> Vec<SocketAddr> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        };
        doors
            .listeners
            .iter()
            .filter_map(|(listener, _)| address(listener))
            .collect()
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_that_names_the_door() {
        let first = open(&[(
            Place::Tcp {
                host: "127.0.0.1".into(),
                port: 0,
            },
            Door::ReadWrite,
        )])
        .unwrap();
        let port = bound(&first)[0].port();
        let second = open(&[(
            Place::Tcp {
                host: "127.0.0.1".into(),
                port,
            },
            Door::ReadWrite,
        )]);
        let error = second.err().unwrap();
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}"));
    }

    #[test]
    fn an_empty_host_takes_ipv4_too() {
        let doors = open(&[(
            Place::Tcp {
                host: String::new(),
                port: 0,
            },
            Door::ReadOnly,
        )])
        .unwrap();
        let port = bound(&doors)[0].port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(doors.listeners[0].1, Door::ReadOnly);
    }
}
