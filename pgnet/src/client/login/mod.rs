//! The login as a state machine: messages of the server in, what to do out. No socket, no clock.

use bytes::{Bytes, BytesMut};

use super::{AuthError, ChannelBinding, ClearText, Config, ConnectError, Credential, ProtocolError};
use crate::auth::{md5, scram};
use crate::backend::{self, Authentication, Message, Strings, tag};
use crate::fields::{ErrorFields, Fields};
use crate::frontend;
use crate::startup::{self, ProtocolVersion};

/// The SASL mechanism for bearer tokens.
const OAUTHBEARER: &[u8] = b"OAUTHBEARER";

/// More settings than any server reports.
const SETTINGS_MAX: usize = 256;

/// The longest text we quote of a server that has not authenticated us.
const UNTRUSTED_MAX: usize = 200;

/// Longest messages during a login: of the authentication, as libpq limits them, and of everything else.
const AUTH_FRAME_MAX: u32 = 2_000;
const FRAME_MAX: u32 = 30_000;

/// What the connection below is like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Channel {
    pub(super) tls: bool,
    /// A password in clear text can be read by nobody else.
    pub(super) protected: bool,
    /// The hash of the server's certificate.
    pub(super) end_point: Option<Vec<u8>>,
}

/// Started -Ok-> In; Started -password asked-> Answered -Ok-> In;
/// Started -OAUTHBEARER-> Bearing -Ok-> In;
/// Started -SASL-> Challenged -Continue-> Deriving -derived-> Proved -Final-> Answered.
enum Stage {
    Started,
    Answered,
    Bearing,
    Challenged(scram::Client),
    Deriving,
    Proved(scram::Proof),
    In,
}

/// What to do next.
pub(super) enum Step {
    /// Read the next message.
    Read,
    /// Send this and read on.
    Send(BytesMut),
    /// Run this where it hurts nobody, give the proof to [`Login::derived`] and send what that returns.
    Derive(Box<scram::Derivation>),
    /// ReadyForQuery has come.
    Ready,
}

/// A login under way.
pub(super) struct Login<'c> {
    config: &'c Config,
    channel: Channel,
    stage: Stage,
    bound: bool,
    pub(super) parameters: Vec<(Bytes, Bytes)>,
    pub(super) process_id: i32,
    pub(super) cancel_key: Bytes,
    pub(super) protocol: ProtocolVersion,
}

impl<'c> Login<'c> {
    pub(super) fn new(config: &'c Config, channel: Channel) -> Self {
        Self {
            config,
            channel,
            stage: Stage::Started,
            bound: false,
            parameters: Vec::new(),
            process_id: 0,
            cancel_key: Bytes::new(),
            protocol: config.protocol,
        }
    }

    /// The startup packet.
    pub(super) fn startup(&self) -> BytesMut {
        let Config {
            user,
            database,
            parameters,
            protocol,
            ..
        } = self.config;
        let database = if database.is_empty() { user } else { database };
        let fixed = [("user", user.as_str()), ("database", database)];
        let more = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut packet = BytesMut::new();
        startup::startup(&mut packet, *protocol, fixed.into_iter().chain(more));
        packet
    }

    /// Whether the server has let us in: from here on its texts are the server's.
    pub(super) fn is_in(&self) -> bool {
        matches!(self.stage, Stage::In)
    }

    /// The longest frame of this type now.
    pub(super) fn frame_max(&self, tag: u8) -> u32 {
        match tag {
            tag::AUTHENTICATION | tag::NEGOTIATE_PROTOCOL_VERSION => AUTH_FRAME_MAX,
            _ => FRAME_MAX,
        }
    }

