//! From the client's extended-protocol messages to what the worker is sent: its names become the shared ones.

use std::ffi::CStr;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frontend;
use pgnet::sqlstate::SqlState;

use super::super::script::{Op, Step};
use super::super::statement::Statement;
use super::super::worker::{Composer, NO_PORTAL, NO_STATEMENT, patch_length};
use super::names::{Change, Names};

/// A message that is not what its tag says: 08P01, the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message format")]
pub(super) struct Malformed;

/// What translating needs to know.
pub(super) struct Ground<'a> {
    pub(super) session: u64,
    /// Statements a worker, and a client, may have.
    pub(super) prepared_max: usize,
    /// Whether the worker knows a statement by the client's own name (made by SQL PREPARE).
    pub(super) own: &'a dyn Fn(&[u8]) -> bool,
    /// Finds or makes the statement of a Parse.
    pub(super) intern: &'a dyn Fn(&[u8], &[u8]) -> Rc<Statement>,
    /// Whether the worker may keep statements that clients give no name ([`Statement::is_kept`]).
    pub(super) keeps: bool,
}

/// Cuts a C string off the front.
fn cstring(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let text = CStr::from_bytes_until_nul(body)
        .map_err(|_| Malformed)?
        .to_bytes();
    Ok((text, &body[text.len() + 1..]))
}

/// Name, text and types (count and OIDs as on the wire) of a Parse.
pub(super) fn parse_parts(body: &[u8]) -> Result<(&[u8], &[u8], &[u8]), Malformed> {
    let (name, rest) = cstring(body)?;
    let (text, types) = cstring(rest)?;
    let count = types
        .get(..2)
        .map(|c| usize::from(u16::from_be_bytes([c[0], c[1]])))
        .ok_or(Malformed)?;
    if types.len() != 2 + 4 * count {
        return Err(Malformed);
    }
    Ok((name, text, types))
}

/// Portal and statement name of a Bind, and the rest.
pub(super) fn bind_parts(body: &[u8]) -> Result<(&[u8], &[u8], &[u8]), Malformed> {
    let (portal, rest) = cstring(body)?;
    let (statement, rest) = cstring(rest)?;
    Ok((portal, statement, rest))
}

/// Whether what follows the names in a Bind holds no parameters.
fn gives_no_parameters(rest: &[u8]) -> bool {
    let Some((formats, rest)) = rest.split_first_chunk::<2>() else {
        return false;
    };
    let formats = 2 * usize::from(u16::from_be_bytes(*formats));
    rest.get(formats..formats + 2) == Some(&[0, 0])
}

/// Kind (`S` or `P`) and name of a Describe or Close.
pub(super) fn target_parts(body: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    let (kind, rest) = body.split_first().ok_or(Malformed)?;
    let (name, rest) = cstring(rest)?;
    if !rest.is_empty() || !matches!(kind, b'S' | b'P') {
        return Err(Malformed);
    }
    Ok((*kind, name))
}

/// The portal of an Execute.
pub(super) fn execute_portal(body: &[u8]) -> Result<&[u8], Malformed> {
    let (portal, rest) = cstring(body)?;
    if rest.len() == 4 {
        Ok(portal)
    } else {
        Err(Malformed)
    }
}

/// Writes one message of a batch, other than Sync and Flush, for a worker.
pub(super) fn message(to: &mut Composer<'_>, names: &mut Names, ground: &Ground<'_>, tag: u8, body: &[u8]) {
    let done = exact(to, names, ground, tag, body);
    if done.is_err() {
        // As the server: an error, and the rest of the batch is skipped.
        let text = match (tag, body.first()) {
            (b'D', Some(kind)) if !matches!(kind, b'S' | b'P') => {
                format!("invalid DESCRIBE message subtype {kind}")
            }
            (b'C', Some(kind)) if !matches!(kind, b'S' | b'P') => {
                format!("invalid CLOSE message subtype {kind}")
            }
            _ => "invalid message format".to_owned(),
        };
        fail(
            to,
            ErrorFields::new(Severity::Error, SqlState::PROTOCOL_VIOLATION, text),
        );
    }
}

