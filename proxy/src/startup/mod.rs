//! The login of a client, from its first byte to AuthenticationOk, which goes out with the greeting.
//!
//! ```text
//! accept -> [GSS: N] -> [TLS: S, handshake | N] -> startup packet -> [versions] -> authentication -> seat -> Ok
//!        '-> CancelRequest
//! ```
//!
//! Every step may end in a refusal: one FATAL with PostgreSQL's SQLSTATE and words, then the socket is closed. Bounded by
//! `timeouts.login`, by the number of logins at a time, and by the size of each message. Begin at [`Entrance::login`].

mod options;
mod packet;
mod packets;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use crds::{ClientTlsMode, PoolConfig};
use pgnet::backend;
use pgnet::sqlstate::SqlState;
use pgnet::startup::{self, Startup};
use pgnet::stream::Stream;
use pgnet::tls::ServerTls;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::auth::{Attempt, Gate, Guest};
use crate::error::Refused;
use crate::limits::{LOGINS_MAX, NEGOTIATIONS_MAX};
use crate::metrics::{Edge, Refusal};
use crate::plane::{Client, Door, Login, Peer};
use crate::seats::{Bounds, Full, Seats};
use crate::talk::Talk;

use packet::{NEWEST, Wanted, no_replication, wanted};
use packets::Packets;

/// Time left to tell a client that the master could not be asked, before the login times out.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What is in force for logins that begin now.
pub struct Terms {
    /// The pool.
    pub config: Arc<PoolConfig>,
    /// Our certificate, where TLS is spoken.
    pub tls: Option<ServerTls>,
}

/// Terms, with the startup packets that were read under them.
struct InForce {
    terms: Terms,
    packets: Packets,
}

impl InForce {
    fn new(terms: Terms) -> Self {
        Self {
            terms,
            packets: Packets::default(),
        }
    }
}

/// Lets clients in, or turns them away.
pub struct Entrance {
    terms: ArcSwap<InForce>,
    gate: Arc<Gate>,
    edge: Arc<Edge>,
    seats: Arc<Seats>,
}

/// What a client that is not refused wants.
enum Opened {
    Client(Box<Client>),
    Pseudo(Box<Client>),
    Cancel { process_id: i32, key: bytes::Bytes },
}

/// The first packet that is no request for encryption.
enum First {
    Startup(Startup, Box<[u8]>),
    /// One like that came before.
    Known(Arc<Wanted>),
    Cancel {
        process_id: i32,
        key: bytes::Bytes,
    },
}

impl Entrance {
    /// With these terms.
    pub fn new(terms: Terms, gate: Arc<Gate>, edge: Arc<Edge>, seats: Arc<Seats>) -> Self {
        Self {
            terms: ArcSwap::from_pointee(InForce::new(terms)),
            gate,
            edge,
            seats,
        }
    }

    /// New terms, for logins that begin from now on.
    pub fn configure(&self, terms: Terms) {
        self.terms.store(Arc::new(InForce::new(terms)));
    }

    /// The pool as logins see it now.
    pub fn config(&self) -> Arc<PoolConfig> {
        Arc::clone(&self.terms.load().terms.config)
    }

    /// Carries a login out. The client was told when the result is [`Login::Closed`].
    pub async fn login(&self, stream: Stream, door: Door, peer: Peer) -> Login {
        let mut talk = Talk::new(stream);
        let Some(place) = self.edge.enter(LOGINS_MAX) else {
            return self
                .refuse(talk, &peer, too_many("sorry, too many clients already"))
                .await;
        };
        let in_force = self.terms.load_full();
        let limit = in_force.terms.config.timeouts.login;
        let deadline = Instant::now() + limit.saturating_sub(LAST_MOMENT);
        let opened =
            tokio::time::timeout(limit, self.open(&mut talk, &in_force, door, &peer, deadline)).await;
        drop(place);
        let refused = match opened {
            Ok(Ok(Opened::Client(client))) => return Login::Client(client),
            Ok(Ok(Opened::Pseudo(client))) => return Login::Pseudo(client),
            Ok(Ok(Opened::Cancel { process_id, key })) => match talk.leave() {
                Ok((stream, _)) => {
                    return Login::Cancel {
                        process_id,
                        key,
                        stream,
                    };
                }
                Err(error) => error.into(),
            },
            Ok(Err(refused)) => refused,
            Err(_) => {
                let text = "canceling authentication due to timeout";
                Refused::fatal(Refusal::Timeout, SqlState::QUERY_CANCELED, text)
            }
        };
        self.refuse(talk, &peer, refused).await
    }

