//! How many clients there are: in all, of a user, of a database.

use std::collections::HashMap;
use std::hash::Hash;
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
    users: HashMap<Arc<str>, u32>,
    databases: HashMap<Arc<str>, u32>,
    rules: HashMap<usize, u32>,
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
    pub fn take(
        self: &Arc<Self>,
        user: &Arc<str>,
        database: &Arc<str>,
        bounds: Bounds,
    ) -> Result<Seat, Full> {
        let mut taken = self.taken();
        let over = |count: u32, bound: u32| bound != 0 && count >= bound;
        let of = |map: &HashMap<Arc<str>, u32>, name: &Arc<str>| map.get(name).copied().unwrap_or(0);
        if over(taken.all, bounds.all) {
            return Err(Full::All);
        }
        if over(of(&taken.users, user), bounds.user) {
            return Err(Full::User);
        }
        if over(of(&taken.databases, database), bounds.database) {
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
        *taken.users.entry(Arc::clone(user)).or_default() += 1;
        *taken.databases.entry(Arc::clone(database)).or_default() += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            user: Arc::clone(user),
            database: Arc::clone(database),
            rule: bounds.rule.map(|(at, _)| at),
        })
    }
}

/// A place that is taken; dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: Arc<str>,
    database: Arc<str>,
    rule: Option<usize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all = taken.all.saturating_sub(1);
        give_back(&mut taken.users, &self.user);
        give_back(&mut taken.databases, &self.database);
        if let Some(rule) = &self.rule {
            give_back(&mut taken.rules, rule);
        }
    }
}

fn give_back<K: Hash + Eq>(map: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = map.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            map.remove(key);
        }
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
