//! Greeting: what a client is told after its login, from a worker that was opened with its settings.

use std::rc::Rc;

use pgnet::backend;
use pgnet::fields::Severity;

use super::super::card::Doing;
use super::super::error::ServeError;
use super::super::settings::Settings;
use super::super::thread::Thread;
use super::{Leave, Session};

/// Longest application_name a server keeps, in bytes.
const NAME_MAX: usize = 63;

impl Session {
    /// ParameterStatus, BackendKeyData, ReadyForQuery; or the error the server gives to such a startup.
    pub(super) async fn greet(&mut self) -> Result<(), Leave> {
        // What servers are opened with: the name of the application is set per statement, so that clients that differ
        // only in it share workers.
        let base = self.base.clone();
        let greeting = loop {
            let pool = match self.master_pool(false).await {
                Ok(pool) => pool,
                Err(error) => return Err(Leave::Fatal(Box::new(error.fields(Severity::Fatal)))),
            };
            match pool.greet(&base).await {
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

/// The startup settings workers are opened with for a session.
pub(super) fn base(thread: &Thread, startup: &Rc<Settings>) -> Rc<Settings> {
    if startup.get("application_name").is_some() {
        thread
            .settings
            .with(startup, vec![("application_name".to_owned(), None)])
    } else {
        startup.clone()
    }
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
