//! Logins over a socket pair, byte by byte, with a master made of a table. Names say which published fault a test is about.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;

use cluster::Secrets;
use crds::{SecretRef, ServerConfig};
use futures::future::BoxFuture;
use pgnet::auth::scram::{Client as ScramClient, Verifier};
use pgnet::auth::{md5, scram};
use pgnet::backend::{self, Authentication, Message};
use pgnet::client::Credential;
use pgnet::frame;
use pgnet::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::auth::{Lookup, LookupError, Role, Settings};

mod packets;
mod tls;

type Answer = Result<Option<Role>, LookupError>;

/// The master: roles and their stored passwords.
#[derive(Default)]
struct Master {
    roles: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<String>>,
    down: std::sync::atomic::AtomicBool,
}

impl Master {
    fn set(&self, user: &str, stored: &str) {
        self.roles.lock().unwrap().insert(user.into(), stored.into());
    }
}

impl Lookup for Master {
    fn role(&self, user: &str) -> BoxFuture<'static, Answer> {
        self.asked.lock().unwrap().push(user.to_owned());
        let stored = self.roles.lock().unwrap().get(user).cloned();
        let down = self.down.load(std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move {
            match down {
                true => Err(LookupError::Unavailable("down".into())),
                false => Ok(stored.map(|stored| Role {
                    stored: Some(stored),
                    remaining: None,
                })),
            }
        })
    }

    fn groups(&self, user: &str) -> BoxFuture<'static, Result<HashSet<String>, LookupError>> {
        let groups = HashSet::from([user.to_owned(), "staff".to_owned()]);
        Box::pin(async { Ok(groups) })
    }
}

struct World {
    master: Arc<Master>,
    entrance: Arc<Entrance>,
    edge: Arc<Edge>,
}

fn verifier(password: &str) -> String {
    Verifier::generate(password, b"0123456789abcdef", 10).to_string()
}

fn config(hba: &[&str]) -> PoolConfig {
    let mut config = PoolConfig::minimal("p", ServerConfig::host("a", "127.0.0.1", 5432));
    config.auth.hba = hba.iter().map(|line| (*line).to_owned()).collect();
    config.auth.user_secrets = vec![SecretRef::new("users")];
    config.admin_secret = Some(SecretRef::new("admin"));
    config.routing.user_suffix = "_r".into();
    config
}

fn world_of(config: PoolConfig, tls: Option<ServerTls>) -> World {
    let master = Arc::new(Master::default());
    master.set("app", &verifier("right"));
    master.set("old", &md5::hash("old", "right"));
    let mut secrets = Secrets::default();
    let values = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect::<Vec<_>>()
    };
    secrets.insert(
        "users",
        "",
        values(&[("listed", "right"), ("other", "x"), ("third", "y")]),
    );
    secrets.insert(
        "admin",
        "",
        values(&[("username", "postgres"), ("password", "admin-password")]),
    );
    let edge = Arc::new(Edge::default());
    let gate = Arc::new(Gate::new(Arc::clone(&master) as _, Arc::clone(&edge)));
    gate.configure(Settings::new(&config, &secrets, [7; 32], &Settings::default()));
    let terms = Terms {
        config: Arc::new(config),
        tls,
    };
    let entrance = Arc::new(Entrance::new(terms, gate, Arc::clone(&edge), Arc::default()));
    World {
        master,
        entrance,
        edge,
    }
}

fn world(hba: &[&str]) -> World {
    world_of(config(hba), None)
}

const SCRAM: &[&str] = &["local all all scram-sha-256", "host all all all scram-sha-256"];

/// A client's end of a login in progress.
struct Guest {
    socket: UnixStream,
    login: tokio::task::JoinHandle<Login>,
}

impl World {
    /// A client, with the peer it pretends to be.
    fn client(&self, peer: Peer) -> Guest {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let entrance = Arc::clone(&self.entrance);
        let login = tokio::spawn(async move {
            let mut login = entrance.login(Stream::Unix(theirs), Door::ReadWrite, peer).await;
            if let Login::Client(client) | Login::Pseudo(client) = &mut login {
                let unsent = std::mem::take(&mut client.unsent);
                client.stream.write_all(&unsent).await.unwrap();
            }
            login
        });
        Guest { socket, login }
    }

    fn local(&self) -> Guest {
        self.client(Peer::Unix)
    }

    fn tcp(&self, address: &str) -> Guest {
        self.client(Peer::Tcp(SocketAddr::new(address.parse().unwrap(), 4711)))
    }

