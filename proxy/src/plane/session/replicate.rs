//! Replication connections: passed through byte by byte, each on a server connection of its own, never pooled.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use pgnet::backend;
use pgnet::client::{Config, Credential, establish};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::startup::ProtocolVersion;
use pgnet::stream::Stream;
use tokio::io::AsyncWriteExt;

use super::super::card::{Card, Doing};
use super::super::client::Client;
use super::super::error::ServeError;
use super::super::shared::Shares;
use super::super::thread::Thread;
use super::super::topology::Server;

/// How often it is looked whether the connection still has its place.
const LOOK: Duration = Duration::from_millis(200);
/// Name of its workers in the budget, behind the user's.
const MARK: &str = "\0replication";

/// Serves a replication connection until one of both ends closes, or its server is no longer the master.
pub(super) async fn pass_through(thread: &Rc<Thread>, card: &Rc<Card>, client: Client, replication: &str) {
    let (mut stream, mut client) = client.exchange(());
    let mut out = std::mem::take(&mut client.unsent);
    let fields = match open(thread, &client, replication).await {
        Ok(opened) => return relay(thread, card, &mut stream, (out, client.ahead), opened).await,
        Err(fields) => fields,
    };
    fields.encode_error(&mut out);
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&out)).await;
    let _ = stream.shutdown().await;
}

/// A server connection, with its place in the budget.
struct Opened {
    thread: Rc<Thread>,
    server: std::sync::Arc<Server>,
    database: String,
    user: String,
    connection: Option<pgnet::client::Established>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let budget = &self.thread.shared.budget;
        budget.release(&self.server.name, &self.database, &self.user);
    }
}

async fn open(thread: &Rc<Thread>, client: &Client<()>, replication: &str) -> Result<Opened, ErrorFields> {
    let config = thread.config();
    let effective = config.effective(&client.database, &client.user);
    let fatal = |error: ServeError| error.fields(Severity::Fatal);
    let Some(server) = thread.open_master() else {
        return Err(fatal(ServeError::NoServer {
            waited: Duration::ZERO,
        }));
    };
    let user = format!("{}{MARK}", client.user);
    let shares = Shares {
        pool: effective.max_workers as usize,
        server: config.budget.per_server as usize,
        ..Shares::default()
    };
    let budget = &thread.shared.budget;
    if !budget.acquire(&server.name, &client.database, &user, shares) {
        return Err(fatal(ServeError::Waited {
            waited: Duration::ZERO,
            holders: "replication connections count like workers".to_owned(),
            cause: None,
        }));
    }
    let mut opened = Opened {
        thread: thread.clone(),
        server: server.clone(),
        database: client.database.to_string(),
        user,
        connection: None,
    };
    let mut parameters = client.parameters.as_ref().clone();
    parameters.push(("replication".to_owned(), replication.to_owned()));
    let config = Config {
        credential: client
            .credential
            .as_ref()
            .map_or(Credential::None, |own| (**own).clone()),
        parameters,
        tls: (*server.tls).clone(),
        connect_timeout: config.workers.connect_timeout,
        protocol: ProtocolVersion::V3_0,
        ..Config::new(server.target.clone(), &*client.user, effective.server_database)
    };
    match establish(&config).await {
        Ok(connection) => {
            opened.connection = Some(connection);
            Ok(opened)
        }
        Err(error) => Err(fatal(ServeError::from_connect(error))),
    }
}

async fn relay(
    thread: &Rc<Thread>,
    card: &Rc<Card>,
    stream: &mut Stream,
    (mut greeting, ahead): (BytesMut, BytesMut),
    mut opened: Opened,
) {
    let Some(mut connection) = opened.connection.take() else {
        return;
    };
    card.adopt(connection.process_id, connection.cancel_key.clone());
    *card.pins.borrow_mut() = vec!["replication"];
    card.set_doing(Doing::Leased);
    for (name, value) in &connection.parameters {
        backend::parameter_status(&mut greeting, name, value);
    }
    backend::backend_key_data(&mut greeting, connection.process_id, &connection.cancel_key);
    backend::ready_for_query(&mut greeting, b'I');
    greeting.extend_from_slice(&connection.buffered);
    if stream.write_all(&greeting).await.is_err() || connection.stream.write_all(&ahead).await.is_err() {
        return;
    }
    let copied = tokio::io::copy_bidirectional(stream, &mut connection.stream);
    let ended = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let moved = thread
                .open_master()
                .is_none_or(|m| m.name != opened.server.name || m.target != opened.server.target);
            if moved || card.kill.get().is_some() || thread.shared.draining.load(Relaxed) {
                return;
            }
        }
    };
    tokio::select! {
        _ = copied => {}
        () = ended => {}
    }
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.shutdown()).await;
}