fn exact(
    to: &mut Composer<'_>,
    names: &mut Names,
    ground: &Ground<'_>,
    tag: u8,
    body: &[u8],
) -> Result<(), Malformed> {
    match tag {
        b'P' => parse(to, names, ground, body),
        b'B' => {
            let (portal, name, rest) = bind_parts(body)?;
            if names.is_changed(name) {
                fail(to, changed());
                return Ok(());
            }
            // An error about parameters names the statement: the server's own unnamed one is to be named.
            let keeps = ground.keeps && gives_no_parameters(rest);
            match ready_statement(to, names, ground, name, keeps) {
                Some(server_name) => {
                    bind(to.out(), portal, &server_name, rest);
                    let id = names.get(name).filter(|_| !name.is_empty()).map(|s| s.id);
                    names.bind(portal, name);
                    to.step(Step::client(Op::Bind(id)));
                }
                None => fail(to, missing(name)),
            }
            Ok(())
        }
        b'D' => {
            let (kind, name) = target_parts(body)?;
            if kind == b'P' {
                frontend::describe_portal(to.out(), name);
                // What a portal's rows look like is what its statement's do: drivers remember it as that.
                let bound = names.bound_to(name).filter(|name| !is_own(names, ground, name));
                let id = bound.and_then(|name| Some((names.get(&name)?.id, name)));
                to.step(Step::client(Op::DescribePortal(id.as_ref().map(|(id, _)| *id))));
                if let Some((_, name)) = id {
                    names.ask_shape(&name);
                }
                return Ok(());
            }
            match ready_statement(to, names, ground, name, ground.keeps) {
                Some(server_name) => {
                    frontend::describe_statement(to.out(), &server_name);
                    let id = names.get(name).filter(|_| !name.is_empty()).map(|s| s.id);
                    let id = id.filter(|_| !is_own(names, ground, name));
                    if id.is_some() {
                        names.ask_shape(name);
                    }
                    to.step(Step::client(Op::DescribeStatement(id)));
                }
                None => fail(to, missing(name)),
            }
            Ok(())
        }
        b'E' => {
            execute_portal(body)?;
            copy_frame(to.out(), b'E', body);
            to.step(Step::client(Op::Execute));
            Ok(())
        }
        b'C' => {
            let (kind, name) = target_parts(body)?;
            if kind == b'P' {
                frontend::close_portal(to.out(), name);
                names.ask(Change::None);
            } else {
                // The statement stays on the worker for others; the server's `3` comes in order all the same. What SQL made does not.
                let own = is_own(names, ground, name);
                frontend::close_statement(to.out(), if own { name } else { NO_STATEMENT });
                names.ask(Change::Remove(Bytes::copy_from_slice(name)));
            }
            to.step(Step::client(Op::Close(None)));
            Ok(())
        }
        _ => Err(Malformed),
    }
}

fn parse(
    to: &mut Composer<'_>,
    names: &mut Names,
    ground: &Ground<'_>,
    body: &[u8],
) -> Result<(), Malformed> {
    let (name, text, types) = parse_parts(body)?;
    if names.is_taken(name) {
        fail(
            to,
            ErrorFields::new(
                Severity::Error,
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!(
                    "prepared statement \"{}\" already exists",
                    String::from_utf8_lossy(name)
                ),
            ),
        );
        return Ok(());
    }
    if names.len() >= ground.prepared_max && !name.is_empty() {
        fail(
            to,
            ErrorFields::new(
                Severity::Error,
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("more than {} prepared statements", ground.prepared_max),
            )
            .with_hint("Close statements that are no longer used, or raise limits.maxPreparedStatements."),
        );
        return Ok(());
    }
    let statement = (ground.intern)(text, types);
    if name.is_empty() {
        statement.parsed_unnamed();
    }
    if name.is_empty() && !(ground.keeps && statement.is_kept()) {
        // The server's own unnamed statement: planned for the values of each Bind, as without a proxy.
        copy_frame(to.out(), b'P', body);
        to.step(Step::client(Op::Parse(None)));
        to.set_unnamed(Some((ground.session, statement.id)));
    } else {
        to.client_parse(&statement, ground.prepared_max);
    }
    names.ask(Change::Define(Bytes::copy_from_slice(name), statement));
    Ok(())
}