    async fn refuse(&self, talk: Talk, peer: &Peer, refused: Refused) -> Login {
        self.edge.refused(refused.reason);
        let detail = refused.detail.as_deref().unwrap_or_default();
        match &refused.answer {
            Some(answer) => {
                info!(%peer, code = answer.code.as_str(), told = %answer.message, detail, "Login refused");
                talk.refuse(answer).await;
            }
            None => debug!(%peer, detail, "Connection ended before the login"),
        }
        Login::Closed
    }

    async fn open(
        &self,
        talk: &mut Talk,
        in_force: &InForce,
        door: Door,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<Opened, Refused> {
        let terms = &in_force.terms;
        let first = first(talk, in_force).await?;
        if let First::Cancel { process_id, key } = first {
            return Ok(Opened::Cancel { process_id, key });
        }
        if let First::Startup(Startup::Startup { version, .. }, _) = &first {
            talk.speak(*version);
        }
        let tls = talk.stream()?.is_tls();
        if terms.config.tls.mode == ClientTlsMode::Require && !tls && *peer != Peer::Unix {
            let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
            let refused = Refused::fatal(Refusal::Tls, code, "connections without TLS are not allowed here");
            return Err(refused.hint("Connect with sslmode=require."));
        }
        let asks = match first {
            First::Known(asks) => asks,
            First::Startup(Startup::Startup { version, parameters }, packet) => {
                let asks = Arc::new(wanted(version, parameters, &terms.config.routing)?);
                in_force.packets.remember(packet, &asks);
                asks
            }
            _ => return Err(Refused::protocol("expected a startup packet")),
        };
        negotiate(talk, &asks).await?;
        if asks.replication.is_some() && !terms.config.allow_replication {
            return Err(no_replication());
        }
        if !asks.pseudo && self.seats.is_full(terms.config.limits.max_clients) {
            return Err(too_many("sorry, too many clients already"));
        }
        self.authenticate(
            talk,
            terms,
            asks,
            Approach {
                door,
                peer,
                tls,
                deadline,
            },
        )
        .await
    }

    async fn authenticate(
        &self,
        talk: &mut Talk,
        terms: &Terms,
        asks: Arc<Wanted>,
        approach: Approach<'_>,
    ) -> Result<Opened, Refused> {
        let Approach {
            door,
            peer,
            tls,
            deadline,
        } = approach;
        let address = match peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        };
        let guest = Guest {
            attempt: Attempt {
                user: &asks.user,
                database: &asks.database,
                address,
                tls,
                replication: asks.replication == Some("true"),
            },
            pseudo: asks.pseudo,
            end_point: terms.tls.as_ref().filter(|_| tls).and_then(ServerTls::end_point),
            deadline,
        };
        let admitted = self.gate.admit(talk, &guest).await?;
        let (seat, user, database) = if asks.pseudo {
            (None, asks.user.as_str().into(), asks.database.as_str().into())
        } else {
            let seat = self.seat(terms, &asks, address)?;
            let (user, database) = (Arc::clone(seat.user()), Arc::clone(seat.database()));
            (Some(seat), user, database)
        };
        let mut unsent = admitted.last_words;
        backend::authentication_ok(&mut unsent);
        debug!(%peer, %user, %database, tls, "Logged in");
        let (stream, ahead) = talk.leave()?;
        let client = Box::new(Client {
            stream,
            ahead,
            unsent,
            database,
            user,
            parameters: Arc::clone(&asks.parameters),
            replication: asks.replication,
            credential: admitted.credential,
            door: if asks.read_only { Door::ReadOnly } else { door },
            peer: peer.clone(),
            protocol: asks.protocol,
            admin: admitted.admin,
            seat: seat.map(|seat| Box::new(seat) as _),
        });
        Ok(if asks.pseudo {
            Opened::Pseudo(client)
        } else {
            Opened::Client(client)
        })
    }

