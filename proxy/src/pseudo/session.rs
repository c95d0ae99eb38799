//! A session with the admin database: simple and extended protocol over one client socket.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frontend::{Message, Target};
use pgnet::sqlstate::SqlState;
use pgnet::{backend, frame, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Stage;
use super::command::{self, Command};
use super::console::{Outcome, Who, columns, run};
use super::table::{Formats, Value, describe, row};
use crate::plane::Client;

/// Sessions at a time.
const SESSIONS_MAX: usize = 100;
/// Bytes of a message of a client.
const MESSAGE_MAX: u32 = 64 << 10;
/// Prepared statements and portals of a session.
const NAMES_MAX: usize = 256;
/// Rows are sent when so many bytes have come together.
const PIECE: usize = 64 << 10;
/// How long a client may take to read what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// What drivers are told: they look for features by it.
const SERVER_VERSION: &str = concat!("15.0 (pgstmtpool ", env!("CARGO_PKG_VERSION"), ")");

static SESSIONS: AtomicUsize = AtomicUsize::new(0);

/// Serves a client until it leaves. The socket is closed then.
pub async fn serve(client: Box<Client>, stage: Arc<dyn Stage>) {
    let place = Place::take();
    let who = Who {
        user: Arc::clone(&client.user),
        admin: client.admin,
    };
    let mut session = Session::new(client, who, stage);
    let ended = if place.is_some() {
        session.converse().await
    } else {
        session.full().await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "Admin session ended");
    }
    let _ = session.client.stream.shutdown().await; // it may be closed already
}

/// A place among the sessions.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = SESSIONS.fetch_update(Relaxed, Relaxed, |now| (now < SESSIONS_MAX).then_some(now + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        SESSIONS.fetch_sub(1, Relaxed);
    }
}

/// A command whose rows are being fetched.
struct Portal {
    command: Command,
    formats: Formats,
    /// The rows not yet sent, once it has been executed.
    rest: Option<std::vec::IntoIter<Vec<Value>>>,
}

struct Session {
    client: Box<Client>,
    who: Who,
    stage: Arc<dyn Stage>,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    /// After an error in the extended protocol: until Sync.
    skipping: bool,
    out: BytesMut,
}

type Answered = Result<(), Failed>;

