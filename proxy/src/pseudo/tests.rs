//! Whole sessions with the admin database over a socket pair.

use std::sync::Mutex;

use bytes::BytesMut;
use futures::future::ready;
use pgnet::backend::{self, Message};
use pgnet::frame;
use pgnet::frontend;
use pgnet::startup::ProtocolVersion;
use pgnet::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::plane::{Client, Door, Peer};

/// Has one pool of each of two users, and remembers what it was told.
#[derive(Default)]
struct Fake {
    told: Mutex<Vec<String>>,
}

impl Fake {
    fn tell(&self, text: impl Into<String>) {
        self.told.lock().unwrap().push(text.into());
    }
}

fn pin(user: &str) -> PinRow {
    PinRow {
        process_id: 7,
        database: "shop".into(),
        user: user.into(),
        server_process_id: 8,
        reasons: vec!["listen", "temp table"],
        age: std::time::Duration::from_micros(5),
    }
}

impl Stage for Fake {
    fn pools(&self) -> BoxFuture<'_, Vec<PoolRow>> {
        Box::pin(ready(Vec::new()))
    }
    fn clients(&self) -> BoxFuture<'_, Vec<ClientRow>> {
        Box::pin(ready(Vec::new()))
    }
    fn servers(&self) -> BoxFuture<'_, Vec<ServerRow>> {
        Box::pin(ready(Vec::new()))
    }
    fn pins(&self) -> BoxFuture<'_, Vec<PinRow>> {
        Box::pin(ready(vec![pin("app"), pin("other")]))
    }
    fn pause(&self, database: Option<String>) -> BoxFuture<'_, ()> {
        self.tell(format!("pause {database:?}"));
        Box::pin(ready(()))
    }
    fn resume(&self, database: Option<String>) -> BoxFuture<'_, ()> {
        self.tell(format!("resume {database:?}"));
        Box::pin(ready(()))
    }
    fn counters(&self) -> Vec<Arc<Counters>> {
        Vec::new()
    }
    fn config(&self) -> Arc<PoolConfig> {
        Arc::default()
    }
    fn topology(&self) -> Arc<Topology> {
        Arc::new(Topology::unknown())
    }
    fn reload(&self) {
        self.tell("reload");
    }
    fn shutdown(&self, how: Shutdown) {
        self.tell(format!("{how:?}"));
    }
}

struct Session {
    socket: UnixStream,
    stage: Arc<Fake>,
}

impl Session {
    /// A session after its greeting.
    async fn new(admin: bool) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let stage = Arc::new(Fake::default());
        let client = Client {
            stream: Stream::Unix(theirs),
            ahead: BytesMut::new(),
            unsent: BytesMut::new(),
            database: "pseudo".into(),
            user: "app".into(),
            replication: None,
            parameters: Arc::default(),
            credential: None,
            door: Door::ReadWrite,
            peer: Peer::Unix,
            protocol: ProtocolVersion::V3_0,
            admin,
            seat: None,
        };
        tokio::spawn(serve(Box::new(client), Arc::clone(&stage) as _));
        let mut session = Self { socket, stage };
        let greeting = session.until_ready().await;
        assert!(greeting.starts_with("S S "), "{greeting}");
        session
    }

    /// The answer up to ReadyForQuery, or the end, as one line: rows in brackets, errors by their code.
    async fn until_ready(&mut self) -> String {
        let mut said = Vec::new();
        loop {
            let mut head = [0; 5];
            if self.socket.read_exact(&mut head).await.is_err() {
                said.push("end".to_owned());
                return said.join(" ");
            }
            let header = frame::peek(&head, 1 << 20).unwrap().unwrap();
            let mut body = vec![0; header.body()];
            self.socket.read_exact(&mut body).await.unwrap();
            said.push(match backend::decode(header.tag, &body).unwrap() {
                Message::ErrorResponse(fields) => fields.to_owned().code.as_str().to_owned(),
                Message::CommandComplete(tag) => String::from_utf8(tag.to_vec()).unwrap(),
                Message::DataRow(values) => {
                    let text =
                        |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or(b"null")).into_owned();
                    format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join("|"))
                }
                _ => char::from(header.tag).to_string(),
            });
            if header.tag == b'Z' {
                return said.join(" ");
            }
        }
    }

    async fn send(&mut self, build: impl FnOnce(&mut BytesMut)) -> String {
        let mut buffer = BytesMut::new();
        build(&mut buffer);
        self.socket.write_all(&buffer).await.unwrap();
        self.until_ready().await
    }

    async fn query(&mut self, text: &str) -> String {
        self.send(|buffer| frontend::query(buffer, text.as_bytes())).await
    }

    fn told(&self) -> Vec<String> {
        self.stage.told.lock().unwrap().clone()
    }
}

const VERSION: &str = concat!("[pgstmtpool ", env!("CARGO_PKG_VERSION"), "]");

