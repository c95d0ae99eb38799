//! The side that proves.

use subtle::ConstantTimeEq;

use super::message::{attribute, check_nonce, decode, encode, text};
use super::{
    ITERATIONS_MAX, Key, Keys, SALT_MAX, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, hmac, keys_of, nonce,
    salted_password, sha256, xor,
};

/// What the client knows.
#[derive(Clone)]
enum Secret {
    Password(String),
    Keys(Keys),
}

/// A login by SCRAM, seen from the client.
///
/// [`Client::first`] goes out, [`Client::challenge`] takes the answer and gives a [`Derivation`], which may be long work and is run
/// where that hurts nobody; its [`Proof`] goes out and checks the server's last message.
pub struct Client {
    secret: Secret,
    nonce: String,
    /// `n,,`, `y,,` or `p=tls-server-end-point,,`.
    header: &'static str,
    /// The hash, where the header says `p=`.
    end_point: Vec<u8>,
}

/// What this client will do about channel binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// It cannot, or was told not to: `n`.
    None,
    /// It could, but the server does not offer it: `y`. A server that did offer it then knows that somebody changed the list.
    NotOffered,
    /// It does, with this hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Client {
    /// By password, without channel binding.
    ///
    /// # Errors
    /// [`ScramError::Random`].
    pub fn from_password(password: &str) -> Result<Self, ScramError> {
        Ok(Self::new(Secret::Password(password.to_owned()), nonce()?))
    }

    /// By the keys of an earlier login, without channel binding.
    ///
    /// # Errors
    /// [`ScramError::Random`].
    pub fn from_keys(keys: Keys) -> Result<Self, ScramError> {
        Ok(Self::new(Secret::Keys(keys), nonce()?))
    }

    fn new(secret: Secret, nonce: String) -> Self {
        Self {
            secret,
            nonce,
            header: "n,,",
            end_point: Vec::new(),
        }
    }

    /// Sets what is done about channel binding.
    #[must_use]
    pub fn bind(mut self, binding: Binding) -> Self {
        (self.header, self.end_point) = match binding {
            Binding::None => ("n,,", Vec::new()),
            Binding::NotOffered => ("y,,", Vec::new()),
            Binding::EndPoint(hash) => ("p=tls-server-end-point,,", hash),
        };
        self
    }

    /// With a nonce that is known beforehand.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn with_nonce(mut self, nonce: &str) -> Self {
        nonce.clone_into(&mut self.nonce);
        self
    }

    /// The mechanism to choose.
    #[must_use]
    pub fn mechanism(&self) -> &'static [u8] {
        if self.header.starts_with('p') {
            SCRAM_SHA_256_PLUS
        } else {
            SCRAM_SHA_256
        }
    }

    /// The data of SASLInitialResponse. The user is left out: PostgreSQL takes it from the startup packet.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.first_bare()).into_bytes()
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the data of AuthenticationSASLContinue.
    ///
    /// # Errors
    /// [`ScramError`] for a hostile server: more rounds than [`ITERATIONS_MAX`], an endless nonce or salt, another nonce.
    pub fn challenge(self, data: &[u8]) -> Result<Derivation, ScramError> {
        let server_first = text(data)?;
        let mut rest = server_first;
        if rest.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        if rest.starts_with("e=") {
            return Err(ScramError::Refused);
        }
        let nonce = check_nonce(attribute(&mut rest, 'r', "nonce")?)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Malformed("another nonce"));
        }
        let salt = attribute(&mut rest, 's', "salt")?;
        if salt.len() > SALT_MAX / 3 * 4 {
            return Err(ScramError::Malformed("length of the salt"));
        }
        let salt = decode(salt, "salt")?;
        let rounds = attribute(&mut rest, 'i', "iterations")?;
        if rounds.is_empty() || !rounds.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ScramError::Malformed("iterations"));
        }
        let rounds = rounds.parse::<u64>().unwrap_or(u64::MAX);
        let iterations = u32::try_from(rounds)
            .ok()
            .filter(|n| (1..=ITERATIONS_MAX).contains(n))
            .ok_or(ScramError::Iterations(rounds))?;

        let binding = encode(&[self.header.as_bytes(), &self.end_point].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare());
        Ok(Derivation {
            secret: self.secret,
            salt,
            iterations,
            message,
            without_proof,
        })
    }
}

/// The work between the server's challenge and our answer.
pub struct Derivation {
    secret: Secret,
    salt: Vec<u8>,
    iterations: u32,
    message: String,
    without_proof: String,
}

impl Derivation {
    /// How many rounds [`Derivation::run`] will do: 0 with keys, else up to [`ITERATIONS_MAX`], about half a microsecond each.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        match self.secret {
            Secret::Password(_) => self.iterations,
            Secret::Keys(_) => 0,
        }
    }

    /// Does the work.
    #[must_use]
    pub fn run(self) -> Proof {
        let keys = match self.secret {
            Secret::Password(password) => keys_of(&salted_password(&password, &self.salt, self.iterations)),
            Secret::Keys(keys) => keys,
        };
        let message = self.message.as_bytes();
        let signature = hmac(&sha256(&keys.client_key), &[message]);
        let proof = encode(&xor(&keys.client_key, &signature));
        Proof {
            message: format!("{},p={proof}", self.without_proof).into_bytes(),
            expected: hmac(&keys.server_key, &[message]),
        }
    }
}

/// Our last message, and what the server must answer.
pub struct Proof {
    message: Vec<u8>,
    expected: Key,
}

impl Proof {
    /// The data of SASLResponse.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Takes the data of AuthenticationSASLFinal. Only after this may AuthenticationOk be believed.
    ///
    /// # Errors
    /// [`ScramError::ServerSignature`] where the server does not know the verifier.
    pub fn verify(&self, data: &[u8]) -> Result<(), ScramError> {
        let mut rest = text(data)?;
        if rest.starts_with("e=") {
            return Err(ScramError::Refused);
        }
        let signature = decode(attribute(&mut rest, 'v', "signature")?, "signature")?;
        if signature.ct_eq(&self.expected).into() {
            Ok(())
        } else {
            Err(ScramError::ServerSignature)
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client(..)")
    }
}

impl std::fmt::Debug for Derivation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Derivation({} rounds)", self.rounds())
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}
