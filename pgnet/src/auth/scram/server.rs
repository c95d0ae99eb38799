//! The side that checks.

use subtle::ConstantTimeEq;

use super::message::{attribute, check_nonce, decode, encode, text};
use super::{Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier, hmac, nonce, sha256, xor};

/// A login by SCRAM, seen from the server: [`Server::first`], then [`Server::last`].
#[derive(Debug)]
pub struct Server {
    pub(super) verifier: Verifier,
    /// No such user: everything looks the same, and the last step fails.
    doomed: bool,
    /// The tls-server-end-point hash of our certificate, where the client came by TLS.
    end_point: Option<Vec<u8>>,
    asked: Option<Asked>,
}

/// What the first pair of messages said.
#[derive(Debug)]
struct Asked {
    /// What the client must repeat as `c=`.
    binding: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// A login that succeeded.
#[derive(Clone, PartialEq, Eq)]
pub struct Finished {
    /// The data of AuthenticationSASLFinal.
    pub message: Vec<u8>,
    /// What the client proved to know; with the verifier's server key it logs in to every server that holds the same verifier.
    pub client_key: Key,
}

impl std::fmt::Debug for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finished(..)")
    }
}

impl Server {
    /// For a user with this verifier. `end_point` is [`crate::tls::ServerTls::end_point`] where the client came by TLS, else `None`.
    #[must_use]
    pub fn new(verifier: Verifier, end_point: Option<Vec<u8>>) -> Self {
        Self {
            verifier,
            doomed: false,
            end_point,
            asked: None,
        }
    }

    /// For a user who does not exist or has no verifier: the exchange is the same to look at and always fails with
    /// [`ScramError::WrongPassword`]. `secret` is random and should stay the same for as long as possible, on all proxies.
    #[must_use]
    pub fn mock(user: &str, secret: &Key, end_point: Option<Vec<u8>>) -> Self {
        Self {
            doomed: true,
            ..Self::new(Verifier::mock(user, secret), end_point)
        }
    }

    /// The mechanisms to offer, best first.
    #[must_use]
    pub fn mechanisms(&self) -> &'static [&'static [u8]] {
        if self.end_point.is_some() {
            &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]
        } else {
            &[SCRAM_SHA_256]
        }
    }

    /// Takes the client's first message and returns the data of AuthenticationSASLContinue. The user in the message is ignored, as
    /// PostgreSQL does: who logs in stands in the startup packet.
    ///
    /// # Errors
    /// Every [`ScramError`] ends the login.
    pub fn first(&mut self, mechanism: &[u8], data: &[u8]) -> Result<Vec<u8>, ScramError> {
        self.first_with(mechanism, data, &nonce()?)
    }

    pub(crate) fn first_with(
        &mut self,
        mechanism: &[u8],
        data: &[u8],
        ours: &str,
    ) -> Result<Vec<u8>, ScramError> {
        if self.asked.is_some() {
            return Err(ScramError::Order);
        }
        let plus = match mechanism {
            SCRAM_SHA_256 => false,
            SCRAM_SHA_256_PLUS if self.end_point.is_some() => true,
            _ => return Err(ScramError::Mechanism),
        };
        let (header, bare) = split_header(text(data)?)?;
        let binding = self.binding(plus, header)?;

        let mut rest = bare;
        if rest.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        attribute(&mut rest, 'n', "user")?;
        let theirs = check_nonce(attribute(&mut rest, 'r', "nonce")?)?;

        let nonce = [theirs, ours].concat();
        let (salt, iterations) = (encode(&self.verifier.salt), self.verifier.iterations.to_string());
        let server_first = ["r=", &nonce, ",s=", &salt, ",i=", &iterations].concat();
        let answer = server_first.clone().into_bytes();
        self.asked = Some(Asked {
            binding,
            nonce,
            client_first_bare: bare.to_owned(),
            server_first,
        });
        Ok(answer)
    }

    /// Checks what the client says about channel binding and returns what it must repeat in its last message.
    fn binding(&self, plus: bool, header: &str) -> Result<String, ScramError> {
        let flag = header.split(',').next().unwrap_or_default();
        match (flag, plus, &self.end_point) {
            ("n" | "y", true, _) => Err(ScramError::Malformed(
                "no channel binding with the PLUS mechanism",
            )),
            ("y", false, Some(_)) => Err(ScramError::ChannelBinding(
                "the client was told that this server cannot bind, but it can",
            )),
            ("n" | "y", false, _) => Ok(encode(header.as_bytes())),
            ("p=tls-server-end-point", true, Some(hash)) => Ok(encode(&[header.as_bytes(), hash].concat())),
            (p, true, _) if p.starts_with("p=") => Err(ScramError::Unsupported("type of channel binding")),
            (p, false, _) if p.starts_with("p=") => Err(ScramError::Malformed(
                "channel binding without the PLUS mechanism",
            )),
            _ => Err(ScramError::Malformed("channel binding flag")),
        }
    }

    /// Takes the client's last message; success is worth the data of AuthenticationSASLFinal and the client's key.
    ///
    /// # Errors
    /// [`ScramError::WrongPassword`] in time that does not depend on the proof; every error ends the login.
    pub fn last(&mut self, data: &[u8]) -> Result<Finished, ScramError> {
        let asked = self.asked.take().ok_or(ScramError::Order)?;
        let all = text(data)?;
        let (without_proof, proof) = all.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut rest = without_proof;
        let binding = attribute(&mut rest, 'c', "channel binding")?;
        let nonce = attribute(&mut rest, 'r', "nonce")?;
        let proof = Key::try_from(decode(proof, "proof")?)
            .map_err(|_| ScramError::Malformed("length of the proof"))?;
        if !bool::from(nonce.as_bytes().ct_eq(asked.nonce.as_bytes())) {
            return Err(ScramError::Malformed("another nonce"));
        }
        if !bool::from(binding.as_bytes().ct_eq(asked.binding.as_bytes())) {
            return Err(ScramError::ChannelBinding(
                "the client is connected to somebody else",
            ));
        }

        let message = [
            asked.client_first_bare.as_bytes(),
            b",",
            asked.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &message));
        let known = sha256(&client_key).ct_eq(&self.verifier.stored_key)
            & !subtle::Choice::from(u8::from(self.doomed));
        if !bool::from(known) {
            return Err(ScramError::WrongPassword);
        }
        let signature = hmac(&self.verifier.server_key, &message);
        Ok(Finished {
            message: format!("v={}", encode(&signature)).into_bytes(),
            client_key,
        })
    }
}

/// Splits the header (`n,,`, `y,,` or `p=...,,`) off. An authorization identity is refused, as PostgreSQL does.
fn split_header(message: &str) -> Result<(&str, &str), ScramError> {
    let flag_end = message
        .find(',')
        .ok_or(ScramError::Malformed("channel binding flag"))?
        + 1;
    let rest = &message[flag_end..];
    if rest.starts_with("a=") {
        return Err(ScramError::Unsupported("authorization identity"));
    }
    if !rest.starts_with(',') {
        return Err(ScramError::Malformed("authorization identity"));
    }
    Ok(message.split_at(flag_end + 1))
}
