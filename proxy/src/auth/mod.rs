//! Who may log in: one path for every client.
//!
//! [`Gate::admit`] finds the first rule that is for a client, carries the method of that rule out, and returns how to
//! log in to servers as this user. Nothing of one client's login is ever used for another's but what was proven:
//! the key of a login belongs to the user *and* the verifier it was proven against.
//!
//! `rules` finds the rule, `verifier` and `store` know passwords, `lookup` asks the master, `exchange` speaks with the client.

mod exchange;
mod lookup;
mod rules;
mod settings;
mod store;
mod verifier;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use crds::hba::{Method, Rule};
use pgnet::auth::md5;
use pgnet::auth::scram::{Keys, Server};
use pgnet::backend;
use pgnet::client::Credential;
use pgnet::sqlstate::SqlState;
use tokio::time::Instant;

use crate::error::Refused;
use crate::metrics::{Edge, Refusal};
use crate::talk::Talk;

pub use lookup::{Desk, Where, desk};
pub use rules::Attempt;
pub use settings::Settings;
pub use store::{Lookup, LookupError, Role};

use exchange::Failed;
use rules::{Found, Question, World};
use store::Store;
use verifier::{Known, Verifier};

/// How long to wait before the master is asked again that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Lets clients in.
pub struct Gate {
    settings: ArcSwap<Settings>,
    store: Store,
    edge: Arc<Edge>,
}

/// A client that has proven who it is.
#[derive(Debug)]
pub struct Admitted {
    /// How to log in to servers as this user; `None`: there is nothing to prove it with.
    pub credential: Option<Arc<Credential>>,
    /// May do everything in the admin database.
    pub admin: bool,
    /// What is still to be sent ahead of AuthenticationOk.
    pub last_words: BytesMut,
}

/// A client at the gate.
pub struct Guest<'a> {
    /// Who, where to, where from.
    pub attempt: Attempt<'a>,
    /// It asks for the admin database.
    pub pseudo: bool,
    /// The tls-server-end-point hash of our certificate, when it came through TLS.
    pub end_point: Option<Vec<u8>>,
    /// Until when the master may be waited for.
    pub deadline: Instant,
}

impl Gate {
    /// Nobody is let in until [`Gate::configure`].
    pub fn new(lookup: Arc<dyn Lookup>, edge: Arc<Edge>) -> Self {
        Self {
            settings: ArcSwap::default(),
            store: Store::new(lookup),
            edge,
        }
    }

    /// New rules and users, for logins that begin from now on.
    pub fn configure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The rules and users in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Asks the client for what its rule demands. AuthenticationOk is left to the caller.
    ///
    /// # Errors
    /// With the words and the SQLSTATE of PostgreSQL. What the client is told does not depend on whether a user exists.
    pub async fn admit(&self, talk: &mut Talk, guest: &Guest<'_>) -> Result<Admitted, Refused> {
        let settings = self.settings.load_full();
        let rule = self.rule(&settings, guest).await?;
        let user = guest.attempt.user;
        certificate(talk, rule, user)?;
        let mut last_words = BytesMut::new();
        let credential = match rule.method {
            Method::Trust | Method::Cert => self.unasked(&settings, user),
            Method::Reject => return Err(rules::rejected(&guest.attempt)),
            Method::Password => self.password(talk, &settings, guest).await?,
            Method::ScramSha256 | Method::Md5 => {
                let known = self.verifier(&settings, guest).await?;
                match known.as_deref() {
                    Some(Known {
                        verifier: Verifier::Md5(stored),
                        ..
                    }) if rule.method == Method::Md5 => {
                        let stored = stored.clone();
                        self.judge(user, exchange::md5(talk, &stored).await)?;
                        Some(Arc::new(Credential::Md5Hash(stored)))
                    }
                    _ => {
                        self.scram(talk, &settings, guest, known.as_deref(), &mut last_words)
                            .await?
                    }
                }
            }
        };
        Ok(Admitted {
            credential,
            admin: guest.pseudo && settings.is_admin(user),
            last_words,
        })
    }