    /// The whole login of a client that knows what to do.
    async fn login(&self, user: &str, database: &str, password: &str) -> Result<Box<Client>, String> {
        let mut guest = self.local();
        guest
            .send(&startup_packet(&[("user", user), ("database", database)]))
            .await;
        guest.prove(user, password).await.map_err(|(code, _)| code)?;
        match guest.login.await.unwrap() {
            Login::Client(client) | Login::Pseudo(client) => Ok(client),
            _ => Err("closed".into()),
        }
    }
}

impl Guest {
    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head).await.ok()?;
        let header = frame::peek(&head, 100_000).unwrap().unwrap();
        let mut body = vec![0; header.body()];
        self.socket.read_exact(&mut body).await.ok()?;
        Some((header.tag, body))
    }

    /// The SQLSTATE and text the login ends with; empty when it is closed without a word.
    async fn refusal(&mut self) -> (String, String) {
        match self.read().await {
            None => <(String, String)>::default(),
            Some((tag, body)) => match backend::decode(tag, &body).unwrap() {
                Message::ErrorResponse(fields) => {
                    let fields = fields.to_owned();
                    assert!(fields.is_fatal());
                    (fields.code.as_str().to_owned(), fields.message)
                }
                other => panic!("not an error: {other:?}"),
            },
        }
    }

    /// Answers every request for a proof until AuthenticationOk, or the error.
    async fn prove(&mut self, user: &str, password: &str) -> Result<(), (String, String)> {
        let mut client = Some(ScramClient::from_password(password).unwrap());
        let mut proof = None;
        loop {
            let Some((tag, body)) = self.read().await else {
                return Err(<(String, String)>::default());
            };
            let mut answer = BytesMut::new();
            match backend::decode(tag, &body).unwrap() {
                Message::Authentication(Authentication::Ok) => return Ok(()),
                Message::Authentication(Authentication::Cleartext) => {
                    frontend::password(&mut answer, password.as_bytes());
                }
                Message::Authentication(Authentication::Md5 { salt }) => {
                    let response = md5::response(&md5::hash(user, password), salt).unwrap();
                    frontend::password(&mut answer, response.as_bytes());
                }
                Message::Authentication(Authentication::Sasl(_)) => {
                    let first = client.as_ref().unwrap().first();
                    frontend::sasl_initial(&mut answer, scram::SCRAM_SHA_256, Some(&first));
                }
                Message::Authentication(Authentication::SaslContinue(data)) => {
                    let next = client.take().unwrap().challenge(data).unwrap().run();
                    frontend::sasl_response(&mut answer, next.message());
                    proof = Some(next);
                }
                Message::Authentication(Authentication::SaslFinal(data)) => {
                    proof.take().unwrap().verify(data).unwrap();
                }
                Message::ErrorResponse(fields) => {
                    let fields = fields.to_owned();
                    return Err((fields.code.as_str().to_owned(), fields.message));
                }
                other => panic!("unexpected {other:?}"),
            }
            self.send(&answer).await;
        }
    }
}

fn startup_packet(parameters: &[(&str, &str)]) -> BytesMut {
    let mut packet = BytesMut::new();
    startup::startup(
        &mut packet,
        pgnet::startup::ProtocolVersion::V3_0,
        parameters.iter().copied(),
    );
    packet
}

fn request(encode: fn(&mut BytesMut)) -> BytesMut {
    let mut packet = BytesMut::new();
    encode(&mut packet);
    packet
}

#[tokio::test]
async fn a_login_yields_what_logs_in_to_servers() {
    let world = world(SCRAM);
    let client = world.login("app", "shop", "right").await.unwrap();
    assert_eq!(
        (&*client.user, &*client.database, client.door),
        ("app", "shop", Door::ReadWrite)
    );
    let keys = Verifier::parse(&verifier("right"))
        .unwrap()
        .keys_for("right")
        .unwrap();
    assert!(matches!(client.credential.as_deref(), Some(Credential::Scram(learned)) if *learned == keys));
    assert!(!client.admin);

    let listed = world.login("listed", "shop", "right").await.unwrap();
    assert!(
        matches!(listed.credential.as_deref(), Some(Credential::Password(password)) if password == "right")
    );
    assert!(
        !world.master.asked.lock().unwrap().contains(&"listed".to_owned()),
        "secrets are asked first"
    );
}

