//! Session mode: a server connection of its own for each client, for as long as it stays.
//!
//! What the client sends goes to the server as it is, names of statements included, and what the server says goes back:
//! between login and goodbye it is PostgreSQL, with its own process id and cancel key. The texts are looked at only to know
//! what has to be cleaned before the next client gets the connection.

use std::rc::Rc;

use pgnet::backend;
use pgnet::fields::Severity;
use pgnet::sqlstate::SqlState;

use super::super::super::card::Doing;
use super::super::super::error::ServeError;
use super::super::super::pool::Pool;
use super::super::super::script::{Op, Step};
use super::super::super::worker::State;
use super::super::translate;
use super::super::{Leave, Session, Unserved, asker, io};
use super::{Lease, Loss};
use crate::classify::{Class, Kind, Touches};

/// As SHOW PINS names the reason.
const REASON: &str = "session mode";

impl Session {
    /// Serves the client on a worker of its own until it leaves.
    pub(in crate::plane::session) async fn serve_direct(&mut self) -> Result<(), Leave> {
        let mut lease = self.own_worker().await?;
        let served = Box::pin(self.relay(&mut lease)).await;
        if lease.is_quiet() && lease.worker.state.get() != State::Closed {
            // Nothing runs: cleaned if there is something to clean, else given to the next as it is.
            lease.give_back();
        }
        self.card.set_worker(None);
        served
    }

    /// Waits for a worker that was opened with this client's startup packet, and greets the client as it was greeted.
    async fn own_worker(&mut self) -> Result<Box<Lease>, Leave> {
        loop {
            let pool = self.own_pool().await?;
            self.card.set_doing(Doing::Waiting);
            let asker = asker(&self.card, &self.startup, &self.startup);
            let taken = io::while_here(
                &self.thread,
                &self.card,
                &mut self.stream,
                &mut self.input,
                pool.take(&asker),
            )
            .await?;
            let worker = match taken {
                Ok(worker) => worker,
                Err(error) if matches!(*error, ServeError::Moved) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => return Err(self.turned_away(&error)),
            };
            self.card.slot.clear();
            worker.set_holder(Some(self.card.slot.clone()));
            worker.set_strict(false);
            self.card.set_worker(Some(&worker));
            self.card.adopt(worker.process_id, worker.cancel_key.clone());
            *self.card.pins.borrow_mut() = vec![REASON];
            for (name, value) in worker.parameters.borrow().iter() {
                backend::parameter_status(&mut self.out, name, value);
            }
            backend::backend_key_data(&mut self.out, worker.process_id, &worker.cancel_key);
            backend::ready_for_query(&mut self.out, b'I');
            let lease = Box::new(Lease::new(pool, worker));
            self.flush().await?;
            return Ok(lease);
        }
    }

    /// Of a replica where the client came through the door for reads and one is healthy, else of the master.
    async fn own_pool(&mut self) -> Result<std::rc::Rc<Pool>, Leave> {
        if self.prefers_replica(&Class::of(Kind::Unknown))
            && let Some(pool) = self.replica_pool()
        {
            return Ok(pool);
        }
        match self.master_pool(true).await {
            Ok(pool) => Ok(pool),
            Err(Unserved::Leave(leave)) => Err(leave),
            Err(Unserved::Told(error)) => Err(self.turned_away(&error)),
        }
    }

    fn turned_away(&self, error: &ServeError) -> Leave {
        let fields = error.fields(Severity::Fatal);
        self.thread.counters.error(fields.code);
        Leave::Fatal(Box::new(fields))
    }

    async fn relay(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        loop {
            self.feed(lease).await?;
            // Nothing is read back: the connection itself remembers.
            lease.changed = super::super::effects::Changed::default();
            if lease.lost && self.card.slot.is_drained() {
                return Err(bereaved(lease.loss.take()));
            }
            self.wait_lease(lease).await?;
        }
    }

    /// One message, or as much of it as is here: the rest follows as it comes.
    pub(super) fn forward(&mut self, lease: &mut Lease, tag: u8, total: usize, complete: bool) {
        self.note(lease, tag, total, complete);
        let n = total.min(self.input.len());
        let message = self.input.split_to(n);
        lease.raw = total - n;
        let op = match tag {
            b'Q' => Op::Query,
            b'F' => Op::Function,
            b'P' => Op::Parse(None),
            b'B' => Op::Bind(None),
            b'D' if message.get(5) == Some(&b'S') => Op::DescribeStatement(None),
            b'D' => Op::DescribePortal(None),
            b'E' => Op::Execute,
            _ => Op::Close(None),
        };
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            to.out().extend_from_slice(&message);
            to.step(Step::client(op));
        });
        if matches!(tag, b'Q' | b'F') {
            self.card.requests.set(self.card.requests.get() + 1);
            lease.worker.finish_batch();
            lease.request_starts();
        }
    }

    /// Keeps in mind what the message may leave behind on the connection.
    fn note(&mut self, lease: &mut Lease, tag: u8, total: usize, complete: bool) {
        let body = self.input.get(5..total).filter(|_| complete);
        let text = match tag {
            b'Q' => body.map(|body| body.strip_suffix(b"\0").unwrap_or(body)),
            b'P' => body.and_then(|body| translate::parse_parts(body).ok().map(|(_, text, _)| text)),
            b'F' => None,
            _ => return,
        };
        let class = text.map_or_else(|| Rc::new(Class::of(Kind::Unknown)), |text| self.classify(text));
        lease.expect(&class);
        if class.touches.intersects(Touches::TEMP) {
            // Its temporary schema would stay, empty, and PREPARE TRANSACTION would tell the difference.
            lease.sticky = lease.sticky.or(Some("temporary schema"));
        }
        // A prepared statement stays under its name; what currval remembers stays, too.
        let named = tag == b'P' && body.is_none_or(|body| body.first() != Some(&0));
        match tag {
            b'P' => lease.worker.unnamed_left.set(true),
            b'Q' => lease.worker.unnamed_left.set(false),
            _ => {}
        }
        lease.dirty |= named || lease.open.sequences;
        lease.expects_copy |= !class.is_known_read();
        let settings = &lease.open.settings;
        lease
            .worker
            .note_custom(settings.names.iter().map(String::as_str));
    }
}

/// Its server connection is gone, and with it the session: the client hears the server's last words, as without us.
fn bereaved(loss: Option<Loss>) -> Leave {
    match loss {
        Some(Loss { clean_cut: false, .. }) => Leave::Gone,
        Some(Loss { said: Some(said), .. }) => Leave::Fatal(Box::new((*said).clone())),
        _ => Leave::fatal(
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection because its server is gone",
        ),
    }
}