    /// Takes the next message.
    pub(super) fn on(&mut self, tag: u8, body: &[u8]) -> Result<Step, ConnectError> {
        let message = backend::decode(tag, body)?;
        match message {
            Message::ErrorResponse(fields) => Err(ConnectError::Server(Box::new(self.error(fields)))),
            Message::Authentication(request) if !self.is_in() => self.on_authentication(request),
            Message::NegotiateProtocolVersion {
                version,
                unrecognized,
            } if matches!(self.stage, Stage::Started) => self.on_version(version, unrecognized),
            Message::ParameterStatus { name, value } if self.is_in() => {
                self.set(name, value)?;
                Ok(Step::Read)
            }
            Message::BackendKeyData { process_id, key } if self.is_in() => {
                self.process_id = process_id;
                self.cancel_key = Bytes::copy_from_slice(&key);
                Ok(Step::Read)
            }
            Message::NoticeResponse(_) if self.is_in() => Ok(Step::Read),
            Message::ReadyForQuery(backend::TransactionStatus::Idle) if self.is_in() => Ok(Step::Ready),
            _ => Err(ProtocolError::Unexpected(tag).into()),
        }
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), ConnectError> {
        let value = Bytes::copy_from_slice(value);
        if let Some((_, old)) = self.parameters.iter_mut().find(|(n, _)| n == name) {
            *old = value;
            return Ok(());
        }
        if self.parameters.len() >= SETTINGS_MAX {
            return Err(ProtocolError::Settings.into());
        }
        self.parameters.push((Bytes::copy_from_slice(name), value));
        Ok(())
    }

    fn error(&self, fields: Fields<'_>) -> ErrorFields {
        if self.is_in() {
            fields.to_owned()
        } else {
            untrusted(fields)
        }
    }

    fn on_version(
        &mut self,
        version: ProtocolVersion,
        unrecognized: Strings<'_>,
    ) -> Result<Step, ConnectError> {
        let asked = |name: &[u8]| self.config.parameters.iter().any(|(n, _)| n.as_bytes() == name);
        if version.major != 3 || version > self.protocol || !unrecognized.iter().all(asked) {
            return Err(ProtocolError::Version(version).into());
        }
        self.protocol = version;
        Ok(Step::Read)
    }

    fn on_authentication(&mut self, request: Authentication<'_>) -> Result<Step, ConnectError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Answered);
        match (stage, request) {
            (Stage::Started | Stage::Answered | Stage::Bearing, Authentication::Ok) => self.on_ok(),
            (Stage::Bearing, Authentication::SaslContinue(_)) => {
                Ok(send(|buf| frontend::sasl_response(buf, b"\x01")))
            }
            (_, Authentication::Ok) => Err(AuthError::Unfinished.into()),
            (Stage::Started, _) if self.must_bind() && !matches!(request, Authentication::Sasl(_)) => {
                Err(AuthError::ChannelBinding.into())
            }
            (Stage::Started, Authentication::Cleartext) => self.on_cleartext(),
            (Stage::Started, Authentication::Md5 { salt }) => self.on_md5(salt),
            (Stage::Started, Authentication::Sasl(mechanisms)) => self.on_sasl(mechanisms),
            (Stage::Challenged(client), Authentication::SaslContinue(data)) => {
                self.stage = Stage::Deriving;
                Ok(Step::Derive(Box::new(client.challenge(data)?)))
            }
            (Stage::Proved(proof), Authentication::SaslFinal(data)) => {
                proof.verify(data)?;
                Ok(Step::Read)
            }
            (Stage::Started, other) => Err(AuthError::Method(method(other)).into()),
            _ => Err(ProtocolError::Unexpected(tag::AUTHENTICATION).into()),
        }
    }

    fn must_bind(&self) -> bool {
        self.config.channel_binding == ChannelBinding::Require
    }

    fn on_ok(&mut self) -> Result<Step, ConnectError> {
        if self.must_bind() && !self.bound {
            return Err(AuthError::ChannelBinding.into());
        }
        self.stage = Stage::In;
        Ok(Step::Read)
    }

    fn on_cleartext(&self) -> Result<Step, ConnectError> {
        let Credential::Password(password) = &self.config.credential else {
            return Err(AuthError::NoCredential("the password in clear text").into());
        };
        let allowed = match self.config.clear_text {
            ClearText::Never => false,
            ClearText::Protected => self.channel.protected,
            ClearText::Always => true,
        };
        if !allowed {
            return Err(AuthError::ClearText.into());
        }
        Ok(send(|buf| frontend::password(buf, password.as_bytes())))
    }

    fn on_md5(&self, salt: [u8; 4]) -> Result<Step, ConnectError> {
        let answer = match &self.config.credential {
            Credential::Password(password) => md5::response(&md5::hash(&self.config.user, password), salt),
            Credential::Md5Hash(hash) => md5::response(hash, salt),
            Credential::None | Credential::Scram(_) | Credential::Bearer(_) => None,
        };
        let answer = answer.ok_or(AuthError::NoCredential("an md5 password"))?;
        Ok(send(|buf| frontend::password(buf, answer.as_bytes())))
    }

