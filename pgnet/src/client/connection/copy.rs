//! COPY in both directions, streamed (PC-05, PC-06).

use bytes::Bytes;

use super::collect::{Collector, Reaction};
use super::{Connection, Error, QueryResult};
use crate::frontend;

/// So much is gathered before it goes to the socket, and no more than this waits there.
const GATHER: usize = 64 * 1_024;

impl Connection {
    /// Starts a `COPY ... FROM STDIN`. The data follows by [`CopyIn::send`], in the format the statement names; nothing is done
    /// before [`CopyIn::finish`]. Dropping it in between breaks the connection, and with it the COPY.
    ///
    /// # Errors
    /// [`Error::Db`]; [`Error::Input`] where it is no such statement (it was run all the same).
    pub async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, Error> {
        let mut collector = self.start_copy(sql).await?;
        loop {
            match self.step(&mut collector, &mut |_| ()).await? {
                Reaction::CopyIn => {
                    return Ok(CopyIn {
                        connection: self,
                        collector,
                        over: false,
                    });
                }
                Reaction::Ready => {
                    collector.finish()?;
                    return Err(Error::Input("not a COPY FROM STDIN"));
                }
                Reaction::More | Reaction::CopyOut | Reaction::CopyData(_) => {}
            }
        }
    }

    /// Copies all of `data` in; how it is cut does not matter to the server.
    ///
    /// # Errors
    /// As [`Connection::copy_in`].
    pub async fn copy_in_all<D>(&mut self, sql: &str, data: D) -> Result<QueryResult, Error>
    where
        D: IntoIterator,
        D::Item: AsRef<[u8]>,
    {
        let mut copy = self.copy_in(sql).await?;
        for piece in data {
            copy.send(piece.as_ref()).await?;
        }
        copy.finish().await
    }

    /// Starts a `COPY ... TO STDOUT`. The data comes by [`CopyOut::next`], a row at a time in the text formats.
    ///
    /// # Errors
    /// [`Error::Db`]; [`Error::Input`] where it is no such statement (it was run all the same).
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, Error> {
        let mut collector = self.start_copy(sql).await?;
        loop {
            match self.step(&mut collector, &mut |_| ()).await? {
                Reaction::CopyOut => {
                    return Ok(CopyOut {
                        connection: self,
                        collector: Some(collector),
                    });
                }
                Reaction::CopyIn => frontend::copy_fail(self.write(), b"not a COPY TO STDOUT"),
                Reaction::Ready => {
                    collector.finish()?;
                    return Err(Error::Input("not a COPY TO STDOUT"));
                }
                Reaction::More | Reaction::CopyData(_) => {}
            }
        }
    }

    /// Copies all out, a piece at a time into `take`.
    ///
    /// # Errors
    /// As [`Connection::copy_out`].
    pub async fn copy_out_all(&mut self, sql: &str, mut take: impl FnMut(&[u8]) + Send) -> Result<(), Error> {
        let mut copy = self.copy_out(sql).await?;
        while let Some(piece) = copy.next().await? {
            take(&piece);
        }
        Ok(())
    }

    async fn start_copy(&mut self, sql: &str) -> Result<Collector, Error> {
        self.begin(sql).await?;
        frontend::query(self.write(), sql.as_bytes());
        Ok(Collector::simple(self.result_max))
    }
}

/// A `COPY ... FROM STDIN` under way.
#[derive(Debug)]
#[must_use = "nothing is copied before finish"]
pub struct CopyIn<'c> {
    connection: &'c mut Connection,
    collector: Collector,
    over: bool,
}

