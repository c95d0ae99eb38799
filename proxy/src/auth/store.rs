//! Verifiers that were looked up, for as long as they are good.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::verifier::{Known, Verifier};
use crate::limits::{LOOKUP_AGAIN, UNKNOWN_FOR, VERIFIERS_MAX};

/// What the master says of a role.
#[derive(Clone, PartialEq, Eq)]
pub struct Role {
    /// `rolpassword`; `None`: it has none, or its time is over.
    pub stored: Option<String>,
    /// How long it is still good by VALID UNTIL; `None`: for ever.
    pub remaining: Option<Duration>,
}

/// Why a look-up has no answer. It is never an answer: neither "no such user" nor anybody else's verifier.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// No server answers now: try again.
    #[error("no server answers: {0}")]
    Unavailable(String),
    /// The server does not let us, or there is nobody to ask as.
    #[error("{0}")]
    Refused(String),
}

/// Asks the master.
pub trait Lookup: Send + Sync + 'static {
    /// What it says of this role now; `None`: there is none.
    fn role(&self, user: &str) -> BoxFuture<'static, Result<Option<Role>, LookupError>>;
    /// The roles it is a member of, itself included.
    fn groups(&self, user: &str) -> BoxFuture<'static, Result<HashSet<String>, LookupError>>;
}

/// One user as the master described it.
#[derive(Clone)]
struct Entry {
    /// `None`: there is nothing to log in with.
    known: Option<Arc<Known>>,
    /// VALID UNTIL, by our clock.
    not_after: Option<Instant>,
    asked: Instant,
    /// A login with it failed: ask again.
    doubted: bool,
}

impl Entry {
    /// What it is good for at this time.
    fn at(&self, now: Instant) -> Option<Arc<Known>> {
        self.known
            .clone()
            .filter(|_| self.not_after.is_none_or(|end| now < end))
    }
}

#[derive(Default)]
struct Maps {
    /// Users with a verifier. Only a server can fill this.
    known: HashMap<String, Entry>,
    /// Names nobody has, or without a password: anybody can fill this, so it is a map of its own.
    unknown: HashMap<String, Entry>,
    groups: HashMap<String, (Instant, Arc<HashSet<String>>)>,
}

/// The verifiers of the master, cached.
pub(super) struct Store {
    lookup: Arc<dyn Lookup>,
    maps: Mutex<Maps>,
}

