//! The clients of this thread that listen: who is on which channel, and what the hub says.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crds::ListenGap;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use tokio::sync::oneshot;

use super::super::card::{Card, Kill};
use super::super::error::ServeError;
use super::super::hub::{Joined, Listener, Login, News, Order};
use super::Thread;

/// Clients by database and channel.
pub(super) type Listeners = HashMap<Arc<str>, HashMap<Bytes, Vec<u32>>>;

/// Why a client does not listen.
#[derive(Debug)]
pub(in crate::plane) enum Deaf {
    /// The server said so.
    Server(Box<ErrorFields>),
    /// Nobody to listen at for too long.
    Late(ServeError),
}

impl Thread {
    /// Listens for a client of this thread. On return it does: what is committed from here on it will hear.
    ///
    /// # Errors
    /// [`Deaf`]; then nothing has changed.
    pub(in crate::plane) async fn listen(
        self: &Rc<Self>,
        card: &Rc<Card>,
        database: &Arc<str>,
        channels: Vec<Bytes>,
        cut: Option<u64>,
        login: Login,
        limit: Option<Duration>,
    ) -> Result<(), Deaf> {
        let (done, joined) = oneshot::channel();
        let who = Listener {
            thread: self.index,
            id: card.id,
            serial: card.serial,
        };
        let order = Order::Join {
            who,
            channels,
            cut,
            login,
            done,
        };
        let begun = std::time::Instant::now();
        let asked = self.shared.hubs.of(self, database).send(order).is_ok();
        let limit = limit.unwrap_or(Duration::from_secs(3600));
        match tokio::time::timeout(limit, joined).await {
            Ok(Ok(Ok(()))) if asked => Ok(()),
            Ok(Ok(Err(fields))) => Err(Deaf::Server(fields)),
            _ => Err(Deaf::Late(ServeError::NoServer {
                waited: begun.elapsed(),
            })),
        }
    }

    /// A client of this thread no longer listens on these.
    pub(in crate::plane) fn unlisten(&self, card: &Card, database: &Arc<str>, channels: &[Bytes]) {
        let gone = card.ears.close(channels);
        if gone.is_empty() {
            return;
        }
        let mut listeners = self.listeners.borrow_mut();
        if let Some(of_database) = listeners.get_mut(database) {
            for channel in &gone {
                if let Some(ids) = of_database.get_mut(channel) {
                    ids.retain(|id| *id != card.id);
                    if ids.is_empty() {
                        of_database.remove(channel);
                    }
                }
            }
        }
        if let Some(hub) = self.shared.hubs.find(database) {
            let _ = hub.send(Order::Leave {
                thread: self.index,
                channels: gone,
            });
        }
    }

    /// A client is gone.
    pub(super) fn unlisten_all(&self, card: &Card) {
        let channels: Vec<Bytes> = card.ears.channels().into_iter().collect();
        if !channels.is_empty() {
            self.unlisten(card, &card.database().into(), &channels);
        }
    }

    /// Waits until everything that was committed before has been handed on to the clients that listen.
    pub(in crate::plane) async fn fence_notifications(&self, database: &str, limit: Duration) {
        let Some(hub) = self.shared.hubs.find(database) else {
            return;
        };
        let (done, fenced) = oneshot::channel();
        let thread = self.index;
        if hub.send(Order::Fence { thread, done }).is_ok() {
            let _ = tokio::time::timeout(limit, fenced).await;
        }
    }

    /// Whether anybody listens, or did, in this database.
    pub(in crate::plane) fn has_hub(&self, database: &str) -> bool {
        self.shared.hubs.find(database).is_some()
    }

    /// What the hub of a database says.
    pub(super) fn hear(&self, database: &Arc<str>, news: News) {
        match news {
            News::Joined {
                who,
                channels,
                cut,
                done,
            } => self.joined(database, who, channels, cut, done),
            News::Note { channel, frame } => self.note(database, &channel, &frame),
            News::Cut { token } => {
                for card in self.cards.borrow().values() {
                    if card.ears.cut(token) {
                        card.wake();
                    }
                }
            }
            News::Fenced { done } => drop(done.send(Ok(()))),
            News::Gap { back } => self.gap(database, back),
        }
    }

    fn joined(
        &self,
        database: &Arc<str>,
        who: Listener,
        channels: Vec<Bytes>,
        cut: Option<u64>,
        done: oneshot::Sender<Joined>,
    ) {
        let card = self.cards.borrow().get(&who.id).cloned();
        let wanted = card.filter(|card| card.serial == who.serial && !done.is_closed());
        let opened = wanted.map_or_else(Vec::new, |card| {
            let new = card.ears.open(&channels, cut);
            let mut listeners = self.listeners.borrow_mut();
            let of_database = listeners.entry(database.clone()).or_default();
            for channel in &new {
                of_database.entry(channel.clone()).or_default().push(card.id);
            }
            new
        });
        let unwanted: Vec<Bytes> = channels.into_iter().filter(|c| !opened.contains(c)).collect();
        if let Some(hub) = self.shared.hubs.find(database).filter(|_| !unwanted.is_empty()) {
            // The client is gone, or listened on it already: one too many was counted.
            let _ = hub.send(Order::Leave {
                thread: self.index,
                channels: unwanted,
            });
        }
        let _ = done.send(Ok(()));
    }

    fn note(&self, database: &Arc<str>, channel: &Bytes, frame: &Bytes) {
        let listeners = self.listeners.borrow();
        let ids = listeners.get(database).and_then(|channels| channels.get(channel));
        let cards = self.cards.borrow();
        for card in ids.into_iter().flatten().filter_map(|id| cards.get(id)) {
            let had_mail = card.ears.has_mail();
            if !card.ears.hear(channel, frame) {
                card.kill(Kill::Deaf);
            } else if !had_mail {
                card.wake();
            }
        }
    }

    /// Notifications may be missing: clients that listen are told when the hub listens again, or sent away at once.
    fn gap(&self, database: &Arc<str>, back: bool) {
        let disconnect = self.config().on_listen_gap == ListenGap::Disconnect;
        if disconnect == back {
            return;
        }
        let mut notice = BytesMut::new();
        ErrorFields::new(
            Severity::Warning,
            SqlState::WARNING,
            "notifications may have been lost: the connection that listens for this one was interrupted",
        )
        .with_hint("Look at the tables themselves once. With onListenGap: disconnect the connection would have been closed.")
        .encode_notice(&mut notice);
        let notice = notice.freeze();
        for card in self.cards.borrow().values() {
            if !card.ears.listens() || card.database() != &**database {
                continue;
            }
            if disconnect {
                card.kill(Kill::Gap);
            } else {
                card.ears.push(notice.clone());
                card.wake();
            }
        }
    }
}
