//! One connection, blocking, with a deadline on every read.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgnet::auth::scram::{self, ScramError};

use super::encode;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// A row as texts; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Where to connect.
#[derive(Clone, Debug)]
pub enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// A socket file.
    Unix(PathBuf),
}

impl Address {
    /// The socket of `port` in a folder, as PostgreSQL names it.
    pub fn unix(folder: &Path, port: u16) -> Self {
        Self::Unix(folder.join(format!(".s.PGSQL.{port}")))
    }
}

/// An ErrorResponse or NoticeResponse, field by field in the order it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbError {
    /// Field type and text.
    pub fields: Vec<(char, String)>,
}

impl DbError {
    /// Reads the body of the message.
    pub fn decode(body: &[u8]) -> Self {
        let fields = body.split(|b| *b == 0).filter(|f| !f.is_empty());
        let pair = |f: &[u8]| (char::from(f[0]), String::from_utf8_lossy(&f[1..]).into_owned());
        Self {
            fields: fields.map(pair).collect(),
        }
    }

    /// A field by its type; empty when it is not there.
    pub fn field(&self, kind: char) -> &str {
        self.fields
            .iter()
            .find(|(k, _)| *k == kind)
            .map_or("", |(_, v)| v)
    }

    /// The SQLSTATE.
    pub fn code(&self) -> &str {
        self.field('C')
    }

    /// The message.
    pub fn message(&self) -> &str {
        self.field('M')
    }

    /// Is it FATAL or PANIC?
    pub fn is_fatal(&self) -> bool {
        matches!(self.field('V'), "FATAL" | "PANIC")
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.field('S'), self.code(), self.message())?;
        let hint = self.field('H');
        if hint.is_empty() {
            Ok(())
        } else {
            write!(f, " (hint: {hint})")
        }
    }
}

/// Why something did not work.
#[derive(Debug)]
pub enum WireError {
    /// An ErrorResponse.
    Db(DbError),
    /// The peer closed the connection.
    Closed,
    /// Nothing came in time.
    Timeout,
    /// The socket failed.
    Io(io::Error),
    /// The peer sent what we cannot answer.
    Protocol(String),
}