impl Store {
    /// Nothing is known yet.
    pub(super) fn new(lookup: Arc<dyn Lookup>) -> Self {
        Self {
            lookup,
            maps: Mutex::default(),
        }
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner) // each change is one insertion: never half done
    }

    /// What is known of this user without asking.
    pub(super) fn cached(&self, user: &str) -> Option<Arc<Known>> {
        self.maps()
            .known
            .get(user)
            .and_then(|entry| entry.at(Instant::now()))
    }

    /// The verifier of a user; `None`: nobody by that name can log in with a password.
    ///
    /// An answer younger than `fresh` is taken. When no server answers, an older one still serves: the servers check
    /// again, and without them nothing is served anyway.
    pub(super) async fn verifier(
        &self,
        user: &str,
        fresh: Duration,
    ) -> Result<Option<Arc<Known>>, LookupError> {
        let now = Instant::now();
        let cached = {
            let maps = self.maps();
            maps.known.get(user).or_else(|| maps.unknown.get(user)).cloned()
        };
        if let Some(entry) = &cached {
            let good = if entry.known.is_some() {
                fresh
            } else {
                fresh.min(UNKNOWN_FOR)
            };
            if !entry.doubted && now.duration_since(entry.asked) < good {
                return Ok(entry.at(now));
            }
        }
        match self.lookup.role(user).await {
            Ok(role) => Ok(self.keep(user, role, now)),
            Err(LookupError::Unavailable(error)) => match cached.filter(|entry| entry.known.is_some()) {
                Some(entry) => Ok(entry.at(now)),
                None => Err(LookupError::Unavailable(error)),
            },
            Err(error) => Err(error),
        }
    }

    /// A login with this verifier failed: perhaps the password was changed. The next login asks again, but the master
    /// is not asked more often than every [`LOOKUP_AGAIN`] about one user.
    pub(super) fn doubt(&self, user: &str) {
        if let Some(entry) = self.maps().known.get_mut(user) {
            entry.doubted |= entry.asked.elapsed() >= LOOKUP_AGAIN;
        }
    }

    fn keep(&self, user: &str, role: Option<Role>, asked: Instant) -> Option<Arc<Known>> {
        let mut maps = self.maps();
        let Maps { known, unknown, .. } = &mut *maps;
        let role = role.and_then(|role| Some((role.stored?, role.remaining)));
        let verified = role.and_then(|(stored, remaining)| {
            let before = known.get(user).and_then(|entry| entry.known.clone());
            let same = match before.filter(|known| known.is_of(&stored)) {
                Some(same) => same,
                None => Arc::new(Known::new(Verifier::of_server(&stored)?, &stored)),
            };
            Some((same, remaining.map(|remaining| asked + remaining)))
        });
        let (into, out_of) = if verified.is_some() {
            (known, unknown)
        } else {
            (unknown, known)
        };
        out_of.remove(user);
        bound(into, |entry| entry.asked);
        let (known, not_after) = verified.unzip();
        let entry = Entry {
            known,
            not_after: not_after.flatten(),
            asked,
            doubted: false,
        };
        let now = entry.at(Instant::now());
        into.insert(user.to_owned(), entry);
        now
    }

    /// The roles a user is a member of.
    pub(super) async fn groups(
        &self,
        user: &str,
        fresh: Duration,
    ) -> Result<Arc<HashSet<String>>, LookupError> {
        let cached = self.maps().groups.get(user).cloned();
        if let Some((asked, groups)) = &cached
            && asked.elapsed() < fresh
        {
            return Ok(Arc::clone(groups));
        }
        match (self.lookup.groups(user).await, cached) {
            (Ok(groups), _) => {
                let groups = Arc::new(groups);
                let mut maps = self.maps();
                bound(&mut maps.groups, |(asked, _)| *asked);
                maps.groups
                    .insert(user.to_owned(), (Instant::now(), Arc::clone(&groups)));
                Ok(groups)
            }
            (Err(LookupError::Unavailable(_)), Some((_, groups))) => Ok(groups),
            (Err(error), _) => Err(error),
        }
    }
}