    fn seat(
        &self,
        terms: &Terms,
        asks: &Wanted,
        address: Option<std::net::IpAddr>,
    ) -> Result<crate::seats::Seat, Refused> {
        let (user, database) = (asks.user.as_str(), asks.database.as_str());
        let named = |(name, _): &&(String, String)| name == "application_name";
        let application_name = asks.parameters.iter().find(named);
        let application_name = application_name.map_or("", |(_, value)| value);
        let effective = terms
            .config
            .effective_of(database, user, application_name, address);
        let rule = terms
            .config
            .client_rule(database, user, application_name, address);
        let bounds = Bounds {
            all: terms.config.limits.max_clients,
            user: effective.max_user_clients,
            database: effective.max_database_clients,
            rule: rule.and_then(|(at, rule)| Some((at, rule.overrides.max_clients?))),
        };
        self.seats
            .take(user, database, bounds)
            .map_err(|full| match full {
                Full::All => too_many("sorry, too many clients already"),
                Full::Rule => too_many("too many connections of clients like this one"),
                Full::User => too_many(format!("too many connections for role \"{user}\"")),
                Full::Database => too_many(format!("too many connections for database \"{database}\"")),
            })
    }
}

/// How a client comes.
struct Approach<'a> {
    door: Door,
    peer: &'a Peer,
    tls: bool,
    deadline: Instant,
}

fn too_many(text: impl Into<String>) -> Refused {
    Refused::fatal(Refusal::Limit, SqlState::TOO_MANY_CONNECTIONS, text)
}

/// Everything up to a packet that is no request for encryption.
async fn first(talk: &mut Talk, in_force: &InForce) -> Result<First, Refused> {
    let terms = &in_force.terms;
    if let Some(tls) = &terms.tls
        && let Stream::Tcp(socket) = talk.stream()?
        && ServerTls::starts_tls(socket).await?
    {
        let Stream::Tcp(socket) = talk.take()? else {
            return Err(Refused::protocol("TLS without TCP"));
        };
        let stream = tls.accept_direct(socket).await;
        talk.put(stream.map_err(|error| Refused::quiet(Refusal::Tls, chain(&error)))?);
    }
    for _ in 0..=NEGOTIATIONS_MAX {
        let packet = talk.packet().await?;
        if let Some(asks) = in_force.packets.find(packet) {
            return Ok(First::Known(asks));
        }
        match startup::decode(packet) {
            Ok(Startup::Cancel { process_id, key }) => return Ok(First::Cancel { process_id, key }),
            Ok(startup @ Startup::Startup { .. }) => return Ok(First::Startup(startup, packet.into())),
            Ok(_) if talk.stream()?.is_tls() => break,
            Ok(Startup::GssEnc) => talk.send(b"N").await?,
            Ok(_) => encrypt(talk, terms).await?,
            Err(error) => {
                let text = "invalid startup packet layout: expected terminator as last byte";
                return Err(Refused::protocol(text).detail(error.to_string()));
            }
        }
    }
    Err(Refused::protocol("too many requests for encryption"))
}

async fn encrypt(talk: &mut Talk, terms: &Terms) -> Result<(), Refused> {
    let Some(tls) = terms
        .tls
        .as_ref()
        .filter(|_| matches!(talk.stream(), Ok(Stream::Tcp(_))))
    else {
        return Ok(talk.send(b"N").await?);
    };
    if talk.is_ahead()? {
        return Err(Refused::protocol("received unencrypted data after SSL request")
            .hint("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."));
    }
    talk.send(b"S").await?;
    let Stream::Tcp(socket) = talk.take()? else {
        return Err(Refused::protocol("TLS without TCP"));
    };
    // Nothing was read beyond the request: whatever came ahead of the handshake is still in the socket and fails it.
    let stream = tls
        .accept(socket, b"")
        .await
        .map_err(|error| Refused::quiet(Refusal::Tls, chain(&error)))?;
    talk.put(stream);
    Ok(())
}

async fn negotiate(talk: &mut Talk, asks: &Wanted) -> Result<(), Refused> {
    let Some(unknown) = &asks.negotiate else {
        return Ok(());
    };
    let unknown: Vec<&[u8]> = unknown.iter().map(String::as_bytes).collect();
    let mut message = BytesMut::new();
    backend::negotiate_protocol_version(&mut message, NEWEST, &unknown);
    Ok(talk.send(&message).await?)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