    fn on_sasl(&mut self, offered: Strings<'_>) -> Result<Step, ConnectError> {
        let offers = |mechanism: &[u8]| offered.iter().any(|o| o == mechanism);
        if let Credential::Bearer(token) = &self.config.credential {
            let offered = offers(OAUTHBEARER);
            return self.on_bearer(token, offered);
        }
        let binding = match (self.config.channel_binding, &self.channel.end_point) {
            (ChannelBinding::Disable, _) | (_, None) => scram::Binding::None,
            (_, Some(hash)) if offers(scram::SCRAM_SHA_256_PLUS) => scram::Binding::EndPoint(hash.clone()),
            (_, Some(_)) => scram::Binding::NotOffered,
        };
        self.bound = matches!(binding, scram::Binding::EndPoint(_));
        if self.must_bind() && !self.bound {
            return Err(AuthError::ChannelBinding.into());
        }
        if !self.bound && !offers(scram::SCRAM_SHA_256) {
            return Err(AuthError::Mechanism.into());
        }
        let client = match &self.config.credential {
            Credential::Password(password) => scram::Client::from_password(password)?,
            Credential::Scram(keys) => scram::Client::from_keys(keys.clone())?,
            Credential::None | Credential::Md5Hash(_) | Credential::Bearer(_) => {
                return Err(AuthError::NoCredential("a SCRAM login").into());
            }
        };
        let client = client.bind(binding);
        let step = send(|buf| frontend::sasl_initial(buf, client.mechanism(), Some(&client.first())));
        self.stage = Stage::Challenged(client);
        Ok(step)
    }

    /// RFC 7628: the token goes out at once; a server that does not like it says why and then wants one byte before its error.
    fn on_bearer(&mut self, token: &str, offered: bool) -> Result<Step, ConnectError> {
        if !offered {
            return Err(AuthError::Mechanism.into());
        }
        if self.must_bind() {
            return Err(AuthError::ChannelBinding.into());
        }
        // Whoever has the token can be us: never where somebody may listen, whatever `clear_text` allows.
        if !self.channel.tls {
            return Err(AuthError::ClearText.into());
        }
        // RFC 6750, b64token: nothing else may stand in the message.
        if token.is_empty()
            || !token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
        {
            return Err(AuthError::NoCredential("a bearer token of the characters it may have").into());
        }
        self.stage = Stage::Bearing;
        let data = format!("n,,\x01auth=Bearer {token}\x01\x01");
        Ok(send(|buf| {
            frontend::sasl_initial(buf, OAUTHBEARER, Some(data.as_bytes()))
        }))
    }

    /// Takes the result of the work that [`Step::Derive`] asked for and gives what to send.
    pub(super) fn derived(&mut self, proof: scram::Proof) -> BytesMut {
        let mut buf = BytesMut::new();
        frontend::sasl_response(&mut buf, proof.message());
        self.stage = Stage::Proved(proof);
        buf
    }
}

fn send(encode: impl FnOnce(&mut BytesMut)) -> Step {
    let mut buf = BytesMut::new();
    encode(&mut buf);
    Step::Send(buf)
}

fn method(request: Authentication<'_>) -> i32 {
    match request {
        Authentication::Ok => 0,
        Authentication::KerberosV5 => 2,
        Authentication::Cleartext => 3,
        Authentication::Md5 { .. } => 5,
        Authentication::ScmCredential => 6,
        Authentication::Gss => 7,
        Authentication::GssContinue(_) => 8,
        Authentication::Sspi => 9,
        Authentication::Sasl(_) => 10,
        Authentication::SaslContinue(_) => 11,
        Authentication::SaslFinal(_) => 12,
        Authentication::Unknown(other) => other,
    }
}

/// What is left of an error whose sender nobody knows: severity, code, and the message in quotes, without control characters.
fn untrusted(fields: Fields<'_>) -> ErrorFields {
    let text = String::from_utf8_lossy(fields.field(b'M').unwrap_or_default()).into_owned();
    let mut shown: String = text.chars().take(UNTRUSTED_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    ErrorFields::new(
        fields.severity(),
        fields.code(),
        format!("the server, not authenticated yet, says {shown:?}"),
    )
}

#[cfg(test)]
mod tests;
