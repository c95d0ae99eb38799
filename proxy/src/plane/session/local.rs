//! Answers the proxy gives itself, shaped as PostgreSQL's.

use bytes::BytesMut;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame;
use pgnet::sqlstate::SqlState;
use pgnet::{backend, frontend};

/// What a client sees of the state of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Idle,
    InTransaction,
    Failed,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// An error, then ReadyForQuery.
pub(super) fn error(out: &mut BytesMut, fields: &ErrorFields, status: Status) {
    fields.encode_error(out);
    backend::ready_for_query(out, status.byte());
}

/// `CommandComplete`, then ReadyForQuery; a warning goes first where there is one.
pub(super) fn complete(out: &mut BytesMut, warning: Option<&ErrorFields>, tag: &str, status: Status) {
    if let Some(warning) = warning {
        warning.encode_notice(out);
    }
    backend::command_complete(out, tag.as_bytes());
    backend::ready_for_query(out, status.byte());
}

/// WARNING 25P01, as for COMMIT or ROLLBACK without a transaction.
pub(super) fn no_transaction() -> ErrorFields {
    ErrorFields::new(
        Severity::Warning,
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
        "there is no transaction in progress",
    )
}

/// ERROR 25P02, as for anything in a failed transaction.
pub(super) fn in_failed_transaction() -> ErrorFields {
    ErrorFields::new(
        Severity::Error,
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// ERROR 08006, for the first thing asked of a transaction whose server was lost; with `over`, for its COMMIT.
pub(super) fn lost_transaction(over: bool) -> ErrorFields {
    ErrorFields::new(
        Severity::Error,
        SqlState::CONNECTION_FAILURE,
        "the server was lost in the middle of the transaction",
    )
    .with_hint(if over {
        "Nothing of the transaction was committed: begin again."
    } else {
        "The transaction is lost: end it by ROLLBACK and begin again."
    })
}

/// ERROR 54000: `total` bytes where `limits.maxQuerySize` allows `limit`.
pub(super) fn too_large(total: usize, limit: usize) -> ErrorFields {
    ErrorFields::new(
        Severity::Error,
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("statement of {total} bytes is larger than {limit}"),
    )
    .with_hint("Raise limits.maxQuerySize, or send the data by COPY.")
}

/// Answers a whole batch in which every Execute has the same outcome: `Ok(tag)` with a warning before it, or an error.
///
/// Parse, Bind, Describe and Close are acknowledged as a server would for a statement that returns no rows. With an error only what is closed
/// before the first statement is: a driver that saw its Parse acknowledged would count on it.
pub(super) fn batch(
    out: &mut BytesMut,
    batch: &[u8],
    execute: Result<(Option<&ErrorFields>, &str), &ErrorFields>,
    status: Status,
) {
    let mut rest = batch;
    while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
        rest = behind;
        if let (b'P' | b'B' | b'D' | b'E', Err(fields)) = (frame.tag, &execute) {
            fields.encode_error(out);
            break;
        }
        match frame.tag {
            b'P' => backend::parse_complete(out),
            b'B' => backend::bind_complete(out),
            b'C' => backend::close_complete(out),
            b'D' => match frontend::decode(b'D', frame.body) {
                Ok(frontend::Message::Describe {
                    target: frontend::Target::Statement,
                    ..
                }) => {
                    backend::parameter_description(out, &[]);
                    backend::no_data(out);
                }
                _ => backend::no_data(out),
            },
            b'E' => {
                if let Ok((warning, tag)) = execute {
                    if let Some(warning) = warning {
                        warning.encode_notice(out);
                    }
                    backend::command_complete(out, tag.as_bytes());
                }
            }
            _ => {}
        }
    }
    backend::ready_for_query(out, status.byte());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_batch_is_answered_message_by_message() {
        let mut input = BytesMut::new();
        frontend::parse(&mut input, b"s", b"BEGIN", &[]);
        frontend::describe_statement(&mut input, b"s");
        frontend::bind(&mut input, b"", b"s", &[], &[], &[]);
        frontend::execute(&mut input, b"", 0);
        frontend::sync(&mut input);
        let mut out = BytesMut::new();
        batch(&mut out, &input, Ok((None, "BEGIN")), Status::InTransaction);
        let mut tags = String::new();
        let mut rest = &out[..];
        while let Ok(Some((frame, behind))) = frame::split(rest, 1 << 20) {
            tags.push(char::from(frame.tag));
            rest = behind;
        }
        assert_eq!(tags, "1tn2CZ");
    }
}