/// Makes room for one more: the tenth that was asked about longest ago goes.
fn bound<V>(map: &mut HashMap<String, V>, asked: impl Fn(&V) -> Instant) {
    if map.len() < VERIFIERS_MAX {
        return;
    }
    let mut ages: Vec<Instant> = map.values().map(&asked).collect();
    let (_, cut, _) = ages.select_nth_unstable(VERIFIERS_MAX / 10);
    let cut = *cut;
    map.retain(|_, value| asked(value) > cut);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use pgnet::auth::md5;

    use super::*;

    const FRESH: Duration = Duration::from_secs(60);

    /// Gives the answer it holds and counts.
    #[derive(Default)]
    struct Fake {
        answer: Mutex<Option<Result<Option<Role>, LookupError>>>,
        asked: AtomicUsize,
    }

    impl Fake {
        fn says(&self, answer: Result<Option<Role>, LookupError>) {
            *self.answer.lock().unwrap() = Some(answer);
        }
        fn asked(&self) -> usize {
            self.asked.load(Relaxed)
        }
    }

    impl Lookup for Fake {
        fn role(&self, _user: &str) -> BoxFuture<'static, Result<Option<Role>, LookupError>> {
            self.asked.fetch_add(1, Relaxed);
            let answer = self.answer.lock().unwrap().clone().unwrap();
            Box::pin(async { answer })
        }
        fn groups(&self, user: &str) -> BoxFuture<'static, Result<HashSet<String>, LookupError>> {
            self.asked.fetch_add(1, Relaxed);
            let groups = HashSet::from([user.to_owned()]);
            Box::pin(async { Ok(groups) })
        }
    }

    fn role(password: &str, remaining: Option<Duration>) -> Result<Option<Role>, LookupError> {
        Ok(Some(Role {
            stored: Some(md5::hash("app", password)),
            remaining,
        }))
    }

    fn store() -> (Arc<Fake>, Store) {
        let fake = Arc::new(Fake::default());
        (Arc::clone(&fake), Store::new(fake))
    }

    fn down() -> Result<Option<Role>, LookupError> {
        Err(LookupError::Unavailable("down".into()))
    }

    #[tokio::test]
    async fn an_answer_is_good_for_a_while() {
        let (fake, store) = store();
        fake.says(role("x", None));
        let first = store.verifier("app", FRESH).await.unwrap().unwrap();
        let second = store.verifier("app", FRESH).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(fake.asked(), 1);
        let third = store.verifier("app", Duration::ZERO).await.unwrap().unwrap();
        assert!(
            Arc::ptr_eq(&first, &third),
            "what was learned stays with the same verifier"
        );
        assert_eq!(fake.asked(), 2);
        fake.says(role("y", None));
        let fourth = store.verifier("app", Duration::ZERO).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&first, &fourth));
    }

    #[tokio::test]
    async fn an_unknown_user_stays_unknown_for_a_while() {
        let (fake, store) = store();
        fake.says(Ok(None));
        for _ in 0..3 {
            assert!(store.verifier("ghost", FRESH).await.unwrap().is_none());
        }
        assert_eq!(fake.asked(), 1);
    }

    #[tokio::test]
    async fn cve_2025_2291_a_password_whose_time_is_over_is_none() {
        let (fake, store) = store();
        fake.says(role("x", Some(Duration::ZERO)));
        assert!(store.verifier("app", FRESH).await.unwrap().is_none());
        assert!(
            store.verifier("app", FRESH).await.unwrap().is_none(),
            "from the cache neither"
        );
        assert!(store.cached("app").is_none());
        fake.says(role("x", Some(Duration::from_secs(60))));
        assert!(store.verifier("app", Duration::ZERO).await.unwrap().is_some());
        fake.says(Ok(Some(Role {
            stored: None,
            remaining: None,
        })));
        assert!(store.verifier("app", Duration::ZERO).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_failed_login_makes_the_next_one_ask_again_but_not_at_once() {
        let (fake, store) = store();
        fake.says(role("x", None));
        store.verifier("app", FRESH).await.unwrap();
        store.doubt("app");
        store.verifier("app", FRESH).await.unwrap();
        assert_eq!(fake.asked(), 1, "it was asked just now");
        store.maps().known.get_mut("app").unwrap().asked -= LOOKUP_AGAIN;
        store.doubt("app");
        store.verifier("app", FRESH).await.unwrap();
        assert_eq!(fake.asked(), 2);
    }

    #[tokio::test]
    async fn without_a_master_old_answers_serve_and_nothing_is_made_up() {
        let (fake, store) = store();
        fake.says(role("x", None));
        store.verifier("app", FRESH).await.unwrap();
        fake.says(down());
        assert!(store.verifier("app", Duration::ZERO).await.unwrap().is_some());
        assert!(
            store.verifier("other", FRESH).await.is_err(),
            "neither unknown nor known"
        );
        fake.says(Err(LookupError::Refused("permission denied".into())));
        assert!(store.verifier("app", Duration::ZERO).await.is_err());
    }

    #[tokio::test]
    async fn names_that_anybody_can_invent_do_not_push_known_users_out() {
        let (fake, store) = store();
        fake.says(role("x", None));
        store.verifier("app", FRESH).await.unwrap();
        fake.says(Ok(None));
        for index in 0..VERIFIERS_MAX + 10 {
            store.verifier(&format!("u{index}"), FRESH).await.unwrap();
        }
        assert!(store.maps().unknown.len() <= VERIFIERS_MAX);
        assert!(store.cached("app").is_some());
    }

    #[tokio::test]
    async fn groups_are_cached() {
        let (fake, store) = store();
        assert!(store.groups("app", FRESH).await.unwrap().contains("app"));
        store.groups("app", FRESH).await.unwrap();
        assert_eq!(fake.asked(), 1);
    }
}