    /// The first rule that is for this client.
    async fn rule<'s>(&self, settings: &'s Settings, guest: &Guest<'_>) -> Result<&'s Rule, Refused> {
        let mut world = World::default();
        if rules::asks_for_networks(&settings.rules) {
            world.own_networks = rules::own_networks();
        }
        loop {
            match rules::find(&settings.rules, &guest.attempt, &world) {
                Found::Rule(rule) => return Ok(rule),
                Found::Nothing => return Err(rules::no_entry(&guest.attempt)),
                Found::Ask(Question::Groups) => world.groups = Some(self.groups(settings, guest).await?),
                Found::Ask(Question::Host(host)) => {
                    let found = match guest.attempt.address {
                        Some(address) => rules::belongs(address, &host).await,
                        None => false,
                    };
                    world.hosts.insert(host, found);
                }
            }
        }
    }

    async fn groups(&self, settings: &Settings, guest: &Guest<'_>) -> Result<HashSet<String>, Refused> {
        let user = guest.attempt.user;
        if !settings.ask_master {
            return Ok(HashSet::from([user.to_owned()]));
        }
        loop {
            match self.store.groups(user, settings.fresh).await {
                Ok(groups) => return Ok(groups.as_ref().clone()),
                Err(error) => self.later(error, guest).await?,
            }
        }
    }

    /// What checks this user's password; `None`: nobody by that name has one. Secrets are asked before the master.
    async fn verifier(&self, settings: &Settings, guest: &Guest<'_>) -> Result<Option<Arc<Known>>, Refused> {
        let user = guest.attempt.user;
        if let Some(known) = settings.users.get(user) {
            return Ok(Some(Arc::clone(known)));
        }
        if guest.pseudo
            && let Some((name, Some(known))) = &settings.admin
            && name == user
        {
            return Ok(Some(Arc::clone(known)));
        }
        if !settings.ask_master {
            return Ok(None);
        }
        loop {
            match self.store.verifier(user, settings.fresh).await {
                Ok(known) => return Ok(known),
                Err(error) => self.later(error, guest).await?,
            }
        }
    }

    /// Waits a moment for the master, or says that it cannot be asked.
    async fn later(&self, error: LookupError, guest: &Guest<'_>) -> Result<(), Refused> {
        self.edge.lookup_failures.raise();
        match error {
            LookupError::Unavailable(_) if Instant::now() + ASK_AGAIN < guest.deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
                Ok(())
            }
            LookupError::Unavailable(detail) => {
                let text = "cannot authenticate now: no server answers";
                Err(Refused::fatal(Refusal::Lookup, SqlState::CANNOT_CONNECT_NOW, text).detail(detail))
            }
            LookupError::Refused(detail) => {
                tracing::warn!(%detail, "Users cannot be looked up");
                let text = "cannot authenticate: the look-up of users is not set up";
                Err(Refused::fatal(Refusal::Lookup, SqlState::CONFIG_FILE_ERROR, text).detail(detail))
            }
        }
    }

    /// The credential of a user who was not asked for a password.
    fn unasked(&self, settings: &Settings, user: &str) -> Option<Arc<Credential>> {
        let known = settings
            .users
            .get(user)
            .cloned()
            .or_else(|| self.store.cached(user));
        known.and_then(|known| known.credential())
    }

    async fn scram(
        &self,
        talk: &mut Talk,
        settings: &Settings,
        guest: &Guest<'_>,
        known: Option<&Known>,
        last_words: &mut BytesMut,
    ) -> Result<Option<Arc<Credential>>, Refused> {
        let user = guest.attempt.user;
        let verifier = match known {
            Some(known) => known.scram(user, &settings.secret).await,
            None => None,
        };
        let end_point = guest.end_point.clone();
        let server = match &verifier {
            Some(verifier) => Server::new(verifier.as_ref().clone(), end_point),
            None => Server::mock(user, &settings.secret, end_point),
        };
        let finished = self.judge(user, exchange::scram(talk, server).await)?;
        // A mock never succeeds; were it to, there would be nothing to log in with.
        let (Some(known), Some(verifier)) = (known, verifier) else {
            return Err(wrong_password(user));
        };
        backend::authentication_sasl_final(last_words, &finished.message);
        known.learn(&Keys {
            client_key: finished.client_key,
            server_key: verifier.server_key,
        });
        Ok(known.credential())
    }

    async fn password(
        &self,
        talk: &mut Talk,
        settings: &Settings,
        guest: &Guest<'_>,
    ) -> Result<Option<Arc<Credential>>, Refused> {
        let user = guest.attempt.user;
        let near = guest
            .attempt
            .address
            .is_none_or(|address| address.to_canonical().is_loopback());
        if !near && !guest.attempt.tls {
            let text = format!("password authentication for user \"{user}\" needs TLS");
            let refused = Refused::fatal(Refusal::Tls, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, text);
            return Err(refused.hint("Connect with sslmode=require."));
        }
        let known = self.verifier(settings, guest).await?;
        let given = self.judge(user, exchange::cleartext(talk).await)?;
        let right = match &known {
            Some(known) if known.was_right(&given, &settings.secret) => true,
            Some(known) => is_password_of(known, user, &given).await,
            None => {
                // As long as for a user who exists.
                let _ = Known::new(Verifier::Plain(String::from("-")), "")
                    .scram(user, &settings.secret)
                    .await;
                false
            }
        };
        let Some(known) = known.filter(|_| right) else {
            return Err(self.wrong(user));
        };
        known.remember(&given, &settings.secret);
        Ok(match &known.verifier {
            Verifier::Plain(_) => known.credential(),
            _ => Some(Arc::new(Credential::Password(
                String::from_utf8_lossy(&given).into_owned(),
            ))),
        })
    }

    fn judge<T>(&self, user: &str, result: Result<T, Failed>) -> Result<T, Refused> {
        result.map_err(|failed| match failed {
            Failed::Wrong => self.wrong(user),
            Failed::Broken(refused) => refused,
        })
    }

    fn wrong(&self, user: &str) -> Refused {
        self.store.doubt(user);
        wrong_password(user)
    }
}

