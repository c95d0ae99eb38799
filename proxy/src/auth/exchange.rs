//! The messages of each method, with a client that has not proven anything yet.

use bytes::BytesMut;
use pgnet::auth::md5;
use pgnet::auth::scram::{Finished, ScramError, Server};
use pgnet::backend;
use pgnet::frontend::{SaslInitial, password_of};
use pgnet::sqlstate::SqlState;

use crate::error::Refused;
use crate::metrics::Refusal;
use crate::talk::Talk;

/// How an exchange ended that is not a success.
#[derive(Debug)]
pub(super) enum Failed {
    /// The client did not prove what it should: which user, which method, says the caller.
    Wrong,
    /// It broke the rules of the exchange, or left.
    Broken(Refused),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Broken(refused)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<ScramError> for Failed {
    fn from(error: ScramError) -> Self {
        match error {
            ScramError::WrongPassword => Self::Wrong,
            ScramError::Malformed(_) => {
                Self::Broken(Refused::protocol("malformed SCRAM message").detail(error.to_string()))
            }
            ScramError::Mechanism => Self::Broken(Refused::protocol(
                "client selected an invalid SASL authentication mechanism",
            )),
            other => Self::Broken(Refused::fatal(
                Refusal::Password,
                other.sqlstate(),
                other.to_string(),
            )),
        }
    }
}

/// SCRAM-SHA-256, with channel binding where both can.
pub(super) async fn scram(talk: &mut Talk, mut server: Server) -> Result<Finished, Failed> {
    let mut message = BytesMut::new();
    backend::authentication_sasl(&mut message, server.mechanisms());
    talk.send(&message).await?;

    let answer = talk.answer("SASL").await?;
    let initial = SaslInitial::decode(answer)
        .map_err(|error| Refused::protocol("malformed SASL message").detail(error.to_string()))?;
    // A client that waits for the server to begin: SCRAM has it begin itself, so it gets an empty challenge first.
    let challenge = match initial.data {
        Some(data) => server.first(initial.mechanism, data)?,
        None => {
            let mechanism = initial.mechanism.to_vec();
            send_continue(talk, b"").await?;
            server.first(&mechanism, talk.answer("SASL").await?)?
        }
    };
    send_continue(talk, &challenge).await?;
    let last = talk.answer("SASL").await?;
    Ok(server.last(last)?)
}

async fn send_continue(talk: &mut Talk, data: &[u8]) -> std::io::Result<()> {
    let mut message = BytesMut::new();
    backend::authentication_sasl_continue(&mut message, data);
    talk.send(&message).await
}

/// md5 with a random salt.
pub(super) async fn md5(talk: &mut Talk, stored: &str) -> Result<(), Failed> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(|_| {
        Refused::fatal(
            Refusal::Password,
            SqlState::INTERNAL_ERROR,
            "could not generate random MD5 salt",
        )
    })?;
    let mut message = BytesMut::new();
    backend::authentication_md5(&mut message, salt);
    talk.send(&message).await?;
    let answer = asked_password(talk).await?;
    if md5::verify(stored, salt, &answer) {
        Ok(())
    } else {
        Err(Failed::Wrong)
    }
}

/// The password as it is.
pub(super) async fn cleartext(talk: &mut Talk) -> Result<Vec<u8>, Failed> {
    let mut message = BytesMut::new();
    backend::authentication_cleartext(&mut message);
    talk.send(&message).await?;
    asked_password(talk).await
}

async fn asked_password(talk: &mut Talk) -> Result<Vec<u8>, Failed> {
    let answer = talk.answer("password").await?;
    let password = password_of(answer).map_err(|_| Refused::protocol("invalid password packet size"))?;
    if password.is_empty() {
        let text = "empty password returned by client";
        return Err(Refused::fatal(Refusal::Password, SqlState::INVALID_PASSWORD, text).into());
    }
    Ok(password.to_vec())
}
