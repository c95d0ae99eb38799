//! Copies of the databases' catalogs, for judging what a statement may do. Bounded in age; dropped when DDL passes by.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::internal;
use super::pool::{Asker, Pool};
use super::worker::State;
use crate::classify::{CATALOG_QUERY, Catalog};

/// Age at which a copy is read anew.
const AGE_MAX: Duration = Duration::from_secs(60);
/// After DDL the next copy is read at the earliest so long after the last: a storm of DDL must not become a storm of reads.
const REST: Duration = Duration::from_secs(1);

/// No session has this number.
const NOBODY: u64 = u64::MAX;

/// Settings of roles and databases (ALTER ROLE ... SET), which a connection takes over when it is opened.
const ROLE_SETTINGS: &str = "select pg_catalog.md5(pg_catalog.string_agg(s::text, ',' order by s::text)) \
     from pg_catalog.pg_db_role_setting s where setdatabase in (0, \
     (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()))";

#[derive(Default)]
struct Entry {
    catalog: Option<Rc<Catalog>>,
    generation: u64,
    loaded: Option<Instant>,
    loading: bool,
    /// Counts observed DDL: a copy begun before one of them is not believed.
    ddl: u64,
    /// What [`ROLE_SETTINGS`] gave last.
    role_settings: Option<Option<bytes::Bytes>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Catalogs {
    entries: RefCell<HashMap<Arc<str>, Entry>>,
    generations: Cell<u64>,
    /// The entry that was asked for last: with each statement it is asked for anew.
    last: RefCell<Option<Last>>,
}

struct Last {
    database: Arc<str>,
    catalog: Option<Rc<Catalog>>,
    generation: u64,
}

impl Catalogs {
    /// The copy for this database, if there is one to be believed.
    pub(super) fn get(&self, database: &str) -> Option<Rc<Catalog>> {
        self.look_up(database, |last| last.catalog.clone()).flatten()
    }

    /// Whether statements of this database run at the isolation level *read committed* unless they ask for another.
    pub(super) fn reads_committed(&self, database: &str) -> bool {
        let of_it = |last: &Last| {
            last.catalog
                .as_ref()
                .is_some_and(|catalog| catalog.reads_committed())
        };
        self.look_up(database, of_it).unwrap_or(false)
    }

    /// Which copy: verdicts of another are void.
    pub(super) fn generation(&self, database: &str) -> u64 {
        self.look_up(database, |last| last.generation).unwrap_or(0)
    }

    fn look_up<R>(&self, database: &str, take: impl FnOnce(&Last) -> R) -> Option<R> {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|last| *last.database != *database) {
            let entries = self.entries.borrow();
            let (name, entry) = entries.get_key_value(database)?;
            *last = Some(Last {
                database: name.clone(),
                catalog: entry.catalog.clone(),
                generation: entry.generation,
            });
        }
        last.as_ref().map(take)
    }

    /// A number for a copy that takes the place of another.
    fn next_generation(&self) -> u64 {
        *self.last.borrow_mut() = None;
        self.generations.set(self.generations.get() + 1);
        self.generations.get()
    }

    /// DDL was seen: nothing of the copy holds any more.
    pub(super) fn stale(&self, database: &str) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(database) {
            entry.catalog = None;
            entry.ddl += 1;
            entry.generation = self.next_generation();
        }
    }

    /// Reads the catalog of this pool's database through one of its workers, if that is due.
    pub(super) fn refresh(&self, pool: &Rc<Pool>) {
        if pool.direct {
            return; // nothing of a session depends on it
        }
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(pool.database.clone()).or_default();
        let age = entry.loaded.map(|at| at.elapsed());
        let due = match (&entry.catalog, age) {
            (_, None) => true,
            (None, Some(age)) => age >= REST,
            (Some(_), Some(age)) => age >= AGE_MAX,
        };
        if !due || entry.loading {
            return;
        }
        let Some(settings) = pool.any_base() else {
            return;
        };
        entry.loading = true;
        let pool = pool.clone();
        tokio::task::spawn_local(async move {
            // In the queue like a client: a pool that is never idle would read no catalog, and without one every statement
            // has a worker to itself.
            let asker = Asker {
                session: NOBODY,
                settings: &settings,
                startup: &settings,
                cancelled: &Cell::new(false),
            };
            let granted = pool.take(&asker).await;
            let Some(thread) = pool.thread.upgrade() else {
                return;
            };
            let Ok(worker) = granted else {
                return thread.catalogs.loaded(&pool.database, None, None);
            };
            let ddl = thread.catalogs.ddl(&pool.database);
            let rows = tokio::time::timeout(
                Duration::from_secs(20),
                internal::query(&worker, CATALOG_QUERY.as_bytes()),
            )
            .await;
            let catalog = match rows {
                Ok(Ok(rows)) => Catalog::from_rows(rows.iter().map(|row| {
                    let mut cells = [None; 4];
                    for (to, from) in cells.iter_mut().zip(row) {
                        *to = from.as_deref();
                    }
                    cells
                })),
                Ok(Err(internal::Error::Server(fields))) => {
                    warn!(database = %pool.database, error = %fields.message, "The catalog could not be read: no statement is a known read");
                    None
                }
                _ => {
                    worker.close("reading the catalog took too long");
                    None
                }
            };
            let asked = tokio::time::timeout(
                Duration::from_secs(5),
                internal::query(&worker, ROLE_SETTINGS.as_bytes()),
            );
            let role_settings = match asked.await {
                Ok(Ok(rows)) => rows.first().map(|row| row.first().cloned().flatten()),
                _ => None,
            };
            if worker.state.get() != State::Closed {
                pool.give_back(&worker, false);
            }
            thread.catalogs.loaded(&pool.database, catalog, ddl);
            if let Some(now) = role_settings
                && thread.catalogs.role_settings_changed(&pool.database, now)
            {
                thread.renew(&pool.database);
            }
        });
    }

    /// How much DDL was seen. `None`: the database is not known.
    fn ddl(&self, database: &str) -> Option<u64> {
        self.entries.borrow().get(database).map(|e| e.ddl)
    }

    /// Whether the settings of roles or of the database are others than when they were last looked at.
    fn role_settings_changed(&self, database: &str, now: Option<bytes::Bytes>) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(database) else {
            return false;
        };
        let before = entry.role_settings.replace(now.clone());
        before.is_some_and(|before| before != now)
    }

    /// Reading has ended; `ddl` was [`Self::ddl`] when it began.
    fn loaded(&self, database: &str, catalog: Option<Catalog>, ddl: Option<u64>) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(database) else {
            return;
        };
        entry.loading = false;
        if catalog.is_none() && entry.catalog.is_some() {
            // Reading failed: what is known stays believed, and is read again soon.
            entry.loaded = None;
            return;
        }
        entry.loaded = catalog.is_some().then(Instant::now);
        if Some(entry.ddl) == ddl {
            debug!(database, known = catalog.is_some(), "Catalog read");
            entry.catalog = catalog.map(Rc::new);
            entry.generation = self.next_generation();
        }
    }
}
