//! One statement for many rows of parameters, as one pipeline (PC-04, PC-17).

use bytes::BytesMut;

use super::collect::{Collector, Reaction};
use super::{Connection, Error, QueryResult};
use crate::frontend;

/// How much of a pipeline is made ahead of the socket.
const AHEAD: usize = 64 * 1_024;

/// Text or binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As people write it.
    #[default]
    Text,
    /// As the server holds it.
    Binary,
}

impl Format {
    fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// What becomes of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Results {
    /// They are returned.
    #[default]
    Keep,
    /// They are read and thrown away.
    Discard,
}

/// How [`Connection::query_many`] is to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Types of the first parameters; 0 leaves one to the server.
    pub types: &'a [u32],
    /// Format of all parameters.
    pub params: Format,
    /// Format of all columns (PC-17).
    pub columns: Format,
    /// What becomes of the results.
    pub results: Results,
}

impl Connection {
    /// Runs one statement for each row of parameters: one pipeline, one transaction, one round trip however many there are. Rows
    /// are taken from the iterator as the socket takes them, so it may be long.
    ///
    /// The results come in the order of the rows; none with [`Results::Discard`].
    ///
    /// # Errors
    /// [`Error::Db`] for the first that failed: then none was done (outside a transaction block). [`Error::Input`] for a row with more
    /// parameters than there can be (65,535): the ones before it were done.
    pub async fn query_many<R, P>(
        &mut self,
        sql: &str,
        rows: R,
        options: Options<'_>,
    ) -> Result<Vec<QueryResult>, Error>
    where
        R: IntoIterator,
        R::IntoIter: Send,
        R::Item: AsRef<[Option<P>]>,
        P: AsRef<[u8]>,
    {
        if options.types.len() > usize::from(u16::MAX) {
            return Err(Error::Input("more parameters than there can be"));
        }
        self.begin(sql).await?;
        let write = self.write();
        frontend::parse(write, b"", sql.as_bytes(), options.types);
        frontend::describe_statement(write, b"");
        let mut pipeline = Pipeline {
            rows: rows.into_iter(),
            options,
            done: false,
            too_many: false,
        };
        let keep = options.results == Results::Keep;
        let mut collector = Collector::extended(self.result_max, keep, options.columns.code());
        loop {
            let stop = collector.failed();
            match self
                .step(&mut collector, &mut |buf| pipeline.fill(buf, stop))
                .await?
            {
                Reaction::Ready => break,
                // Between Execute and Sync the server waits for data and nothing else.
                Reaction::CopyIn => frontend::copy_fail(self.write(), b"COPY needs copy_in"),
                Reaction::More | Reaction::CopyOut | Reaction::CopyData(_) => {}
            }
        }
        if pipeline.too_many {
            return Err(Error::Input("more parameters than there can be"));
        }
        collector.finish()
    }
}

struct Pipeline<'a, I> {
    rows: I,
    options: Options<'a>,
    done: bool,
    too_many: bool,
}

impl<I: Iterator> Pipeline<'_, I> {
    /// Appends rows until enough is ahead, and Sync after the last, or at once where there is no point in going on.
    fn fill<P: AsRef<[u8]>>(&mut self, buf: &mut BytesMut, stop: bool)
    where
        I::Item: AsRef<[Option<P>]>,
    {
        while !self.done && buf.len() < AHEAD {
            match self.rows.next().filter(|_| !stop) {
                Some(row) if row.as_ref().len() <= usize::from(u16::MAX) => self.row(buf, row.as_ref()),
                other => {
                    self.too_many = other.is_some();
                    self.done = true;
                    frontend::sync(buf);
                }
            }
        }
    }

    fn row<P: AsRef<[u8]>>(&self, buf: &mut BytesMut, row: &[Option<P>]) {
        let values: Vec<Option<&[u8]>> = row
            .iter()
            .map(|value| value.as_ref().map(AsRef::as_ref))
            .collect();
        let (params, columns) = (self.options.params.code(), self.options.columns.code());
        frontend::bind(buf, b"", b"", &[params], &values, &[columns]);
        frontend::execute(buf, b"", 0);
    }
}