/// Why a message has no ordinary answer.
enum Failed {
    /// The client is told and goes on.
    Told(Box<ErrorFields>),
    /// It is told and the session ends.
    Broken(Box<ErrorFields>),
    /// It is gone.
    Gone(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl From<Box<ErrorFields>> for Failed {
    fn from(error: Box<ErrorFields>) -> Self {
        Self::Told(error)
    }
}

impl From<ErrorFields> for Failed {
    fn from(error: ErrorFields) -> Self {
        Self::Told(Box::new(error))
    }
}

fn told(code: SqlState, text: impl Into<String>) -> Failed {
    ErrorFields::new(Severity::Error, code, text).into()
}

fn broken(text: impl Into<String>) -> Failed {
    Failed::Broken(Box::new(ErrorFields::new(
        Severity::Fatal,
        SqlState::PROTOCOL_VIOLATION,
        text,
    )))
}

impl Session {
    fn new(mut client: Box<Client>, who: Who, stage: Arc<dyn Stage>) -> Self {
        Self {
            out: std::mem::take(&mut client.unsent),
            client,
            who,
            stage,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
        }
    }

    async fn full(&mut self) -> io::Result<()> {
        let text = "too many sessions with the admin database";
        ErrorFields::new(Severity::Fatal, SqlState::TOO_MANY_CONNECTIONS, text).encode_error(&mut self.out);
        self.flush().await
    }

    async fn converse(&mut self) -> io::Result<()> {
        self.greet();
        loop {
            self.flush().await?;
            let (tag, body) = match self.read().await {
                Ok(message) => message,
                Err(Failed::Gone(error)) => return Err(error),
                Err(Failed::Told(error) | Failed::Broken(error)) => return self.goodbye(&error).await,
            };
            let message = match frontend::decode(tag, &body) {
                Ok(Message::Terminate) => return Ok(()),
                Ok(message) => message,
                Err(error) => {
                    let text = format!("invalid message: {error}");
                    let fatal = ErrorFields::new(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, text);
                    return self.goodbye(&fatal).await;
                }
            };
            let simple = matches!(message, Message::Query(_));
            match self.answer(message).await {
                Ok(()) => {}
                Err(Failed::Told(error)) => {
                    error.encode_error(&mut self.out);
                    self.skipping = !simple;
                }
                Err(Failed::Broken(error)) => return self.goodbye(&error).await,
                Err(Failed::Gone(error)) => return Err(error),
            }
            if simple {
                backend::ready_for_query(&mut self.out, b'I');
            }
        }
    }

    /// What a server says once a client is in.
    fn greet(&mut self) {
        let application = self
            .client
            .parameters
            .iter()
            .find(|(name, _)| name == "application_name");
        let application = application.map_or("", |(_, value)| value.as_str());
        for (name, value) in [
            ("server_version", SERVER_VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("application_name", application),
            ("is_superuser", "off"),
            ("session_authorization", &*self.who.user),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "GMT"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            backend::parameter_status(&mut self.out, name.as_bytes(), value.as_bytes());
        }
        backend::backend_key_data(&mut self.out, 0, &[0; 4]); // there is nothing that could be cancelled
        backend::ready_for_query(&mut self.out, b'I');
    }

    async fn read(&mut self) -> Result<(u8, BytesMut), Failed> {
        let mut head = [0; frame::HEADER];
        self.fill(&mut head).await?;
        let header = match frame::peek(&head, MESSAGE_MAX) {
            Ok(Some(header)) => header,
            Ok(None) => return Err(broken("invalid message")),
            Err(error) => return Err(broken(error.to_string())),
        };
        let mut body = BytesMut::zeroed(header.body()); // at most MESSAGE_MAX, and the client has logged in
        self.fill(&mut body).await?;
        Ok((header.tag, body))
    }

    /// What was read with the login comes first.
    async fn fill(&mut self, place: &mut [u8]) -> std::io::Result<()> {
        let (first, rest) = place.split_at_mut(place.len().min(self.client.ahead.len()));
        self.client.ahead.copy_to_slice(first);
        self.client.stream.read_exact(rest).await.map(drop)
    }

    async fn answer(&mut self, message: Message<'_>) -> Answered {
        match message {
            Message::Query(text) => return self.query(text).await,
            Message::Sync => {
                self.skipping = false;
                self.portals.clear();
                backend::ready_for_query(&mut self.out, b'I');
            }
            // As PostgreSQL: strays of a COPY that ended are passed over.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => {}
            _ if self.skipping => {}
            Message::Flush => self.flush().await?,
            Message::Parse { name, sql, .. } => self.parse(name, sql)?,
            Message::Bind {
                portal,
                statement,
                params,
                result_formats,
                ..
            } => {
                if params.iter().next().is_some() {
                    return Err(told(
                        SqlState::PROTOCOL_VIOLATION,
                        "the commands here have no parameters",
                    ));
                }
                self.bind(portal, statement, result_formats.iter().collect())?;
            }
            Message::Describe { target, name } => self.describe(target, name)?,
            Message::Execute { portal, max_rows } => self.execute(portal, max_rows).await?,
            Message::Close { target, name } => {
                match target {
                    Target::Statement => drop(self.statements.remove(name)),
                    Target::Portal => drop(self.portals.remove(name)),
                }
                backend::close_complete(&mut self.out);
            }
            Message::FunctionCall { .. } | Message::Authentication(_) | Message::Terminate => {
                return Err(broken("unexpected message"));
            }
        }
        Ok(())
    }

    async fn query(&mut self, text: &[u8]) -> Answered {
        self.statements.remove(&b""[..]);
        self.portals.clear();
        for command in commands(text)? {
            match run(&*self.stage, &self.who, &command).await? {
                Outcome::Empty => backend::empty_query(&mut self.out),
                Outcome::Done(tag) => backend::command_complete(&mut self.out, tag.as_bytes()),
                Outcome::Rows(rows) => {
                    describe(&mut self.out, columns(&command), &Formats::default());
                    for values in rows {
                        row(&mut self.out, &values, &Formats::default());
                        self.flush_when_full().await?;
                    }
                    backend::command_complete(&mut self.out, b"SHOW");
                }
            }
        }
        Ok(())
    }

    fn parse(&mut self, name: &[u8], sql: &[u8]) -> Answered {
        let mut list = commands(sql)?;
        if list.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(told(SqlState::SYNTAX_ERROR, text));
        }
        if !name.is_empty() && self.statements.contains_key(name) {
            let text = format!(
                "prepared statement \"{}\" already exists",
                String::from_utf8_lossy(name)
            );
            return Err(told(SqlState::DUPLICATE_PREPARED_STATEMENT, text));
        }
        room(self.statements.len())?;
        self.statements
            .insert(name.to_vec(), list.pop().unwrap_or(Command::Empty));
        backend::parse_complete(&mut self.out);
        Ok(())
    }

    fn bind(&mut self, portal: &[u8], statement: &[u8], formats: Vec<i16>) -> Answered {
        let command = self.statement(statement)?.clone();
        let Some(formats) = Formats::new(formats, columns(&command).len()) else {
            return Err(told(SqlState::PROTOCOL_VIOLATION, "invalid result formats"));
        };
        room(self.portals.len())?;
        self.portals.insert(
            portal.to_vec(),
            Portal {
                command,
                formats,
                rest: None,
            },
        );
        backend::bind_complete(&mut self.out);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, Failed> {
        self.statements.get(name).ok_or_else(|| {
            let text = format!(
                "prepared statement \"{}\" does not exist",
                String::from_utf8_lossy(name)
            );
            told(SqlState::INVALID_SQL_STATEMENT_NAME, text)
        })
    }

    fn describe(&mut self, target: Target, name: &[u8]) -> Answered {
        let (columns, formats) = match target {
            Target::Statement => {
                let columns = columns(self.statement(name)?);
                backend::parameter_description(&mut self.out, &[]);
                (columns, &Formats::default())
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (columns(&portal.command), &portal.formats)
            }
        };
        match columns {
            [] => backend::no_data(&mut self.out),
            columns => describe(&mut self.out, columns, formats),
        }
        Ok(())
    }

    async fn execute(&mut self, name: &[u8], max_rows: i32) -> Answered {
        let Some(mut portal) = self.portals.remove(name) else {
            return Err(no_portal(name));
        };
        if portal.rest.is_none() {
            match run(&*self.stage, &self.who, &portal.command).await? {
                Outcome::Empty => backend::empty_query(&mut self.out),
                Outcome::Done(tag) => backend::command_complete(&mut self.out, tag.as_bytes()),
                Outcome::Rows(rows) => portal.rest = Some(rows.into_iter()),
            }
        }
        if let Some(rest) = &mut portal.rest {
            let limit = usize::try_from(max_rows)
                .ok()
                .filter(|limit| *limit > 0)
                .unwrap_or(usize::MAX);
            for values in rest.by_ref().take(limit) {
                row(&mut self.out, &values, &portal.formats);
                flush_when_full(&mut self.client, &mut self.out).await?;
            }
            // As PostgreSQL: exactly as many rows as the limit leaves the portal suspended.
            if rest.len() > 0 {
                backend::portal_suspended(&mut self.out);
            } else {
                backend::command_complete(&mut self.out, b"SHOW");
            }
        }
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    async fn goodbye(&mut self, error: &ErrorFields) -> io::Result<()> {
        error.encode_error(&mut self.out);
        self.flush().await
    }

    async fn flush_when_full(&mut self) -> io::Result<()> {
        flush_when_full(&mut self.client, &mut self.out).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.client, &mut self.out).await
    }
}

async fn flush_when_full(client: &mut Client, out: &mut BytesMut) -> io::Result<()> {
    if out.len() >= PIECE {
        flush(client, out).await
    } else {
        Ok(())
    }
}

async fn flush(client: &mut Client, out: &mut BytesMut) -> io::Result<()> {
    let sent = async {
        client.stream.write_all(out).await?;
        client.stream.flush().await
    };
    tokio::time::timeout(WRITE_TIMEOUT, sent)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    out.clear();
    Ok(())
}

fn commands(text: &[u8]) -> Result<Vec<Command>, Failed> {
    command::parse(&String::from_utf8_lossy(text)).map_err(|error| {
        let fields = ErrorFields::new(Severity::Error, SqlState::SYNTAX_ERROR, error.to_string());
        fields.with_hint("SHOW HELP lists the commands.").into()
    })
}

fn room(taken: usize) -> Answered {
    if taken < NAMES_MAX {
        return Ok(());
    }
    Err(told(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        "too many prepared statements or portals",
    ))
}

fn no_portal(name: &[u8]) -> Failed {
    let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    told(SqlState::INVALID_CURSOR_NAME, text)
}