#[tokio::test]
async fn the_simple_protocol_answers_each_command() {
    let mut session = Session::new(true).await;
    assert_eq!(session.query("show version").await, format!("T {VERSION} SHOW Z"));
    assert_eq!(session.query("").await, "I Z");
    assert_eq!(session.query("select 1").await, "42601 Z");
    assert_eq!(session.query("pause shop; resume").await, "PAUSE RESUME Z");
    assert_eq!(session.query("reload").await, "RELOAD Z");
    assert_eq!(session.query("shutdown wait_for_clients").await, "SHUTDOWN Z");
    assert_eq!(
        session.told(),
        ["pause Some(\"shop\")", "resume None", "reload", "Drain"]
    );
}

#[tokio::test]
async fn cve_2026_6667_others_than_the_admin_change_nothing_and_see_only_their_own() {
    let mut session = Session::new(false).await;
    for command in [
        "pause",
        "resume",
        "reload",
        "shutdown",
        "shutdown wait_for_servers",
        "show config",
        "show databases",
    ] {
        assert_eq!(session.query(command).await, "42501 Z", "{command}");
    }
    assert_eq!(session.told(), Vec::<String>::new());
    assert_eq!(
        session.query("show pins").await,
        "T [7|app|shop|8|listen, temp table|5] SHOW Z"
    );
    assert_eq!(
        session.query("show help; pause").await.split(' ').next_back(),
        Some("Z")
    );
    assert_eq!(session.told(), Vec::<String>::new());
    let mut admin = Session::new(true).await;
    assert_eq!(admin.query("show pins").await.matches('[').count(), 2);
}

#[tokio::test]
async fn drivers_may_use_the_extended_protocol() {
    let mut session = Session::new(true).await;
    let answer = session
        .send(|buffer| {
            frontend::parse(buffer, b"s", b"show version", &[]);
            frontend::describe_statement(buffer, b"s");
            frontend::bind(buffer, b"p", b"s", &[], &[], &[1]);
            frontend::describe_portal(buffer, b"p");
            frontend::execute(buffer, b"p", 0);
            frontend::close_portal(buffer, b"p");
            frontend::close_statement(buffer, b"s");
            frontend::sync(buffer);
        })
        .await;
    assert_eq!(answer, format!("1 t T 2 T {VERSION} SHOW 3 3 Z"));
}

#[tokio::test]
async fn a_limit_of_rows_suspends_the_portal() {
    let mut session = Session::new(true).await;
    let answer = session
        .send(|buffer| {
            frontend::parse(buffer, b"", b"show pins", &[]);
            frontend::bind(buffer, b"", b"", &[], &[], &[]);
            frontend::execute(buffer, b"", 1);
            frontend::execute(buffer, b"", 1);
            frontend::sync(buffer);
        })
        .await;
    assert_eq!(
        answer.replace("listen, temp table", "x"),
        "1 2 [7|app|shop|8|x|5] s [7|other|shop|8|x|5] SHOW Z"
    );
}

#[tokio::test]
async fn after_an_error_the_rest_is_skipped_until_sync() {
    let mut session = Session::new(true).await;
    let answer = session
        .send(|buffer| {
            frontend::parse(buffer, b"", b"nonsense", &[]);
            frontend::bind(buffer, b"", b"", &[], &[], &[]);
            frontend::execute(buffer, b"", 0);
            frontend::sync(buffer);
        })
        .await;
    assert_eq!(answer, "42601 Z");
    for (name, build) in [
        (
            "26000",
            (|b| frontend::bind(b, b"", b"no", &[], &[], &[])) as fn(&mut BytesMut),
        ),
        ("34000", |b| frontend::execute(b, b"no", 0)),
        ("08P01", |b| {
            frontend::parse(b, b"", b"show version", &[]);
            frontend::bind(b, b"", b"", &[], &[Some(b"x")], &[]);
        }),
        ("42601", |b| frontend::parse(b, b"", b"pause; resume", &[])),
    ] {
        let answer = session
            .send(|buffer| {
                build(buffer);
                frontend::sync(buffer);
            })
            .await;
        assert!(
            answer.trim_start_matches("1 ") == format!("{name} Z"),
            "{name}: {answer}"
        );
    }
    assert_eq!(session.query("show version").await, format!("T {VERSION} SHOW Z"));
    assert_eq!(session.told(), Vec::<String>::new());
}

#[tokio::test]
async fn names_are_bounded() {
    let mut session = Session::new(true).await;
    let answer = session
        .send(|buffer| {
            for index in 0..300 {
                frontend::parse(buffer, format!("s{index}").as_bytes(), b"show version", &[]);
            }
            frontend::sync(buffer);
        })
        .await;
    assert!(answer.ends_with("54000 Z"), "{answer}");
}

#[tokio::test]
async fn broken_messages_end_the_session_with_a_word() {
    for bytes in [
        &b"Q\x7f\xff\xff\xff"[..],
        b"Q\0\0\0\x03",
        b"z\0\0\0\x04",
        b"p\0\0\0\x05x",
        b"Q\0\0\0\x08abcd",
    ] {
        let mut session = Session::new(true).await;
        session.socket.write_all(bytes).await.unwrap();
        assert_eq!(session.until_ready().await, "08P01 end", "{bytes:?}");
    }
    let mut session = Session::new(true).await;
    session.socket.write_all(b"X\0\0\0\x04").await.unwrap();
    assert_eq!(session.until_ready().await, "end");
}