impl CopyIn<'_> {
    /// Sends a piece of data, of any length.
    ///
    /// # Errors
    /// [`Error::Db`] as soon as the server has refused something; the COPY is over then and the connection goes on.
    pub async fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        if self.over {
            return Err(Error::Input("the COPY is over"));
        }
        for piece in data.chunks(GATHER) {
            frontend::copy_data(self.connection.write(), piece);
            if self.connection.link.write.len() >= GATHER {
                self.drain().await?;
            }
        }
        Ok(())
    }

    /// Sends a row in the text format; `None` is NULL.
    ///
    /// # Errors
    /// As [`CopyIn::send`].
    pub async fn send_row(&mut self, row: &[Option<&str>]) -> Result<(), Error> {
        self.send(text_row(row).as_bytes()).await
    }

    async fn drain(&mut self) -> Result<(), Error> {
        while self.connection.link.write.len() > GATHER / 2 {
            if let Err(fatal) = self.connection.link.progress().await {
                return Err(self.connection.fail(fatal));
            }
            self.look()?;
            if self.collector.failed() {
                return self.end().await.map(|_| ());
            }
        }
        Ok(())
    }

    /// Takes what the server says meanwhile: notices, or that it has had enough.
    fn look(&mut self) -> Result<(), Error> {
        let Self {
            connection,
            collector,
            ..
        } = self;
        let mut next = || -> Result<bool, super::Fatal> {
            let Some(frame) = connection.link.buffered()? else {
                return Ok(false);
            };
            if let Some(frame) = connection.absorb(frame)? {
                collector.on(&frame)?;
            }
            Ok(true)
        };
        loop {
            match next() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(fatal) => return Err(self.connection.fail(fatal)),
            }
        }
    }

    async fn end(&mut self) -> Result<QueryResult, Error> {
        self.over = true;
        if self.connection.busy {
            self.connection.collect(&mut self.collector).await?;
        }
        let collector = std::mem::replace(&mut self.collector, Collector::simple(0));
        Ok(collector.finish()?.pop().unwrap_or_default())
    }

    /// Ends the COPY; its count is in the result.
    ///
    /// # Errors
    /// [`Error::Db`] where the data is not what the table wants: nothing was copied.
    pub async fn finish(mut self) -> Result<QueryResult, Error> {
        if self.over {
            return Err(Error::Input("the COPY is over"));
        }
        frontend::copy_done(self.connection.write());
        self.end().await
    }

    /// Gives the COPY up: nothing is copied.
    ///
    /// # Errors
    /// [`Error::Fatal`] only; the server's error about the COPY is what was asked for.
    pub async fn abort(mut self, reason: &str) -> Result<(), Error> {
        if self.over {
            return Ok(());
        }
        frontend::copy_fail(self.connection.write(), reason.as_bytes());
        match self.end().await {
            Ok(_) | Err(Error::Db(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A `COPY ... TO STDOUT` under way. Dropping it before its end breaks the connection.
#[derive(Debug)]
pub struct CopyOut<'c> {
    connection: &'c mut Connection,
    collector: Option<Collector>,
}

impl CopyOut<'_> {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Db`] where the COPY failed after some of it had come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(collector) = &mut self.collector {
            match self.connection.step(collector, &mut |_| ()).await? {
                Reaction::CopyData(data) => return Ok(Some(data)),
                Reaction::CopyIn => frontend::copy_fail(self.connection.write(), b"no data to copy here"),
                Reaction::Ready => {
                    if let Some(collector) = self.collector.take() {
                        collector.finish()?;
                    }
                }
                Reaction::More | Reaction::CopyOut => {}
            }
        }
        Ok(None)
    }
}

/// A row in the text format of COPY.
fn text_row(row: &[Option<&str>]) -> String {
    let mut line = String::new();
    for (i, value) in row.iter().enumerate() {
        if i > 0 {
            line.push('\t');
        }
        match value {
            None => line.push_str("\\N"),
            Some(value) => value.chars().for_each(|c| match c {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                c => line.push(c),
            }),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_row_is_escaped() {
        assert_eq!(
            text_row(&[Some("a\tb"), None, Some("c\\\r\n"), Some("")]),
            "a\\tb\t\\N\tc\\\\\\r\\n\t\n"
        );
        assert_eq!(text_row(&[]), "\n");
        assert_eq!(
            text_row(&[Some("\\.")]),
            "\\\\.\n",
            "no end of data in the middle of it"
        );
    }
}
