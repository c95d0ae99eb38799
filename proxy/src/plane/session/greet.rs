//! Greeting: what a client is told after its login, from a worker that was opened with its settings.

use pgnet::backend;
use pgnet::fields::Severity;

use super::super::card::Doing;
use super::super::error::ServeError;
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
        greeting.tell(mine.as_bytes(), &mut self.out);
        backend::backend_key_data(&mut self.out, self.card.process_id, self.card.key());
        backend::ready_for_query(&mut self.out, b'I');
        self.card.set_doing(Doing::Idle);
        Ok(())
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
