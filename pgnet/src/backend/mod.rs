//! The messages a server sends.
//!
//! Owns their views ([`Message`], from [`decode`]) and their encoders (in `encode`, all of them functions of this module). A view
//! borrows the body and allocates nothing; its shape is checked when it is decoded, so walking its lists cannot fail.

mod encode;

pub use encode::*;

use crate::fields::Fields;
use crate::startup::ProtocolVersion;
use crate::wire::{DecodeError, Formats, Oids, Reader, Secret, Values};

/// The types of the messages.
#[allow(missing_docs, reason = "the names of the manual")]
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// What the server wants before it lets a client in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Nothing more: the client is in.
    Ok,
    /// Kerberos V5, obsolete.
    KerberosV5,
    /// The password as it is.
    Cleartext,
    /// The password hashed with this salt.
    Md5 {
        /// The salt.
        salt: [u8; 4],
    },
    /// SCM credentials, obsolete.
    ScmCredential,
    /// GSSAPI.
    Gss,
    /// SSPI.
    Sspi,
    /// More GSSAPI or SSPI data.
    GssContinue(&'a [u8]),
    /// SASL by one of these mechanisms.
    Sasl(Strings<'a>),
    /// More SASL data.
    SaslContinue(&'a [u8]),
    /// The last SASL data.
    SaslFinal(&'a [u8]),
    /// A method this code does not know.
    Unknown(i32),
}

/// A list of strings as it stands in a message; its shape was checked when it was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader(self.0);
        std::iter::from_fn(move || reader.cstr().ok())
    }

    /// A list that ends with an empty string.
    fn until_empty(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let all = reader.0;
        loop {
            let before = all.len() - reader.0.len();
            if reader.cstr()?.is_empty() {
                return Ok(Self(&all[..before]));
            }
        }
    }

    fn counted(reader: &mut Reader<'a>, count: i32) -> Result<Self, DecodeError> {
        let all = reader.0;
        for _ in 0..u32::try_from(count).map_err(|_| DecodeError::Impossible("number of options"))? {
            reader.cstr()?;
        }
        Ok(Self(&all[..all.len() - reader.0.len()]))
    }
}

/// The state of the transaction in a ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// `I`: in none.
    Idle,
    /// `T`: in one.
    InTransaction,
    /// `E`: in one that failed.
    Failed,
}

impl TransactionStatus {
    /// From its letter.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'I' => Self::Idle,
            b'T' => Self::InTransaction,
            b'E' => Self::Failed,
            _ => return None,
        })
    }

    /// Its letter.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The table it is of, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub column: i16,
    /// Its type.
    pub type_oid: u32,
    /// `pg_type.typlen`; negative where it varies.
    pub type_size: i16,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// 0 is text, 1 is binary; 0 also where it is not known yet.
    pub format: i16,
}

impl<'a> Field<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.cstr()?,
            table_oid: reader.u32()?,
            column: reader.i16()?,
            type_oid: reader.u32()?,
            type_size: reader.i16()?,
            type_modifier: reader.i32()?,
            format: reader.i16()?,
        })
    }
}

/// The columns of a result as they stand in a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> RowDescription<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = columns(reader)?;
        let all = reader.0;
        for _ in 0..count {
            Field::read(reader)?;
        }
        Ok(Self {
            count,
            bytes: &all[..all.len() - reader.0.len()],
        })
    }

    /// The columns in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map_while(move |_| Field::read(&mut reader).ok())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none (`SELECT` without a list).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// How data of a COPY will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// 0 is text, 1 is binary.
    pub format: i8,
    /// Format of each column.
    pub columns: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let format = i8::from_be_bytes([reader.u8()?]);
        let count = columns(reader)?;
        Ok(Self {
            format,
            columns: Formats::read(reader, count)?,
        })
    }
}

