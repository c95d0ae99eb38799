//! How many clients there are: in all, of a user, of a database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bounds on clients; 0 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of this proxy.
    pub all: u32,
    /// Of one user.
    pub user: u32,
    /// Of one database.
    pub database: u32,
    /// Of the clients of one rule: its place in the list, and how many.
    pub rule: Option<(usize, u32)>,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of this proxy.
    All,
    /// That of the user.
    User,
    /// That of the database.
    Database,
    /// That of the rule.
    Rule,
}

#[derive(Debug, Default)]
struct Taken {
    all: u32,
    users: Counts,
    databases: Counts,
    rules: HashMap<usize, u32>,
}

type Counts = HashMap<Arc<str>, Arc<Count>>;

/// How many clients there are of one name. Written under the lock of [`Seats`] only.
#[derive(Debug)]
struct Count {
    name: Arc<str>,
    clients: AtomicU32,
}

/// The places of clients that have logged in.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

impl Seats {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // numbers are never half changed
    }

    /// How many are taken.
    pub fn count(&self) -> u32 {
        self.taken().all
    }

    /// Whether one more client would be too many, whoever it is: asked before it has to prove anything.
    pub fn is_full(&self, all: u32) -> bool {
        all != 0 && self.count() >= all
    }

    /// Takes a place, until the result is dropped.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn take(self: &Arc<Self>, user: &str, database: &str, bounds: Bounds) -> Result<Seat, Full> {
        let mut taken = self.taken();
        let over = |count: u32, bound: u32| bound != 0 && count >= bound;
        let of = |counts: &Counts, name: &str| counts.get(name).cloned();
        let clients = |count: &Option<Arc<Count>>| count.as_ref().map_or(0, |c| c.clients.load(Relaxed));
        let (of_user, of_database) = (of(&taken.users, user), of(&taken.databases, database));
        if over(taken.all, bounds.all) {
            return Err(Full::All);
        }
        if over(clients(&of_user), bounds.user) {
            return Err(Full::User);
        }
        if over(clients(&of_database), bounds.database) {
            return Err(Full::Database);
        }
        if let Some((at, bound)) = bounds.rule {
            let count = taken.rules.entry(at).or_default();
            if bound != 0 && *count >= bound {
                return Err(Full::Rule);
            }
            *count += 1;
        }
        taken.all += 1;
        let user = of_user.unwrap_or_else(|| begin(&mut taken.users, user));
        let database = of_database.unwrap_or_else(|| begin(&mut taken.databases, database));
        user.clients.fetch_add(1, Relaxed);
        database.clients.fetch_add(1, Relaxed);
        Ok(Seat {
            seats: Arc::clone(self),
            user,
            database,
            rule: bounds.rule.map(|(at, _)| at),
        })
    }
}

fn begin(counts: &mut Counts, name: &str) -> Arc<Count> {
    let name: Arc<str> = name.into();
    let count = Arc::new(Count {
        name: Arc::clone(&name),
        clients: AtomicU32::new(0),
    });
    counts.insert(name, Arc::clone(&count));
    count
}

/// A place that is taken; dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: Arc<Count>,
    database: Arc<Count>,
    rule: Option<usize>,
}

impl Seat {
    /// The user's name, which all of its clients share.
    pub fn user(&self) -> &Arc<str> {
        &self.user.name
    }

    /// The database's name, likewise.
    pub fn database(&self) -> &Arc<str> {
        &self.database.name
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all = taken.all.saturating_sub(1);
        give_back(&mut taken.users, &self.user);
        give_back(&mut taken.databases, &self.database);
        if let Some(rule) = self.rule
            && let Some(count) = taken.rules.get_mut(&rule)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.rules.remove(&rule);
            }
        }
    }
}

fn give_back(counts: &mut Counts, count: &Count) {
    if count.clients.fetch_sub(1, Relaxed) == 1 {
        counts.remove(&count.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_holds_and_places_come_back() {
        let seats = Arc::new(Seats::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let bounds = Bounds {
            all: 3,
            user: 2,
            database: 2,
            rule: None,
        };
        let first = seats.take(&a, &a, bounds).unwrap();
        let _second = seats.take(&a, &b, bounds).unwrap();
        assert_eq!(seats.take(&a, &a, bounds).unwrap_err(), Full::User);
        let _third = seats.take(&b, &b, bounds).unwrap();
        assert_eq!(seats.take(&b, &a, bounds).unwrap_err(), Full::All);
        assert!(seats.is_full(3));
        drop(first);
        assert_eq!(seats.take(&b, &b, bounds).unwrap_err(), Full::Database);
        let last = seats.take(&b, &a, bounds);
        assert!(last.is_ok());
        drop(last);
        let ruled = Bounds {
            rule: Some((0, 1)),
            ..bounds
        };
        let one = seats.take(&b, &a, ruled).unwrap();
        drop(_second);
        assert_eq!(seats.take(&a, &b, ruled).unwrap_err(), Full::Rule);
        drop(one);
        assert!(seats.take(&a, &b, ruled).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_those_who_left() {
        let seats = Arc::new(Seats::default());
        let name: Arc<str> = "a".into();
        drop(seats.take(
            &name,
            &name,
            Bounds {
                all: 0,
                user: 0,
                database: 0,
                rule: None,
            },
        ));
        let taken = seats.taken();
        assert!(taken.all == 0 && taken.users.is_empty() && taken.databases.is_empty());
    }
}
