//! The messages a client sends once the startup packet is through.
//!
//! Owns their views ([`Message`], from [`decode`]) and their encoders (in `encode`, all of them functions of this module). A view
//! borrows the body and allocates nothing; its shape is checked when it is decoded, so walking its lists cannot fail.
//! Names and texts are bytes: a client need not speak UTF-8.

mod encode;

pub use encode::*;

use crate::wire::{DecodeError, Formats, Oids, Reader, Secret, Values};

/// The types of the messages.
#[allow(missing_docs, reason = "the names of the manual")]
pub mod tag {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const AUTHENTICATION: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// What a Describe or Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A prepared statement (`S`).
    Statement,
    /// A portal (`P`).
    Portal,
}

impl Target {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            b'S' => Ok(Self::Statement),
            b'P' => Ok(Self::Portal),
            _ => Err(DecodeError::Impossible("subtype of Describe or Close")),
        }
    }
}

/// One message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Run these statements by the simple protocol.
    Query(&'a [u8]),
    /// Prepare a statement.
    Parse {
        /// Its name; empty is the unnamed one.
        name: &'a [u8],
        /// Its text.
        sql: &'a [u8],
        /// Types of its first parameters; 0 leaves one to the server.
        types: Oids<'a>,
    },
    /// Make a portal of a statement.
    Bind {
        /// The portal's name.
        portal: &'a [u8],
        /// The statement's name.
        statement: &'a [u8],
        /// None, one for all, or one for each parameter.
        param_formats: Formats<'a>,
        /// The parameters.
        params: Values<'a>,
        /// None, one for all, or one for each column of the result.
        result_formats: Formats<'a>,
    },
    /// Ask what a statement or portal looks like.
    Describe {
        /// Of which kind.
        target: Target,
        /// Its name.
        name: &'a [u8],
    },
    /// Run a portal.
    Execute {
        /// Its name.
        portal: &'a [u8],
        /// At most so many rows; 0 (and, to the server, anything below) is all.
        max_rows: i32,
    },
    /// Forget a statement or portal.
    Close {
        /// Of which kind.
        target: Target,
        /// Its name.
        name: &'a [u8],
    },
    /// End of a batch: answer ReadyForQuery.
    Sync,
    /// Send what there is.
    Flush,
    /// Goodbye.
    Terminate,
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// End of COPY data.
    CopyDone,
    /// Give the COPY up, for this reason.
    CopyFail(&'a [u8]),
    /// Call a function by the obsolete protocol.
    FunctionCall {
        /// Which function.
        function: u32,
        /// None, one for all, or one for each argument.
        arg_formats: Formats<'a>,
        /// The arguments.
        args: Values<'a>,
        /// Of the result.
        result_format: i16,
    },
    /// A password, SASL or GSS message: which one, only the state of the login knows. See [`password_of`],
    /// [`SaslInitial::decode`]; a SASLResponse is the whole body.
    Authentication(Secret<'a>),
}

/// Reads the body of a message of this type.
///
/// # Errors
/// [`DecodeError`]: answer 08P01.
pub fn decode(tag: u8, body: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader(body);
    let message = match tag {
        tag::QUERY => Message::Query(reader.cstr()?),
        tag::PARSE => {
            let (name, sql) = (reader.cstr()?, reader.cstr()?);
            let count = reader.u16()?;
            Message::Parse {
                name,
                sql,
                types: Oids::read(&mut reader, count.into())?,
            }
        }
        tag::BIND => bind_view(&mut reader)?,
        tag::DESCRIBE => Message::Describe {
            target: Target::read(&mut reader)?,
            name: reader.cstr()?,
        },
        tag::EXECUTE => Message::Execute {
            portal: reader.cstr()?,
            max_rows: reader.i32()?,
        },
        tag::CLOSE => Message::Close {
            target: Target::read(&mut reader)?,
            name: reader.cstr()?,
        },
        tag::SYNC => Message::Sync,
        tag::FLUSH => Message::Flush,
        tag::TERMINATE => Message::Terminate,
        tag::COPY_DATA => Message::CopyData(reader.rest()),
        tag::COPY_DONE => Message::CopyDone,
        tag::COPY_FAIL => Message::CopyFail(reader.cstr()?),
        tag::FUNCTION_CALL => function_call_view(&mut reader)?,
        tag::AUTHENTICATION => Message::Authentication(Secret(reader.rest())),
        other => return Err(DecodeError::UnknownTag(other)),
    };
    reader.end()?;
    Ok(message)
}

fn bind_view<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let (portal, statement) = (reader.cstr()?, reader.cstr()?);
    let count = reader.u16()?;
    let param_formats = Formats::read(reader, count.into())?;
    let count = reader.u16()?;
    let params = Values::read(reader, count.into())?;
    let count = reader.u16()?;
    let result_formats = Formats::read(reader, count.into())?;
    Ok(Message::Bind {
        portal,
        statement,
        param_formats,
        params,
        result_formats,
    })
}

fn function_call_view<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let function = reader.u32()?;
    let count = reader.u16()?;
    let arg_formats = Formats::read(reader, count.into())?;
    let count = reader.u16()?;
    let args = Values::read(reader, count.into())?;
    Ok(Message::FunctionCall {
        function,
        arg_formats,
        args,
        result_format: reader.i16()?,
    })
}

/// The password in an [`Message::Authentication`] that answers a request for one, in clear text or as md5.
///
/// # Errors
/// [`DecodeError`] where it is not one string.
pub fn password_of(body: &[u8]) -> Result<&[u8], DecodeError> {
    let mut reader = Reader(body);
    let password = reader.cstr()?;
    reader.end()?;
    Ok(password)
}

/// The first message of a SASL exchange. `Debug` shows the mechanism only: the data may be a bearer token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism chosen.
    pub mechanism: &'a [u8],
    /// The first data of the mechanism; `None` where the client waits for the server to begin.
    pub data: Option<&'a [u8]>,
}

impl std::fmt::Debug for SaslInitial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SaslInitial({})", self.mechanism.escape_ascii())
    }
}

impl<'a> SaslInitial<'a> {
    /// Reads an [`Message::Authentication`] that answers the list of mechanisms.
    ///
    /// # Errors
    /// [`DecodeError`] also for a negative length other than -1, and for a length over what is there (CVE-2026-6664).
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let initial = Self {
            mechanism: reader.cstr()?,
            data: reader.value()?,
        };
        reader.end()?;
        Ok(initial)
    }
}

#[cfg(test)]
mod tests;