impl WireError {
    /// The SQLSTATE of a [`WireError::Db`]; else empty.
    pub fn code(&self) -> &str {
        match self {
            Self::Db(error) => error.code(),
            _ => "",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Db(error) => error.fmt(f),
            Self::Closed => f.write_str("the connection was closed"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Io(error) => error.fmt(f),
            Self::Protocol(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for WireError {}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock | Kind::TimedOut => Self::Timeout,
            Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// One message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection to PostgreSQL or the proxy.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    start: usize,
    timeout: Duration,
    /// What BackendKeyData said.
    pub process_id: i32,
    /// The secret of BackendKeyData.
    pub key: Vec<u8>,
    /// ParameterStatus values in the order they came, the last value each.
    pub parameters: Vec<(String, String)>,
    /// Notices that came while [`Connection::query`] ran.
    pub notices: Vec<DbError>,
    /// Notifications that have come: channel and payload.
    pub notifications: Vec<(String, String)>,
    /// Status of the last ReadyForQuery.
    pub status: u8,
}

/// Reads what is there already.
fn look<S: Read>(
    socket: &mut S,
    mode: impl Fn(&S, bool) -> io::Result<()>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    mode(socket, true)?;
    let looked = socket.read(buffer);
    mode(socket, false)?;
    looked
}

/// Connects within some seconds: a machine that is cut off answers nothing at all.
fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other(format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Connection {
    /// Connects a socket, nothing more.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial(address: &Address) -> Result<Self, WireError> {
        let socket = match address {
            Address::Tcp(host, port) => {
                let stream = connect(host, *port)?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
        };
        let mut connection = Self {
            socket,
            buffer: Vec::new(),
            start: 0,
            timeout: Duration::ZERO,
            process_id: 0,
            key: Vec::new(),
            parameters: Vec::new(),
            notices: Vec::new(),
            notifications: Vec::new(),
            status: 0,
        };
        connection.set_timeout(Duration::from_secs(30));
        Ok(connection)
    }

    /// Connects and logs in without a password.
    ///
    /// # Errors
    /// The server's answer, or what happened to the socket.
    pub fn open(address: &Address, user: &str, database: &str) -> Result<Self, WireError> {
        Self::open_with(address, &[("user", user), ("database", database)], None)
    }

    /// Connects with these startup parameters and, if asked for one in clear, this password.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_with(
        address: &Address,
        parameters: &[(&str, &str)],
        secret: Option<&str>,
    ) -> Result<Self, WireError> {
        let mut connection = Self::dial(address)?;
        connection.start(parameters, secret)?;
        Ok(connection)
    }

    /// The startup and login of a connection that was only dialled.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn start(&mut self, parameters: &[(&str, &str)], secret: Option<&str>) -> Result<(), WireError> {
        self.send(&encode::startup(0x0003_0000, parameters))?;
        self.login(secret)
    }

    /// Reads the server's part of the login up to the first ReadyForQuery.
    ///
    /// # Errors
    /// As [`Connection::open`]; md5 is not spoken here.
    pub fn login(&mut self, secret: Option<&str>) -> Result<(), WireError> {
        loop {
            let frame = self.read()?;
            match (frame.tag, frame.body.as_slice()) {
                (b'R', [0, 0, 0, 0]) => {}
                (b'R', [0, 0, 0, 3]) => {
                    self.send(&encode::password(secret.unwrap_or_default().as_bytes()))?
                }
                (b'R', [0, 0, 0, 10, ..]) => self.scram(secret.unwrap_or_default())?,
                (b'R', other) => {
                    return Err(WireError::Protocol(format!("asked for login method {other:?}")));
                }
                (b'E', body) => return Err(WireError::Db(DbError::decode(body))),
                (b'Z', _) => return Ok(()),
                (b'S' | b'K' | b'N' | b'v', _) => {}
                (tag, _) => return Err(WireError::Protocol(format!("{:?} during login", char::from(tag)))),
            }
        }
    }

    /// The SCRAM-SHA-256 exchange, without channel binding.
    fn scram(&mut self, secret: &str) -> Result<(), WireError> {
        let protocol = |e: ScramError| WireError::Protocol(e.to_string());
        let client = scram::Client::from_password(secret).map_err(protocol)?;
        self.send(&encode::sasl_initial(client.mechanism(), &client.first()))?;
        let challenge = self.sasl(11)?;
        let proof = client.challenge(&challenge).map_err(protocol)?.run();
        self.send(&encode::frame(b'p', proof.message()))?;
        let last = self.sasl(12)?;
        proof.verify(&last).map_err(protocol)
    }

    fn sasl(&mut self, step: u8) -> Result<Vec<u8>, WireError> {
        let frame = self.read()?;
        match (frame.tag, frame.body.as_slice()) {
            (b'R', [0, 0, 0, kind, data @ ..]) if *kind == step => Ok(data.to_vec()),
            (b'E', body) => Err(WireError::Db(DbError::decode(body))),
            (tag, _) => Err(WireError::Protocol(format!("{:?} during SCRAM", char::from(tag)))),
        }
    }

    /// How long a read waits.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
        let limit = Some(timeout.max(Duration::from_millis(1)));
        let _ = match &self.socket {
            Socket::Tcp(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
            Socket::Unix(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
        };
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket is closed or full for too long.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        match &mut self.socket {
            Socket::Tcp(s) => s.write_all(bytes)?,
            Socket::Unix(s) => s.write_all(bytes)?,
        }
        Ok(())
    }

    /// Reads some raw bytes, for what is not yet framed (the answer to SSLRequest).
    ///
    /// # Errors
    /// [`WireError::Closed`] at the end of the stream.
    pub fn read_byte(&mut self) -> Result<u8, WireError> {
        while self.start >= self.buffer.len() {
            self.fill()?;
        }
        self.start += 1;
        Ok(self.buffer[self.start - 1])
    }

    /// The next frame. Remembers ParameterStatus, BackendKeyData and ReadyForQuery on the way.
    ///
    /// # Errors
    /// [`WireError::Timeout`] after [`Connection::set_timeout`], [`WireError::Closed`] at the end of the stream.
    pub fn read(&mut self) -> Result<Frame, WireError> {
        loop {
            let have = &self.buffer[self.start..];
            if have.len() >= 5 {
                let length = u32::from_be_bytes([have[1], have[2], have[3], have[4]]) as usize;
                if length < 4 {
                    return Err(WireError::Protocol(format!("a frame of length {length}")));
                }
                if have.len() > length {
                    let frame = Frame {
                        tag: have[0],
                        body: have[5..=length].to_vec(),
                    };
                    self.start += 1 + length;
                    self.remember(&frame);
                    return Ok(frame);
                }
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), WireError> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let mut chunk = [0_u8; 65_536];
        let got = loop {
            let got = match &mut self.socket {
                Socket::Tcp(s) => s.read(&mut chunk),
                Socket::Unix(s) => s.read(&mut chunk),
            };
            match got {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if got == 0 {
            return Err(WireError::Closed);
        }
        self.buffer.extend_from_slice(&chunk[..got]);
        Ok(())
    }

    fn remember(&mut self, frame: &Frame) {
        match (frame.tag, frame.body.as_slice()) {
            (b'Z', [status]) => self.status = *status,
            (b'K', [a, b, c, d, key @ ..]) => {
                self.process_id = i32::from_be_bytes([*a, *b, *c, *d]);
                self.key = key.to_vec();
            }
            (b'S', body) => {
                let mut parts = body
                    .split(|b| *b == 0)
                    .map(|p| String::from_utf8_lossy(p).into_owned());
                let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                self.parameters.retain(|(old, _)| *old != name);
                self.parameters.push((name, value));
            }
            (b'N', body) => self.notices.push(DbError::decode(body)),
            (b'A', [_, _, _, _, body @ ..]) => {
                let mut parts = body
                    .split(|b| *b == 0)
                    .map(|p| String::from_utf8_lossy(p).into_owned());
                let (channel, payload) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                self.notifications.push((channel, payload));
            }
            _ => {}
        }
    }

    /// A ParameterStatus value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether the connection is as it should be between two requests: open, and nothing has been said unasked. Pools of
    /// connections look so at one before they give it out.
    pub fn is_quiet(&mut self) -> bool {
        if self.start < self.buffer.len() {
            return false;
        }
        let mut byte = [0];
        let looked = match &mut self.socket {
            Socket::Tcp(s) => look(s, TcpStream::set_nonblocking, &mut byte),
            Socket::Unix(s) => look(s, UnixStream::set_nonblocking, &mut byte),
        };
        matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Runs SQL by the simple protocol; the rows of the last statement that gave any.
    ///
    /// # Errors
    /// The server's error (the connection is usable unless it was fatal), or what happened to the socket.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>, WireError> {
        self.send(&encode::query(sql.as_bytes()))?;
        self.collect().map(|(rows, _)| rows)
    }

    /// Runs SQL by the simple protocol; the tag of the last statement.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub fn execute(&mut self, sql: &str) -> Result<String, WireError> {
        self.send(&encode::query(sql.as_bytes()))?;
        self.collect().map(|(_, tag)| tag)
    }

    /// One value as text; empty for NULL.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub fn value(&mut self, sql: &str) -> Result<String, WireError> {
        let rows = self.query(sql)?;
        Ok(rows
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .unwrap_or_default())
    }

    /// Runs SQL by the extended protocol with the unnamed statement and text parameters.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub fn query_params(&mut self, sql: &str, values: &[Option<&str>]) -> Result<Vec<Row>, WireError> {
        let values: Vec<Option<Vec<u8>>> = values.iter().map(|v| v.map(|v| v.as_bytes().to_vec())).collect();
        let batch = [
            encode::parse(b"", sql.as_bytes(), &[]),
            encode::bind(b"", b"", &[], &values, &[]),
            encode::execute(b"", 0),
            encode::sync(),
        ];
        self.send(&batch.concat())?;
        self.collect().map(|(rows, _)| rows)
    }

    /// Reads up to ReadyForQuery: rows and tag of the last statement.
    ///
    /// # Errors
    /// The first ErrorResponse, after ReadyForQuery has come; a fatal one at once.
    pub fn collect(&mut self) -> Result<(Vec<Row>, String), WireError> {
        let (mut rows, mut tag, mut error) = (Vec::new(), String::new(), None);
        loop {
            let frame = match self.read() {
                Ok(frame) => frame,
                Err(WireError::Closed) if error.is_some() => return Err(WireError::Db(error.unwrap())),
                Err(e) => return Err(e),
            };
            match frame.tag {
                b'T' => rows.clear(),
                b'D' => rows.push(decode_row(&frame.body)),
                b'C' => tag = show_text(&frame.body),
                b'E' if error.is_none() => error = Some(DbError::decode(&frame.body)),
                b'Z' => return error.map_or(Ok((rows, tag)), |e| Err(WireError::Db(e))),
                _ => {}
            }
        }
    }

    /// Reads up to ReadyForQuery: the tag of each message, for an error its SQLSTATE, and behind the last one the status (`ZI`).
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn outline(&mut self) -> Result<Vec<String>, WireError> {
        let mut told = Vec::new();
        loop {
            let frame = self.read()?;
            match frame.tag {
                b'E' => told.push(DbError::decode(&frame.body).code().to_owned()),
                b'Z' => {
                    told.push(format!("Z{}", char::from(frame.body[0])));
                    return Ok(told);
                }
                tag => told.push(char::from(tag).to_string()),
            }
        }
    }

    /// Asks the peer at `address` to cancel what this connection runs, and waits for the end of that connection.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn cancel(&self, address: &Address) -> Result<(), WireError> {
        let mut other = Self::dial(address)?;
        other.send(&encode::cancel(self.process_id, &self.key))?;
        match other.read() {
            Err(WireError::Closed) => Ok(()),
            Err(error) => Err(error),
            Ok(frame) => Err(WireError::Protocol(format!(
                "{:?} in answer to a cancel",
                char::from(frame.tag)
            ))),
        }
    }

    /// Reads until the peer closes; the SQLSTATE of the last error on the way, and how long it took.
    ///
    /// # Errors
    /// [`WireError::Timeout`] when the peer keeps the connection open.
    pub fn read_to_close(&mut self) -> Result<(Option<DbError>, Duration), WireError> {
        let started = Instant::now();
        let mut last = None;
        loop {
            match self.read() {
                Ok(frame) if frame.tag == b'E' => last = Some(DbError::decode(&frame.body)),
                Ok(_) => {}
                Err(WireError::Closed) => return Ok((last, started.elapsed())),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The values of a DataRow.
pub(crate) fn decode_row(body: &[u8]) -> Row {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut row = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*head)).ok();
        let Some(length) = length else {
            row.push(None);
            rest = tail;
            continue;
        };
        row.push(Some(String::from_utf8_lossy(&tail[..length]).into_owned()));
        rest = &tail[length..];
    }
    row
}

/// A text that ends with a zero byte.
pub(crate) fn show_text(body: &[u8]) -> String {
    String::from_utf8_lossy(body.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}