#[tokio::test]
async fn a_login_may_come_byte_by_byte() {
    let world = world(&["local all all trust"]);
    let mut guest = world.local();
    for packet in [request(startup::gssenc_request), request(startup::ssl_request)] {
        for byte in packet {
            guest.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        let mut answer = [0];
        guest.socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"N");
    }
    for byte in startup_packet(&[("user", "app_r"), ("application_name", "x")]) {
        guest.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    guest.prove("app", "").await.unwrap();
    let Login::Client(client) = guest.login.await.unwrap() else {
        panic!("not let in")
    };
    assert_eq!((&*client.user, client.door), ("app", Door::ReadOnly));
    assert_eq!(
        *client.parameters,
        [("application_name".to_owned(), "x".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_behind_its_login_is_left_to_its_session() {
    let world = world(&["local all all trust"]);
    for behind in [&b""[..], b"Q", b"Q\0\0\0\x06;\0X\0\0\0\x04"] {
        let mut guest = world.local();
        let mut all = BytesMut::new();
        startup::ssl_request(&mut all);
        all.extend_from_slice(&startup_packet(&[("user", "app")]));
        all.extend_from_slice(behind);
        guest.send(&all).await;
        let Login::Client(client) = guest.login.await.unwrap() else {
            panic!("not let in")
        };
        assert_eq!(client.ahead, behind);
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_is_read_anew_under_new_terms() {
    let world = world(&["local all all trust"]);
    let login = async || {
        let mut guest = world.local();
        guest
            .send(&startup_packet(&[("user", "app"), ("database", "shop-ro")]))
            .await;
        let Login::Client(client) = guest.login.await.unwrap() else {
            panic!("not let in")
        };
        client.database.to_string()
    };
    assert_eq!(
        (login().await, login().await),
        ("shop-ro".into(), "shop-ro".into())
    );
    let mut config = PoolConfig::clone(&world.entrance.config());
    config.routing.database_suffix = "-ro".into();
    world.entrance.configure(Terms {
        config: Arc::new(config),
        tls: None,
    });
    assert_eq!((login().await, login().await), ("shop".into(), "shop".into()));
}

#[tokio::test]
async fn what_follows_a_login_is_left_for_the_session() {
    let world = world(&["local all all trust"]);
    let mut guest = world.local();
    let mut packet = startup_packet(&[("user", "app")]);
    frontend::query(&mut packet, b"select 1");
    guest.send(&packet).await;
    guest.prove("app", "").await.unwrap();
    let Login::Client(mut client) = guest.login.await.unwrap() else {
        panic!("not let in")
    };
    // Read with the login already, or still in the socket: nothing of it is lost, and nothing is there twice.
    let mut left = client.ahead.to_vec();
    drop(guest.socket);
    client.stream.read_to_end(&mut left).await.unwrap();
    let mut query = BytesMut::new();
    frontend::query(&mut query, b"select 1");
    assert_eq!(left, query);
}

#[tokio::test]
async fn wrong_password_unknown_user_and_no_password_look_alike() {
    let world = world(SCRAM);
    world.master.set("bare", "");
    let mut told = Vec::new();
    for user in ["app", "nobody", "bare", "old", "listed"] {
        let mut guest = world.local();
        guest
            .send(&startup_packet(&[("user", user), ("database", "shop")]))
            .await;
        let (code, text) = guest.prove(user, "wrong").await.unwrap_err();
        told.push((code, text.replace(user, "X")));
    }
    told.dedup();
    assert_eq!(
        told,
        [(
            "28P01".to_owned(),
            "password authentication failed for user \"X\"".to_owned()
        )]
    );
}

#[tokio::test]
async fn the_salt_of_a_user_who_does_not_exist_stays_the_same() {
    let world = world(SCRAM);
    let mut salts = Vec::new();
    for _ in 0..2 {
        for user in ["nobody", "listed"] {
            let mut guest = world.local();
            guest.send(&startup_packet(&[("user", user)])).await;
            guest.read().await.unwrap();
            let first = ScramClient::from_password("x").unwrap().first();
            let mut answer = BytesMut::new();
            frontend::sasl_initial(&mut answer, scram::SCRAM_SHA_256, Some(&first));
            guest.send(&answer).await;
            let (_, body) = guest.read().await.unwrap();
            let text = String::from_utf8(body[4..].to_vec()).unwrap();
            let salt = text.split(",s=").nth(1).unwrap().to_owned();
            assert!(salt.ends_with(",i=4096"), "{salt}");
            salts.push(salt);
        }
    }
    assert_eq!(salts[0], salts[2]);
    assert_eq!(salts[1], salts[3]);
    assert_ne!(salts[0], salts[1]);
}

#[tokio::test]
async fn cve_2015_6817_an_unknown_user_is_never_let_in() {
    let world = world(SCRAM);
    for password in ["", "admin-password", "right"] {
        assert_eq!(
            world.login("nobody", "shop", password).await.err().as_deref(),
            Some("28P01"),
            "{password:?}"
        );
    }
    assert_eq!(
        world
            .login("postgres", "shop", "admin-password")
            .await
            .err()
            .as_deref(),
        Some("28P01")
    );
}

#[tokio::test]
async fn cve_2025_46801_every_login_is_asked_however_warm_the_cache() {
    let world = world(SCRAM);
    world.login("app", "shop", "right").await.unwrap();
    assert_eq!(
        world.login("app", "shop", "wrong").await.err().as_deref(),
        Some("28P01")
    );
    world.login("app", "shop", "right").await.unwrap();
    assert_eq!(
        world.master.asked.lock().unwrap().len(),
        1,
        "and the master was asked once"
    );
}

#[tokio::test]
async fn rules_decide_and_speak_as_postgresql_does() {
    let hba = [
        "local all all trust",
        "host shop bad all reject",
        "host shop +staff all md5",
        "host postgres old 10.0.0.0/8 password",
    ];
    let world = world(&hba);
    let ask = async |address: &str, user: &str, database: &str, password: &str| {
        let mut guest = world.tcp(address);
        guest
            .send(&startup_packet(&[("user", user), ("database", database)]))
            .await;
        guest.prove(user, password).await
    };
    let (code, text) = ask("10.0.0.1", "bad", "shop", "").await.unwrap_err();
    assert_eq!(
        (code.as_str(), text.starts_with("pg_hba.conf rejects connection")),
        ("28000", true),
        "{text}"
    );
    let (code, text) = ask("10.0.0.1", "app", "other", "").await.unwrap_err();
    assert_eq!(
        (code.as_str(), text.starts_with("no pg_hba.conf entry")),
        ("28000", true),
        "{text}"
    );
    assert!(
        ask("10.0.0.1", "old", "shop", "right").await.is_ok(),
        "md5 for a stored md5 hash"
    );
    assert!(
        ask("10.0.0.1", "app", "shop", "right").await.is_ok(),
        "SCRAM for a stored verifier"
    );
    assert_eq!(
        ask("10.0.0.1", "old", "shop", "wrong").await.unwrap_err().0,
        "28P01"
    );
    let (code, text) = ask("10.0.0.1", "old", "postgres", "right").await.unwrap_err();
    assert_eq!(
        (code.as_str(), text.contains("needs TLS")),
        ("28000", true),
        "{text}"
    );
}

#[tokio::test]
async fn a_password_in_clear_text_is_taken_near_by_and_checked() {
    let world = world(&["local all all password"]);
    for user in ["app", "old", "listed"] {
        for (password, code) in [
            ("wrong", Some("28P01")),
            ("right", None),
            ("", Some("28P01")),
            ("right", None),
        ] {
            assert_eq!(
                world.login(user, "shop", password).await.err().as_deref(),
                code,
                "{user} {password:?}"
            );
        }
    }
    assert_eq!(
        world.login("nobody", "shop", "right").await.err().as_deref(),
        Some("28P01")
    );
}

#[tokio::test]
async fn clients_over_the_bounds_are_refused_and_places_come_back() {
    let mut config = config(&["local all all trust"]);
    config.limits.max_clients = 2;
    config.limits.max_clients_per_user = 1;
    let world = world_of(config, None);
    let first = world.login("a", "shop", "").await.unwrap();
    assert_eq!(world.login("a", "shop", "").await.err().as_deref(), Some("53300"));
    let _second = world.login("b", "shop", "").await.unwrap();
    assert_eq!(world.login("c", "shop", "").await.err().as_deref(), Some("53300"));
    assert!(
        world.login("c", "pseudo", "").await.is_ok(),
        "the admin can look when it is full"
    );
    drop(first);
    assert!(world.login("a", "shop", "").await.is_ok());
}

#[tokio::test]
async fn only_the_user_of_the_admin_secret_is_admin_and_only_there() {
    let world = world(SCRAM);
    world.master.set("postgres", &verifier("server-password"));
    let admin = world.login("postgres", "pseudo", "admin-password").await.unwrap();
    assert!(admin.admin);
    assert!(!world.login("app", "pgbouncer", "right").await.unwrap().admin);
    assert!(
        !world
            .login("postgres", "shop", "server-password")
            .await
            .unwrap()
            .admin
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_sent_away_in_time() {
    let world = world(SCRAM);
    let mut guest = world.local();
    guest.send(&startup_packet(&[("user", "app")])[..10]).await;
    let began = Instant::now();
    let (code, text) = guest.refusal().await;
    assert_eq!(
        (code.as_str(), text.as_str()),
        ("57014", "canceling authentication due to timeout")
    );
    assert!(began.elapsed() <= Duration::from_secs(16));
    assert_eq!(world.edge.in_login(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_master_a_new_user_waits_and_is_told() {
    let world = world(SCRAM);
    world
        .master
        .down
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let mut guest = world.local();
    guest.send(&startup_packet(&[("user", "app")])).await;
    assert_eq!(guest.refusal().await.0, "57P03");
}