/// The same for a wrong password, an unknown user, and one whose password's time is over.
fn wrong_password(user: &str) -> Refused {
    let text = format!("password authentication failed for user \"{user}\"");
    Refused::fatal(Refusal::Password, SqlState::INVALID_PASSWORD, text)
}

/// Whether this is the user's password. The rounds of SCRAM are done on a thread of their own.
async fn is_password_of(known: &Known, user: &str, given: &[u8]) -> bool {
    match &known.verifier {
        Verifier::Plain(password) => verifier::same(password.as_bytes(), given),
        Verifier::Md5(stored) => std::str::from_utf8(given)
            .is_ok_and(|given| verifier::same(md5::hash(user, given).as_bytes(), stored.as_bytes())),
        Verifier::Scram(verifier) => {
            let (verifier, given) = (Arc::clone(verifier), String::from_utf8(given.to_vec()));
            let Ok(given) = given else { return false };
            verifier::rounds_of(move || verifier.matches(&given))
                .await
                .unwrap_or(false)
        }
    }
}

/// What a rule demands of the client's certificate.
fn certificate(talk: &mut Talk, rule: &Rule, user: &str) -> Result<(), Refused> {
    let demanded = rule.options.get("clientcert").map(String::as_str);
    let full = rule.method == Method::Cert || demanded == Some("verify-full");
    if !full && demanded.is_none() {
        return Ok(());
    }
    let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    let stream = talk.stream()?;
    if stream.peer_certificate().is_none() {
        return Err(Refused::fatal(
            Refusal::Password,
            code,
            "connection requires a valid client certificate",
        ));
    }
    let by_distinguished_name = rule.options.get("clientname").is_some_and(|name| name == "DN");
    if full && (by_distinguished_name || stream.peer_common_name().as_deref() != Some(user)) {
        let text = format!("certificate authentication failed for user \"{user}\"");
        let detail = if by_distinguished_name {
            "clientname=DN is not supported"
        } else {
            "common name differs"
        };
        return Err(Refused::fatal(Refusal::Password, code, text).detail(detail));
    }
    Ok(())
}
