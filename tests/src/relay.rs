//! A TCP relay in front of a server that can be told to misbehave: the network, or a hostile server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::free_port;

/// As PostgreSQL says it to a session that is terminated.
const GOODBYE: &[u8] = b"E\0\0\0\x47SFATAL\0VFATAL\0C57P01\0Mterminating connection due to admin command\0\0";

/// How a [`Relay`] treats its connections, old and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RelayMode {
    /// As a wire.
    Pass = 0,
    /// Takes connections and bytes, and passes nothing on: a partition.
    Silent = 1,
    /// Closes everything.
    Closed = 2,
    /// What the server says is replaced by nonsense.
    Garbage = 3,
}

/// A relay on a port of its own. Its threads end with the process.
#[derive(Debug)]
pub struct Relay {
    /// The port it listens on.
    pub port: u16,
    mode: Arc<AtomicU8>,
    last_words: Arc<AtomicUsize>,
}

impl Relay {
    /// In front of a port of 127.0.0.1.
    pub fn to(target: u16) -> Self {
        let port = free_port();
        let mode = Arc::new(AtomicU8::new(0));
        let last_words = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let (shared, counted) = (Arc::clone(&mode), Arc::clone(&last_words));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accept(client, target, &shared, &counted);
            }
        });
        Self {
            port,
            mode,
            last_words,
        }
    }

    /// The server's `answers`-th answer from now, on whatever connection, is the last one there: an administrator ends its process
    /// right behind it.
    pub fn end_behind(&self, answers: usize) {
        self.last_words.store(answers, Ordering::Relaxed);
    }

    /// Changes how it behaves, at once.
    pub fn set(&self, mode: RelayMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

fn accept(client: TcpStream, target: u16, mode: &Arc<AtomicU8>, last_words: &Arc<AtomicUsize>) {
    if mode.load(Ordering::Relaxed) == RelayMode::Closed as u8 {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
        return;
    };
    let pairs = [
        (client.try_clone(), server.try_clone(), false),
        (server.try_clone(), client.try_clone(), true),
    ];
    for (from, to, answers) in pairs {
        let (Ok(from), Ok(to), mode) = (from, to, Arc::clone(mode)) else {
            return;
        };
        let last_words = answers.then(|| Arc::clone(last_words));
        std::thread::spawn(move || pump(from, to, &mode, last_words.as_deref()));
    }
}

/// `last_words`: where it is the server that speaks.
fn pump(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8, last_words: Option<&AtomicUsize>) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let mut buffer = [0_u8; 65_536];
    loop {
        let got = from.read(&mut buffer);
        // Looked at after the read: what was said before the mode changed is as dead as what comes after.
        let now = mode.load(Ordering::Relaxed);
        if now == RelayMode::Closed as u8 {
            break;
        }
        match got {
            Ok(0) => break,
            Ok(_) if now == RelayMode::Silent as u8 => {}
            Ok(count) => {
                if now == RelayMode::Garbage as u8 && last_words.is_some() {
                    buffer[..count]
                        .iter_mut()
                        .enumerate()
                        .for_each(|(n, b)| *b = (n * 31 + 7) as u8);
                }
                let left = |n: usize| n.checked_sub(1);
                let ends = last_words
                    .is_some_and(|n| n.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) == Ok(1));
                let goodbye = if ends { GOODBYE } else { &[] };
                if to.write_all(&[&buffer[..count], goodbye].concat()).is_err() || ends {
                    break;
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