/// Whether the worker knows the statement by the client's own name.
fn is_own(names: &Names, ground: &Ground<'_>, name: &[u8]) -> bool {
    names.is_own(name, (ground.own)(name))
}

/// Makes sure the server has what `name` stands for and returns its name there; `None`: the client has no such statement.
fn ready_statement(
    to: &mut Composer<'_>,
    names: &Names,
    ground: &Ground<'_>,
    name: &[u8],
    keeps: bool,
) -> Option<Bytes> {
    if is_own(names, ground, name) {
        return Some(Bytes::copy_from_slice(name));
    }
    let statement = names.get(name)?;
    if !name.is_empty() || keeps && statement.is_kept() {
        to.ensure(&statement, ground.prepared_max);
        return Some(statement.name.clone());
    }
    if !to.unnamed_is(ground.session, statement.id) {
        let out = to.out();
        let start = out.len();
        out.extend_from_slice(b"P\0\0\0\0\0");
        out.extend_from_slice(&statement.key.text);
        out.put_u8(0);
        out.extend_from_slice(&statement.key.types);
        patch_length(out, start);
        to.step(Step::nobody(Op::Parse(None)));
        to.set_unnamed(Some((ground.session, statement.id)));
    }
    Some(Bytes::new())
}

/// The beginning of a Bind whose parameters follow as they come: `left` bytes in all, of which `data` is here. False: the client
/// has no such statement, and the rest is to be dropped.
pub(super) fn bind_head(
    to: &mut Composer<'_>,
    names: &mut Names,
    ground: &Ground<'_>,
    portal: &[u8],
    name: &[u8],
    left: usize,
    data: &[u8],
) -> bool {
    if names.is_changed(name) {
        fail(to, changed());
        return false;
    }
    let Some(server_name) = ready_statement(to, names, ground, name, ground.keeps) else {
        fail(to, missing(name));
        return false;
    };
    let length = 4 + portal.len() + 1 + server_name.len() + 1 + left;
    let out = to.out();
    out.put_u8(b'B');
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(portal);
    out.put_u8(0);
    out.extend_from_slice(&server_name);
    out.put_u8(0);
    out.extend_from_slice(data);
    names.bind(portal, name);
    to.step(Step::client(Op::Bind(None)));
    true
}

/// As the server says where it has the statement still; here another worker had to parse it anew.
fn changed() -> ErrorFields {
    let mut fields = ErrorFields::new(
        Severity::Error,
        SqlState::FEATURE_NOT_SUPPORTED,
        "cached plan must not change result type",
    );
    // Drivers know it by this.
    fields.routine = Some("RevalidateCachedQuery".to_owned());
    fields
}

fn missing(name: &[u8]) -> ErrorFields {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!(
            "prepared statement \"{}\" does not exist",
            String::from_utf8_lossy(name)
        )
    };
    ErrorFields::new(Severity::Error, SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

/// Lets the server fail at this point of the batch, so that it skips the rest, and shows the client this error instead.
pub(super) fn fail(to: &mut Composer<'_>, fields: ErrorFields) {
    frontend::execute(to.out(), NO_PORTAL, 0);
    to.step(Step::client(Op::Fail(Rc::new(fields))));
}

fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: &[u8]) {
    let start = out.len();
    out.extend_from_slice(b"B\0\0\0\0");
    out.extend_from_slice(portal);
    out.put_u8(0);
    out.extend_from_slice(statement);
    out.put_u8(0);
    out.extend_from_slice(rest);
    patch_length(out, start);
}

/// Copies a frame as it is.
pub(super) fn copy_frame(out: &mut BytesMut, tag: u8, body: &[u8]) {
    let start = out.len();
    out.put_u8(tag);
    out.put_u32(0);
    out.extend_from_slice(body);
    patch_length(out, start);
}
