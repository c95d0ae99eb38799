//! Writing requests: the bytes that go to the server, and the steps of the script they add.

use std::rc::Rc;

use bytes::BytesMut;
use pgnet::frontend;

use super::super::script::{Op, Step, To};
use super::super::statement::{Statement, StatementId};
use super::Inner;
use super::prepared::Stage;

/// Writes requests into the worker's buffer and its script.
pub(in crate::plane) struct Composer<'a> {
    pub(super) inner: &'a mut Inner,
}

impl Composer<'_> {
    /// The buffer to append frames to; each that is answered needs a [`Composer::step`].
    pub(in crate::plane) fn out(&mut self) -> &mut BytesMut {
        &mut self.inner.out
    }

    /// Records what the server will answer.
    pub(in crate::plane) fn step(&mut self, step: Step) {
        if matches!(step.op, Op::Query | Op::Function) {
            self.inner.unnamed = None;
        }
        self.inner.script.push(step);
    }

    /// A simple Query whose answer nobody sees.
    pub(in crate::plane) fn query_for_nobody(&mut self, sql: &[u8]) {
        frontend::query(&mut self.inner.out, sql);
        self.step(Step::nobody(Op::Query));
    }

    /// Runs a statement whose answer nobody sees, without a Sync.
    pub(in crate::plane) fn run_for_nobody(
        &mut self,
        statement: &Rc<Statement>,
        parameters: &[Option<&[u8]>],
        cap: usize,
    ) {
        self.ensure(statement, cap);
        frontend::bind(&mut self.inner.out, b"", &statement.name, &[], parameters, &[]);
        self.step(Step::nobody(Op::Bind(Some(statement.id))));
        frontend::execute(&mut self.inner.out, b"", 0);
        self.step(Step::nobody(Op::Execute));
    }

    /// Whether the server's unnamed statement is this one of this session. What another request under way parses an error may skip.
    pub(in crate::plane) fn unnamed_is(&self, session: u64, id: StatementId) -> bool {
        self.inner.unnamed.is_some_and(|(owner, statement, request)| {
            let settled = request == self.inner.begun || self.inner.pending.len() <= 1;
            (owner, statement) == (session, id) && settled
        })
    }

    /// The server's unnamed statement is now this one.
    pub(in crate::plane) fn set_unnamed(&mut self, unnamed: Option<(u64, StatementId)>) {
        self.inner.unnamed = unnamed.map(|(session, id)| (session, id, self.inner.begun));
    }

    /// Makes sure the server has `statement` by the time it reads what is appended next.
    pub(in crate::plane) fn ensure(&mut self, statement: &Rc<Statement>, cap: usize) {
        let stage = self.inner.prepared.touch(statement);
        if matches!(stage, Some(Stage::Ready | Stage::Stale)) && !statement.is_of_its_session() {
            return;
        }
        self.parse_anew(statement, cap, To::Nobody);
    }

    /// The client's own Parse of `statement`: sent if the server lacks it, else a Close of nothing stands in for it.
    pub(in crate::plane) fn client_parse(&mut self, statement: &Rc<Statement>, cap: usize) {
        if self.inner.prepared.touch(statement) == Some(Stage::Ready) && !statement.is_of_its_session() {
            if self.inner.status == b'E' && self.inner.pending.len() <= 1 && !statement.ends_failed() {
                // Refused in a failed transaction, before the server looks at its name.
                self.parse(statement, To::Client);
                return;
            }
            frontend::close_statement(&mut self.inner.out, NO_STATEMENT);
            self.inner.script.push(Step::client(Op::ParseStandIn));
            return;
        }
        self.parse_anew(statement, cap, To::Client);
    }

    /// Has the server parse `statement` now, whatever it has, and say what its rows look like. Nobody sees its answers.
    pub(in crate::plane) fn describe_anew(&mut self, statement: &Rc<Statement>, cap: usize) {
        self.inner.prepared.touch(statement);
        self.parse_anew(statement, cap, To::Nobody);
        frontend::describe_statement(&mut self.inner.out, &statement.name);
        self.step(Step::nobody(Op::DescribeStatement(Some(statement.id))));
    }

    fn parse_anew(&mut self, statement: &Rc<Statement>, cap: usize, to: To) {
        if !self.inner.prepared.holds(statement.id) {
            self.make_room(cap);
        }
        if self.inner.prepared.parse(statement) {
            frontend::close_statement(&mut self.inner.out, &statement.name);
            self.inner.script.push(Step::nobody(Op::Close(None)));
        }
        self.parse(statement, to);
    }

    fn parse(&mut self, statement: &Rc<Statement>, to: To) {
        let out = &mut self.inner.out;
        let start = out.len();
        out.extend_from_slice(b"P\0\0\0\0");
        out.extend_from_slice(&statement.name);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&statement.key.text);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&statement.key.types);
        patch_length(out, start);
        self.inner.script.push(Step {
            op: Op::Parse(Some(statement.id)),
            to,
            last: false,
            keeps_ready: false,
        });
    }

    /// Those used longest ago are closed until there is room for one more statement.
    fn make_room(&mut self, cap: usize) {
        while let Some(id) = self.inner.prepared.evict(cap) {
            frontend::close_statement(&mut self.inner.out, id.server_name().as_bytes());
            self.inner.script.push(Step::nobody(Op::Close(Some(id))));
        }
    }
}

/// A name no statement has.
pub(in crate::plane) const NO_STATEMENT: &[u8] = b"pgp_none";
/// A name no portal has.
pub(in crate::plane) const NO_PORTAL: &[u8] = b"pgp_none";

/// Writes the length word of the frame that starts at `start`.
pub(in crate::plane) fn patch_length(out: &mut BytesMut, start: usize) {
    let len = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
}
