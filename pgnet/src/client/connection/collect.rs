//! From the messages of an answer to its results: no socket, no clock.

use bytes::Bytes;

use super::error::{Error, Fatal};
use super::link::Frame;
use super::result::{Columns, QueryResult, Row, columns};
use crate::backend::{self, Message};
use crate::client::ProtocolError;
use crate::fields::ErrorFields;

/// What the caller must do after a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Read on.
    More,
    /// The server waits for COPY data: send some, or CopyFail.
    CopyIn,
    /// COPY data will come.
    CopyOut,
    /// Here is some.
    CopyData(Bytes),
    /// ReadyForQuery: the answer is complete.
    Ready,
}

/// Collects the results of one request.
#[derive(Debug)]
pub(super) struct Collector {
    results: Vec<QueryResult>,
    current: QueryResult,
    /// Of the statement described, for all its executions; only in the extended protocol.
    described: Option<Columns>,
    extended: bool,
    keep: bool,
    /// Of all columns, where the statement was described before it was bound.
    format: i16,
    error: Option<Box<ErrorFields>>,
    size: usize,
    limit: usize,
}

impl Collector {
    /// For a Query.
    pub(super) fn simple(limit: usize) -> Self {
        Self {
            results: Vec::new(),
            current: QueryResult::default(),
            described: None,
            extended: false,
            keep: true,
            format: 0,
            error: None,
            size: 0,
            limit,
        }
    }

    /// For one statement, described once and executed often with results of this format.
    pub(super) fn extended(limit: usize, keep: bool, format: i16) -> Self {
        Self {
            extended: true,
            keep,
            format,
            ..Self::simple(limit)
        }
    }

    /// Whether the server has refused something: the rest of a pipeline will be skipped.
    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn finish(self) -> Result<Vec<QueryResult>, Error> {
        match self.error {
            Some(fields) => Err(Error::Db(fields)),
            None => Ok(self.results),
        }
    }

    pub(super) fn on(&mut self, frame: &Frame) -> Result<Reaction, Fatal> {
        match backend::decode(frame.tag, &frame.body)? {
            Message::RowDescription(view) => self.describe(columns(view)),
            Message::DataRow(values) => self.row(frame, values)?,
            Message::CommandComplete(tag) => self.complete(&String::from_utf8_lossy(tag)),
            Message::EmptyQueryResponse => self.complete(""),
            Message::ErrorResponse(fields) => self.error = Some(Box::new(fields.to_owned())),
            Message::ReadyForQuery(_) => return Ok(Reaction::Ready),
            Message::CopyInResponse(_) => return Ok(Reaction::CopyIn),
            Message::CopyOutResponse(_) => return Ok(Reaction::CopyOut),
            Message::CopyData(_) => return Ok(Reaction::CopyData(frame.body.clone())),
            Message::CopyDone
            | Message::NoData
            | Message::ParseComplete
            | Message::BindComplete
            | Message::CloseComplete
            | Message::ParameterDescription(_) => {}
            _ => return Err(ProtocolError::Unexpected(frame.tag).into()),
        }
        Ok(Reaction::More)
    }

    fn describe(&mut self, mut columns: Columns) {
        if self.extended {
            if let Some(columns) = std::sync::Arc::get_mut(&mut columns) {
                columns.iter_mut().for_each(|column| column.format = self.format);
            }
            self.described = Some(columns);
        } else {
            self.current.columns = Some(columns);
        }
    }

    fn row(&mut self, frame: &Frame, values: crate::Values<'_>) -> Result<(), Fatal> {
        let columns = if self.extended {
            &self.described
        } else {
            &self.current.columns
        };
        let Some(columns) = columns.clone().filter(|columns| columns.len() == values.len()) else {
            return Err(ProtocolError::Unexpected(frame.tag).into());
        };
        if !self.keep {
            return Ok(());
        }
        // What a row costs beside its bytes.
        self.size += frame.body.len() + values.len() * size_of::<Option<Bytes>>() + size_of::<Row>();
        if self.size > self.limit {
            return Err(Fatal::TooLarge(self.limit));
        }
        self.current.rows.push(Row::new(columns, &frame.body, values));
        Ok(())
    }

    fn complete(&mut self, tag: &str) {
        let mut result = std::mem::take(&mut self.current);
        if self.keep {
            tag.clone_into(&mut result.tag);
            if self.extended {
                result.columns.clone_from(&self.described);
            }
            self.results.push(result);
        }
    }
}
