//! CancelRequests that reach the wrong proxy.
//!
//! Behind a Service a cancel may come to any proxy. The first eight of the 31 bits of its process id name the one that gave
//! the key out, where the next bit is set (a server's own process id has it not: in session mode all others are asked); the request is
//! carried there as it came: over a Unix socket beside the proxies' reports that only our own user can open, or in a cluster to a
//! port of the other's pod (whoever reaches that can do what any client can: cancel what he has the key of). The other end closes
//! when the cancel has been carried out, and only then does ours: the canceller knows
//! by that. What arrives from a peer is never carried on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cluster::ClusterSource;
use futures::future::{BoxFuture, join_all};
use pgnet::frame;
use pgnet::startup::{self, Startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::accept::{OWNER_MODE, SocketFile, listen_unix};
use crate::limits::{FORWARD_TIMEOUT, FORWARDS_MAX};

/// How long a peer may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the proxies of a pool reach each other.
#[derive(Debug)]
pub struct Peers {
    place: Place,
    number: u8,
    places: Semaphore,
}

#[derive(Debug)]
enum Place {
    /// Sockets in a folder.
    Folder(PathBuf),
    /// Ports of pods, each in its proxy's Lease; this proxy's own address.
    Cluster(Arc<dyn ClusterSource>, String),
}

/// Where another proxy is.
#[derive(Debug)]
enum Peer {
    Socket(PathBuf),
    Address(String),
}

/// This proxy's own end.
#[derive(Debug)]
pub enum PeerListener {
    /// In a folder.
    Unix(UnixListener),
    /// In a cluster.
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl PeerListener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Carries out a cancel of this proxy's own clients.
pub type Cancel = Arc<dyn Fn(i32, Bytes) -> BoxFuture<'static, bool> + Send + Sync>;

impl Peers {
    /// Those whose sockets are in `folder`; this proxy is `number`.
    pub fn new(folder: &Path, number: u8) -> Self {
        Self {
            place: Place::Folder(folder.to_owned()),
            number,
            places: Semaphore::new(FORWARDS_MAX),
        }
    }

    /// Those of a cluster; this proxy is `number` and reached at `address` (`host:port`).
    pub fn in_cluster(source: Arc<dyn ClusterSource>, number: u8, address: String) -> Self {
        Self {
            place: Place::Cluster(source, address),
            number,
            places: Semaphore::new(FORWARDS_MAX),
        }
    }

    /// Where the others reach this proxy.
    pub fn own_address(&self) -> String {
        match &self.place {
            Place::Folder(folder) => socket(folder, self.number).display().to_string(),
            Place::Cluster(_, address) => address.clone(),
        }
    }

    /// Listens for the others.
    ///
    /// # Errors
    /// When there is no such folder, its name is too long for a Unix socket, or the port is taken.
    pub async fn listen(&self) -> io::Result<(PeerListener, Option<SocketFile>)> {
        match &self.place {
            Place::Folder(folder) => {
                let (listener, file) = listen_unix(&socket(folder, self.number), OWNER_MODE)?;
                Ok((PeerListener::Unix(UnixListener::from_std(listener)?), Some(file)))
            }
            Place::Cluster(_, address) => {
                let listener = TcpListener::bind(address).await?;
                Ok((PeerListener::Tcp(listener), None))
            }
        }
    }

    /// Takes a cancel to the proxy its process id names, or, when there is none of that number, to all others: a session
    /// with a server of its own has that server's process id. Returns when it has been carried out, or could not be.
    pub async fn forward(&self, process_id: i32, key: &[u8]) {
        let Ok(_place) = self.places.try_acquire() else {
            return debug!("Too many cancels on their way to other proxies");
        };
        let mut request = BytesMut::new();
        startup::cancel_request(&mut request, process_id, key);
        let word = u32::from_be_bytes(process_id.to_be_bytes());
        let named = (word >> 23) as u8;
        let is_virtual = word & (1 << 22) != 0;
        let mut others = self.others().await;
        if is_virtual && named != self.number && others.iter().any(|(number, _)| *number == named) {
            others.retain(|(number, _)| *number == named);
        }
        let request = &request;
        let sent = others.iter().map(|(_, peer)| async move {
            match timeout(FORWARD_TIMEOUT, hand_over(peer, request)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(?peer, %error, "Cancel not handed over"),
                Err(_) => debug!(?peer, "Cancel not answered in time"),
            }
        });
        join_all(sent).await;
    }

    async fn others(&self) -> Vec<(u8, Peer)> {
        let folder = match &self.place {
            Place::Folder(folder) => folder,
            Place::Cluster(source, _) => {
                let reports = source.proxies().await.unwrap_or_else(|error| {
                    warn!(%error, "A cancel of another proxy's client is lost");
                    Vec::new()
                });
                let of =
                    |report: cluster::ProxyReport| (report.proxy_number, Peer::Address(report.peer_address));
                return reports
                    .into_iter()
                    .filter(|report| report.proxy_number != self.number && !report.peer_address.is_empty())
                    .map(of)
                    .collect();
            }
        };
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
            .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, Peer::Socket(path))))
            .filter(|(number, _)| *number != self.number)
            .take(256)
            .collect()
    }
}

fn socket(folder: &Path, number: u8) -> PathBuf {
    folder.join(format!("{number}.sock"))
}