/// One message of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// About the login.
    Authentication(Authentication<'a>),
    /// What a cancel request must say.
    BackendKeyData {
        /// The process.
        process_id: i32,
        /// The secret: 4 bytes, up to 256 since protocol 3.2.
        key: Secret<'a>,
    },
    /// Answer to Bind.
    BindComplete,
    /// Answer to Close.
    CloseComplete,
    /// A statement is done; its tag.
    CommandComplete(&'a [u8]),
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// End of COPY data.
    CopyDone,
    /// The server waits for COPY data.
    CopyInResponse(CopyResponse<'a>),
    /// COPY data will come.
    CopyOutResponse(CopyResponse<'a>),
    /// Both, for replication.
    CopyBothResponse(CopyResponse<'a>),
    /// A row. A negative number of columns is refused (PC-18).
    DataRow(Values<'a>),
    /// Instead of CommandComplete where the text was empty.
    EmptyQueryResponse,
    /// An error.
    ErrorResponse(Fields<'a>),
    /// Result of a FunctionCall; `None` is NULL.
    FunctionCallResponse(Option<&'a [u8]>),
    /// The server does not know the version or these options (`_pq_.*`).
    NegotiateProtocolVersion {
        /// The newest it knows. PostgreSQL writes the whole version word; a bare minor number is read as 3.minor.
        version: ProtocolVersion,
        /// What it does not know.
        unrecognized: Strings<'a>,
    },
    /// Answer to Describe: no rows will come.
    NoData,
    /// A notice.
    NoticeResponse(Fields<'a>),
    /// A NOTIFY.
    NotificationResponse {
        /// Who sent it.
        process_id: i32,
        /// On which channel.
        channel: &'a [u8],
        /// What it says.
        payload: &'a [u8],
    },
    /// Types of a statement's parameters.
    ParameterDescription(Oids<'a>),
    /// A setting and its value.
    ParameterStatus {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Answer to Parse.
    ParseComplete,
    /// Execute's limit of rows was reached.
    PortalSuspended,
    /// Ready for the next request.
    ReadyForQuery(TransactionStatus),
    /// The columns of the rows to come.
    RowDescription(RowDescription<'a>),
}

/// Reads the body of a message of this type.
///
/// # Errors
/// [`DecodeError`]: the server is broken or hostile, close the connection.
pub fn decode(tag: u8, body: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader(body);
    let message = match tag {
        tag::AUTHENTICATION => Message::Authentication(authentication(&mut reader)?),
        tag::BACKEND_KEY_DATA => Message::BackendKeyData {
            process_id: reader.i32()?,
            key: key(&mut reader)?,
        },
        tag::BIND_COMPLETE => Message::BindComplete,
        tag::CLOSE_COMPLETE => Message::CloseComplete,
        tag::COMMAND_COMPLETE => Message::CommandComplete(reader.cstr()?),
        tag::COPY_DATA => Message::CopyData(reader.rest()),
        tag::COPY_DONE => Message::CopyDone,
        tag::COPY_IN_RESPONSE => Message::CopyInResponse(CopyResponse::read(&mut reader)?),
        tag::COPY_OUT_RESPONSE => Message::CopyOutResponse(CopyResponse::read(&mut reader)?),
        tag::COPY_BOTH_RESPONSE => Message::CopyBothResponse(CopyResponse::read(&mut reader)?),
        tag::DATA_ROW => {
            let count = columns(&mut reader)?;
            Message::DataRow(Values::read(&mut reader, count)?)
        }
        tag::EMPTY_QUERY_RESPONSE => Message::EmptyQueryResponse,
        tag::ERROR_RESPONSE => Message::ErrorResponse(Fields::read(reader.rest())?),
        tag::FUNCTION_CALL_RESPONSE => Message::FunctionCallResponse(reader.value()?),
        tag::NEGOTIATE_PROTOCOL_VERSION => negotiate(&mut reader)?,
        tag::NO_DATA => Message::NoData,
        tag::NOTICE_RESPONSE => Message::NoticeResponse(Fields::read(reader.rest())?),
        tag::NOTIFICATION_RESPONSE => Message::NotificationResponse {
            process_id: reader.i32()?,
            channel: reader.cstr()?,
            payload: reader.cstr()?,
        },
        tag::PARAMETER_DESCRIPTION => {
            let count = reader.u16()?;
            Message::ParameterDescription(Oids::read(&mut reader, count.into())?)
        }
        tag::PARAMETER_STATUS => Message::ParameterStatus {
            name: reader.cstr()?,
            value: reader.cstr()?,
        },
        tag::PARSE_COMPLETE => Message::ParseComplete,
        tag::PORTAL_SUSPENDED => Message::PortalSuspended,
        tag::READY_FOR_QUERY => Message::ReadyForQuery(
            TransactionStatus::from_byte(reader.u8()?)
                .ok_or(DecodeError::Impossible("transaction status"))?,
        ),
        tag::ROW_DESCRIPTION => Message::RowDescription(RowDescription::read(&mut reader)?),
        other => return Err(DecodeError::UnknownTag(other)),
    };
    reader.end()?;
    Ok(message)
}

/// The number of columns, which the server never makes negative.
fn columns(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    usize::try_from(reader.i16()?).map_err(|_| DecodeError::Impossible("number of columns"))
}

fn key<'a>(reader: &mut Reader<'a>) -> Result<Secret<'a>, DecodeError> {
    let key = reader.rest();
    if crate::startup::CANCEL_KEY_LEN.contains(&key.len()) {
        Ok(Secret(key))
    } else {
        Err(DecodeError::Impossible("length of a cancel key"))
    }
}

fn authentication<'a>(reader: &mut Reader<'a>) -> Result<Authentication<'a>, DecodeError> {
    Ok(match reader.i32()? {
        0 => Authentication::Ok,
        2 => Authentication::KerberosV5,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5 {
            salt: reader.u32()?.to_be_bytes(),
        },
        6 => Authentication::ScmCredential,
        7 => Authentication::Gss,
        8 => Authentication::GssContinue(reader.rest()),
        9 => Authentication::Sspi,
        10 => Authentication::Sasl(Strings::until_empty(reader)?),
        11 => Authentication::SaslContinue(reader.rest()),
        12 => Authentication::SaslFinal(reader.rest()),
        other => {
            reader.rest();
            Authentication::Unknown(other)
        }
    })
}

fn negotiate<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let word = reader.u32()?;
    let version = ProtocolVersion::from_u32(if word < 1 << 16 { 3 << 16 | word } else { word });
    let count = reader.i32()?;
    Ok(Message::NegotiateProtocolVersion {
        version,
        unrecognized: Strings::counted(reader, count)?,
    })
}

#[cfg(test)]
mod tests;
