//! Cancel: exactly the statement of the client that asked, never a neighbour's (MULTIPLEXING, "Cancel, time, death").

use std::rc::Rc;
use std::time::Duration;

use tracing::debug;

use super::card::Card;
use super::worker::Worker;

/// How long the server has to take a CancelRequest. The fence ends with the cancel's EOF or with the worker.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often, and at what intervals, to look whether the end of a transaction has been confirmed.
const END_LOOKS: u32 = 1000;
const END_LOOK: Duration = Duration::from_millis(1);

/// Cancels what this client runs now.
pub(super) async fn cancel(card: &Rc<Card>) {
    card.cancelled.set(true);
    let Some(worker) = card.worker() else {
        // Not on a server: it waits for a worker, or nothing runs. A wait ends at once; an idle session forgets it.
        card.cancel_wait();
        return;
    };
    if card.shares() {
        match worker.position(&card.slot) {
            Some(0) => {}
            Some(_) => {
                // The server has not begun it. Its reply will be dropped; the client is answered now.
                worker.detach(&card.slot);
                card.slot.end(super::slot::End::Cancelled);
                return;
            }
            None => return,
        }
        // One CancelRequest is two SIGINTs: the second may hit whoever comes next. Nobody does.
        worker.detach_followers();
    } else {
        // Not the end of somebody else's transaction (`worker/ending.rs`): the server is at it for a moment.
        for _ in 0..END_LOOKS {
            if !worker.runs_an_end() {
                break;
            }
            tokio::time::sleep(END_LOOK).await;
        }
        if !card.runs() {
            return;
        }
    }
    on_server(&worker).await;
}

/// Sends the CancelRequest and keeps the worker fenced until the server has taken it.
pub(super) async fn on_server(worker: &Rc<Worker>) {
    worker.fences.set(worker.fences.get() + 1);
    let sent = pgnet::client::cancel(
        &worker.server.target,
        &worker.server.tls,
        worker.process_id,
        &worker.cancel_key,
        CANCEL_TIMEOUT,
    )
    .await;
    worker.fences.set(worker.fences.get() - 1);
    if let Err(error) = sent {
        // Whether the signal is still on its way is unknown, and a server that does not take a cancel will hardly answer
        // the statement: nobody else may get this worker, and whoever waits for it is told.
        debug!(worker = worker.id, %error, "A CancelRequest did not reach the server");
        worker.close("its server does not take a cancel");
    }
    if let Some(pool) = worker.pool.upgrade() {
        worker.fence_ended(&pool);
    }
}