async fn hand_over(peer: &Peer, request: &[u8]) -> io::Result<()> {
    let mut peer: Box<dyn Stream> = match peer {
        Peer::Socket(path) => Box::new(UnixStream::connect(path).await?),
        Peer::Address(address) => Box::new(TcpStream::connect(address).await?),
    };
    peer.write_all(request).await?;
    let mut nothing = [0];
    match peer.read(&mut nothing).await? {
        0 => Ok(()), // the end says that it is done
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Serves the other proxies until the future is dropped.
pub async fn serve(listener: PeerListener, cancel: Cancel) {
    let places = Arc::new(Semaphore::new(FORWARDS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(peer) => {
                let cancel = Arc::clone(&cancel);
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(FORWARD_TIMEOUT, take_over(peer, cancel)).await {
                        debug!(%error, "A peer was not understood");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "Cancels of other proxies are not taken for a moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn take_over(mut peer: Box<dyn Stream>, cancel: Cancel) -> io::Result<()> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let read = async {
        let mut head = [0; 4];
        peer.read_exact(&mut head).await?;
        let length = frame::peek_startup(&head).ok().flatten().ok_or_else(bad)? as usize;
        let mut packet = BytesMut::zeroed(length); // at most a startup packet
        packet[..4].copy_from_slice(&head);
        peer.read_exact(&mut packet[4..]).await?;
        Ok::<_, io::Error>(packet)
    };
    let packet = timeout(REQUEST_TIMEOUT, read)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    let Ok(Startup::Cancel { process_id, key }) = startup::decode(&packet) else {
        return Err(bad());
    };
    cancel(process_id, key).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            let path = std::env::temp_dir().join(format!("pgp-peers-{:x}", u64::from_ne_bytes(bytes)));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    type Calls = Arc<Mutex<Vec<(i32, Bytes)>>>;

    async fn proxy(folder: &Folder, number: u8) -> (Calls, Option<SocketFile>, tokio::task::JoinHandle<()>) {
        let (listener, file) = Peers::new(&folder.0, number).listen().await.unwrap();
        let calls = Calls::default();
        let seen = Arc::clone(&calls);
        let cancel: Cancel = Arc::new(move |process_id, key| {
            seen.lock().unwrap().push((process_id, key));
            Box::pin(async { true })
        });
        (calls, file, tokio::spawn(serve(listener, cancel)))
    }

    #[tokio::test]
    async fn a_cancel_goes_to_the_proxy_its_process_id_names() {
        let folder = Folder::new();
        let (first, _a, _) = proxy(&folder, 1).await;
        let (second, _b, _) = proxy(&folder, 200).await;
        let process_id = i32::from_be_bytes([100, 0x40 | 1, 2, 3]); // 200 << 23, and what says that it is ours
        Peers::new(&folder.0, 7).forward(process_id, b"secret").await;
        assert_eq!(
            *second.lock().unwrap(),
            [(process_id, Bytes::from_static(b"secret"))],
            "it is done on return"
        );
        assert!(first.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn in_a_cluster_a_cancel_goes_to_the_pod_whose_lease_has_the_number() {
        let source = cluster::MemorySource::new(crds::PoolConfig::default(), cluster::Secrets::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        for (id, number, peer_address) in [("a", 1, "127.0.0.1:1"), ("b", 2, address.as_str())] {
            let report = cluster::ProxyReport {
                id: id.to_owned(),
                proxy_number: number,
                peer_address: peer_address.to_owned(),
                ..cluster::ProxyReport::default()
            };
            source.acknowledge(report).await.unwrap();
        }
        let calls = Calls::default();
        let seen = Arc::clone(&calls);
        let cancel: Cancel = Arc::new(move |process_id, key| {
            seen.lock().unwrap().push((process_id, key));
            Box::pin(async { true })
        });
        tokio::spawn(serve(PeerListener::Tcp(listener), cancel));
        let peers = Peers::in_cluster(Arc::new(source), 1, String::new());
        let process_id = (2 << 23) | (1 << 22) | 9;
        peers.forward(process_id, b"secret").await;
        assert_eq!(
            *calls.lock().unwrap(),
            [(process_id, Bytes::from_static(b"secret"))]
        );
    }

    #[tokio::test]
    async fn a_process_id_of_no_proxy_is_asked_of_all_others() {
        let folder = Folder::new();
        let (first, _a, _) = proxy(&folder, 1).await;
        let (second, _b, _) = proxy(&folder, 2).await;
        Peers::new(&folder.0, 1).forward(4711, b"1234").await;
        assert!(first.lock().unwrap().is_empty(), "not of itself");
        assert_eq!(second.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_dead_peer_and_nonsense_hurt_nobody() {
        let folder = Folder::new();
        std::fs::write(folder.0.join("9.sock"), "").unwrap();
        Peers::new(&folder.0, 1)
            .forward((9 << 23) | (1 << 22) | 1, b"1234")
            .await;
        let (calls, _file, _) = proxy(&folder, 3).await;
        for nonsense in [
            &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
            b"GET / HTTP/1.0\r\n\r\n",
            b"\xff\xff\xff\xff",
        ] {
            let mut socket = UnixStream::connect(folder.0.join("3.sock")).await.unwrap();
            socket.write_all(nonsense).await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await; // closed, perhaps with a reset
            assert!(rest.is_empty());
        }
        assert!(calls.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_our_own_user_reaches_the_socket() {
        let folder = Folder::new();
        let (_calls, _file, _) = proxy(&folder, 3).await;
        let mode = std::fs::metadata(folder.0.join("3.sock"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
