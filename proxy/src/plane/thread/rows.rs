//! What a data thread shows of itself in the admin database.

use std::time::Instant;

use super::super::rows::{ClientRow, PinRow, PoolRow, ServerRow};
use super::super::worker::State;
use super::Thread;

impl Thread {
    pub(super) fn pool_rows(&self) -> Vec<PoolRow> {
        let now = Instant::now();
        let pools = self.pools.borrow();
        pools
            .values()
            .map(|pool| {
                let workers = pool.workers.borrow();
                let count =
                    |states: &[State]| workers.iter().filter(|w| states.contains(&w.state.get())).count();
                let (clients_waiting, max_wait) = pool.waiting(now);
                PoolRow {
                    thread: self.index,
                    server: pool.server.name.clone(),
                    database: pool.database.to_string(),
                    user: pool.user.to_string(),
                    clients: pool.clients.get(),
                    clients_active: workers
                        .iter()
                        .map(|w| w.depth().max(usize::from(w.state.get() == State::Leased)))
                        .sum(),
                    clients_waiting,
                    workers_idle: count(&[State::Idle]),
                    workers_shared: count(&[State::Shared]),
                    workers_leased: count(&[State::Leased, State::Pinned]),
                    workers_connecting: pool.connecting(),
                    lease_limit: pool.lease_limit(now).unwrap_or(0),
                    max_wait,
                    mode: pool.effective().pool_mode.as_str(),
                    paused: self.is_paused(&pool.database),
                }
            })
            .collect()
    }

    pub(super) fn client_rows(&self) -> Vec<ClientRow> {
        self.cards
            .borrow()
            .values()
            .map(|card| card.row(self.index))
            .collect()
    }

    pub(super) fn server_rows(&self) -> Vec<ServerRow> {
        let pools = self.pools.borrow();
        pools
            .values()
            .flat_map(|pool| {
                pool.workers
                    .borrow()
                    .iter()
                    .map(|w| ServerRow {
                        thread: self.index,
                        server: pool.server.name.clone(),
                        database: pool.database.to_string(),
                        user: pool.user.to_string(),
                        process_id: w.process_id,
                        state: if w.fences.get() > 0 {
                            "fenced"
                        } else {
                            w.state.get().as_str()
                        },
                        depth: w.depth(),
                        age: w.born.elapsed(),
                        requests: w.requests.get(),
                        prepared: w.prepared_count(),
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub(super) fn pin_rows(&self) -> Vec<PinRow> {
        self.cards
            .borrow()
            .values()
            .filter_map(|card| card.pin_row())
            .collect()
    }
}
