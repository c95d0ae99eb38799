//! Greeting: what a client is told after its login, from a worker that was opened with its settings.

use std::rc::Rc;

use pgnet::backend;
use pgnet::fields::Severity;

use crds::ApplicationName;

use super::super::card::Doing;
use super::super::client::Peer;
use super::super::error::ServeError;
use super::super::settings::Settings;
use super::super::thread::Thread;
use super::{Leave, Session, Unserved, io};

/// Longest application_name a server keeps, in bytes.
const NAME_MAX: usize = 63;

impl Session {
    /// ParameterStatus, BackendKeyData, ReadyForQuery; or the error the server gives to such a startup.
    pub(super) async fn greet(&mut self) -> Result<(), Leave> {
        let greeting = loop {
            let pool = match self.master_pool(false).await {
                Ok(pool) => pool,
                Err(Unserved::Leave(leave)) => return Err(leave),
                Err(Unserved::Told(error)) => {
                    return Err(Leave::Fatal(Box::new(error.fields(Severity::Fatal))));
                }
            };
            let greeting = io::while_here(
                &self.thread,
                &self.card,
                &mut self.stream,
                &mut self.input,
                pool.greet(&self.greeted_as, &self.startup),
            )
            .await?;
            match greeting {
                Ok(greeting) => break greeting,
                Err(error) if matches!(*error, ServeError::Moved) => tokio::task::yield_now().await,
                Err(error) => return Err(Leave::Fatal(Box::new(error.fields(Severity::Fatal)))),
            }
        };
        let mine = clean(self.startup.get("application_name").unwrap_or_default());
        for (name, value) in greeting.iter() {
            let value: &[u8] = if &name[..] == b"application_name" {
                mine.as_bytes()
            } else {
                value
            };
            backend::parameter_status(&mut self.out, name, value);
        }
        backend::backend_key_data(&mut self.out, self.card.process_id, self.card.key());
        backend::ready_for_query(&mut self.out, b'I');
        self.card.set_doing(Doing::Idle);
        Ok(())
    }
}

/// A session's startup settings: what servers are opened with for it. They always name the application, so that workers
/// of clients with and without a name can serve each other.
pub(super) fn startup(thread: &Thread, mut parameters: Vec<(String, String)>, peer: &Peer) -> Rc<Settings> {
    let own = parameters
        .iter()
        .find(|(n, _)| n == "application_name")
        .map(|(_, v)| v.clone())
        .unwrap_or_default();
    let shown = match thread.config().application_name {
        ApplicationName::Follow => own,
        ApplicationName::Pool => "pgstmtpool".to_owned(),
        ApplicationName::Address if own.is_empty() => peer.to_string(),
        ApplicationName::Address => format!("{own} {peer}"),
    };
    parameters.retain(|(name, _)| name != "application_name");
    parameters.push(("application_name".to_owned(), shown));
    thread.settings.intern(parameters)
}

/// These settings without the name of the application: clients that differ only in it are greeted alike.
pub(super) fn without_name(thread: &Thread, startup: &Rc<Settings>) -> Rc<Settings> {
    thread
        .settings
        .with(startup, vec![("application_name".to_owned(), None)])
}

/// A name as the server would show it: printable ASCII, the rest as `?` (before PostgreSQL 16 so), cut at 63 bytes.
fn clean(name: &str) -> String {
    name.bytes()
        .take(NAME_MAX)
        .map(|b| {
            if (32..=126).contains(&b) {
                char::from(b)
            } else {
                '?'
            }
        })
        .collect()
}
