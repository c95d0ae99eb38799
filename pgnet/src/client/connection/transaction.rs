//! A transaction that cannot be forgotten (PC-07).

use std::ops::{Deref, DerefMut};

use super::{Connection, Error};

impl Connection {
    /// Begins a transaction. What is done through the guard is part of it.
    ///
    /// # Errors
    /// [`Error::Input`] where one is open already.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        self.transaction_with("").await
    }

    /// The same with options, such as `ISOLATION LEVEL SERIALIZABLE READ ONLY`.
    ///
    /// # Errors
    /// [`Error::Input`] where one is open already.
    pub async fn transaction_with(&mut self, options: &str) -> Result<Transaction<'_>, Error> {
        if !self.rollback && self.status != crate::backend::TransactionStatus::Idle {
            return Err(Error::Input("a transaction is open already"));
        }
        self.query(&format!("BEGIN {options}")).await?;
        Ok(Transaction {
            connection: self,
            open: true,
        })
    }
}

/// An open transaction. Dropped without [`Transaction::commit`] it is rolled back: ROLLBACK goes out ahead of the next call on the
/// connection (closing the connection does the same).
#[derive(Debug)]
pub struct Transaction<'c> {
    connection: &'c mut Connection,
    open: bool,
}

impl Transaction<'_> {
    /// Commits.
    ///
    /// # Errors
    /// [`Error::RolledBack`] where a statement had failed before; [`Error::Db`] where the commit itself failed (a deferred constraint,
    /// a serialization failure). Nothing was done in either case.
    pub async fn commit(mut self) -> Result<(), Error> {
        let result = self.connection.query_one("COMMIT").await;
        self.open = false;
        if result?.tag() == "COMMIT" {
            Ok(())
        } else {
            Err(Error::RolledBack)
        }
    }

    /// Rolls back.
    ///
    /// # Errors
    /// [`Error::Fatal`] only, in practice; it is rolled back then too.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let result = self.connection.query("ROLLBACK").await;
        self.open = false;
        result.map(|_| ())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            self.connection.rollback = true;
        }
    }
}
