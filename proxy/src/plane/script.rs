//! The script of a worker: what the server still has to answer, in order, and to whom it goes.
//!
//! Pure: frame tags in, verdicts out. A frame the script does not allow is a [`Misfit`]: the worker is closed, and no
//! client sees the frame (MULTIPLEXING part 2, rule 3).

use std::collections::VecDeque;
use std::rc::Rc;

use pgnet::fields::ErrorFields;

use super::statement::StatementId;

/// A message the server answers.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Parse of a shared statement: `1`.
    Parse(Option<StatementId>),
    /// A Close that stands in for a Parse the worker does not need: `3`, shown as `1`.
    ParseStandIn,
    /// `2`. Of which shared statement, if it is one.
    Bind(Option<StatementId>),
    /// `t`, then `T` or `n`. Of which shared statement, if it is one.
    DescribeStatement(Option<StatementId>),
    /// `T` or `n`. Of which shared statement, if it is one.
    DescribePortal(Option<StatementId>),
    /// Rows, then `C`, `s` or `I`; COPY.
    Execute,
    /// `3`.
    Close(Option<StatementId>),
    /// An Execute of a portal that does not exist stands in for an error of ours.
    Fail(Rc<ErrorFields>),
    /// `Z`.
    Sync,
    /// Anything a simple Query brings, then `Z`.
    Query,
    /// `V` or an error, then `Z`.
    Function,
}

/// Who gets an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The session of the request.
    Client,
    /// Nobody: it answers something the proxy added.
    Nobody,
}

/// One step of the script.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) to: To,
    /// With this step's `Z` the request is done.
    pub(super) last: bool,
    /// A Query whose `Z` is kept back: a Sync stands behind it, and only that one's `Z` says that the request is over.
    /// Were the first shown and the server lost before the second, the client would be answered twice.
    pub(super) keeps_ready: bool,
}

impl Step {
    pub(super) fn client(op: Op) -> Self {
        Self {
            op,
            to: To::Client,
            last: false,
            keeps_ready: false,
        }
    }
    pub(super) fn nobody(op: Op) -> Self {
        Self {
            op,
            to: To::Nobody,
            last: false,
            keeps_ready: false,
        }
    }
    /// A Query with a Sync of ours behind it.
    pub(super) fn query_before_sync() -> Self {
        Self {
            op: Op::Query,
            to: To::Client,
            last: false,
            keeps_ready: true,
        }
    }
    pub(super) fn ending(mut self) -> Self {
        self.last = true;
        self
    }

    /// It ends a request that has its Sync from one behind it.
    fn is_joined(&self) -> bool {
        self.last && !matches!(self.op, Op::Sync | Op::Query | Op::Function)
    }
}

/// What to do with a frame.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Pass it on.
    Forward,
    /// Nobody asked for it: drop it.
    Swallow,
    /// Pass on a ParseComplete in its place.
    ParseComplete,
    /// Pass on this error in its place.
    Error(Rc<ErrorFields>),
}

/// What a frame means beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing.
    None,
    /// The worker now has this statement. `client`: the client asked for it (its own Parse).
    Parsed(StatementId),
    /// This frame says what the rows of this statement look like.
    Described(StatementId, To),
    /// The worker no longer has this statement.
    Closed(StatementId),
    /// The server wants CopyData; the session must send it. `reopened`: the batch's Sync was sent ahead and is ignored, so
    /// the batch goes on to its next Sync.
    CopyIn { reopened: bool },
    /// Replication: never expected.
    CopyBoth,
    /// An error; the rest up to the next Sync is skipped.
    Error,
    /// `Z`; `last` ends the request.
    Ready { last: bool, status: u8 },
    /// The request has been answered but for its `Z`: its Sync is that of one behind it.
    Answered,
}

/// An answer nobody asked for, or in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected message {tag:?} from the server")]
pub(super) struct Misfit {
    pub(super) tag: char,
}

/// What the server owes.
#[derive(Debug, Default)]
pub(super) struct Script {
    steps: VecDeque<Step>,
    /// COPY FROM STDIN is under way on the first step.
    copy_in: bool,
    /// Statements whose Parse was skipped by an error before it.
    skipped: Vec<StatementId>,
    /// After an error the server reads on to the next Sync and answers nothing before it.
    skipping: bool,
    /// That Sync has to be sent: a Query, which ends its request by itself, was skipped.
    owes_sync: bool,
    /// Requests an error has ended, or made the server skip, although the Sync it goes on to is that of one behind them.
    ended_early: usize,
}

impl Script {
    pub(super) fn push(&mut self, step: Step) {
        if self.skipping {
            match step.op {
                Op::Sync => self.skipping = false,
                Op::Parse(Some(id)) => return self.skipped.push(id),
                _ => return,
            }
        }
        self.steps.push_back(step);
    }

    /// After the failure of what stood ahead of a Query: whether a Sync has to be sent for it now.
    pub(super) fn take_owed_sync(&mut self) -> bool {
        std::mem::take(&mut self.owes_sync)
    }

    /// Whether the server ignores everything up to the next Sync.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether the running request still asks what its rows look like.
    pub(super) fn request_describes(&self) -> bool {
        let running = self
            .steps
            .iter()
            .position(|s| s.last)
            .map_or(self.steps.len(), |end| end + 1);
        self.steps
            .iter()
            .take(running)
            .any(|s| matches!(s.op, Op::DescribePortal(_) | Op::DescribeStatement(_)))
    }

    /// The statement the server is binding or describing.
    pub(super) fn binding(&self) -> Option<StatementId> {
        match self.steps.front()?.op {
            Op::Bind(id) | Op::DescribeStatement(id) => id,
            _ => None,
        }
    }

    /// The statement the server parses at the moment.
    pub(super) fn parsing(&self) -> Option<StatementId> {
        match self.steps.front()?.op {
            Op::Parse(id) => id,
            _ => None,
        }
    }

    /// Whether this frame goes to the client and changes nothing here: [`Script::on_frame`] would say the same.
    pub(super) fn merely_passes(&self, tag: u8) -> bool {
        self.steps.front().is_some_and(|step| {
            step.to == To::Client
                && match step.op {
                    Op::Query => matches!(tag, b'T' | b'D' | b'C' | b'I' | b'H' | b'd' | b'c' | b'n'),
                    Op::Execute => matches!(tag, b'D' | b'd' | b'c' | b'H'),
                    _ => false,
                }
        })
    }

    /// The server is at a Parse the client sent.
    pub(super) fn at_parse_of_client(&self) -> bool {
        self.steps
            .front()
            .is_some_and(|step| step.to == To::Client && matches!(step.op, Op::Parse(_)))
    }

    /// Who gets what comes next.
    pub(super) fn addressee(&self) -> Option<To> {
        self.steps.front().map(|s| s.to)
    }

    /// The server reads CopyData now.
    pub(super) fn copying_in(&self) -> bool {
        self.copy_in
    }

    /// CopyDone or CopyFail was sent: Syncs count again.
    pub(super) fn copy_ended(&mut self) {
        self.copy_in = false;
    }

    /// Marks what was pushed last as the end of its request.
    pub(super) fn end_request(&mut self) {
        if let Some(step) = self.steps.back_mut() {
            step.last = true;
        }
    }

    /// Takes back what was pushed last.
    pub(super) fn pop(&mut self) {
        self.steps.pop_back();
    }

    /// Requests without a Sync of their own that the last error has ended or had skipped, since the last call.
    pub(super) fn take_ended_early(&mut self) -> usize {
        std::mem::take(&mut self.ended_early)
    }

    /// Whether the running request has its Sync from one behind it.
    pub(super) fn head_is_joined(&self) -> bool {
        self.steps
            .iter()
            .find(|step| step.last)
            .is_some_and(Step::is_joined)
    }

    /// Whether an answer of ours makes the request pushed last fail.
    pub(super) fn last_request_fails(&self) -> bool {
        let of_it = |step: &&Step| !step.last;
        let mut steps = self.steps.iter().rev().skip(1).take_while(of_it);
        steps.any(|step| matches!(step.op, Op::Fail(_)))
    }

    /// Statements whose Parse failed, or whose Parse or Close was skipped, since the last call.
    pub(super) fn take_skipped(&mut self) -> std::vec::Drain<'_, StatementId> {
        self.skipped.drain(..)
    }

    /// Takes in a frame of the server. `status` is the body of a `Z`, else 0.
    ///
    /// `S`, `N` and `A` may come at any time and are not for the script.
    pub(super) fn on_frame(&mut self, tag: u8, status: u8) -> Result<(Verdict, Event), Misfit> {
        let misfit = Misfit { tag: char::from(tag) };
        let Some(step) = self.steps.front() else {
            return Err(misfit);
        };
        let show = |to: To| {
            if to == To::Client {
                Verdict::Forward
            } else {
                Verdict::Swallow
            }
        };
        let to = step.to;
        if tag == b'E' {
            return Ok(self.on_error());
        }
        let (verdict, event, done) = match (&step.op, tag) {
            (Op::Parse(id), b'1') => (show(to), id.map_or(Event::None, Event::Parsed), true),
            (Op::ParseStandIn, b'3') => (
                if to == To::Client {
                    Verdict::ParseComplete
                } else {
                    Verdict::Swallow
                },
                Event::None,
                true,
            ),
            (Op::Bind(_), b'2') => (show(to), Event::None, true),
            (Op::DescribeStatement(_), b't') => (show(to), Event::None, false),
            (Op::DescribeStatement(id) | Op::DescribePortal(id), b'T' | b'n') => {
                let event = id.map_or(Event::None, |id| Event::Described(id, to));
                (show(to), event, true)
            }
            (Op::Execute, b'D' | b'd' | b'c' | b'H') => (show(to), Event::None, false),
            (Op::Execute, b'C' | b's' | b'I') => (show(to), Event::None, true),
            (Op::Close(id), b'3') => (show(to), id.map_or(Event::None, Event::Closed), true),
            (Op::Query, b'T' | b'D' | b'C' | b'I' | b'H' | b'd' | b'c' | b'n') => {
                (show(to), Event::None, false)
            }
            (Op::Function, b'V') => (show(to), Event::None, false),
            (Op::Execute | Op::Query, b'G') => return Ok((show(to), self.on_copy_in())),
            (Op::Execute | Op::Query, b'W') => (Verdict::Swallow, Event::CopyBoth, false),
            (Op::Sync | Op::Query | Op::Function, b'Z') => (
                if step.keeps_ready {
                    Verdict::Swallow
                } else {
                    show(to)
                },
                Event::Ready {
                    last: step.last,
                    status,
                },
                true,
            ),
            _ => return Err(misfit),
        };
        let event = if done && step.is_joined() {
            Event::Answered
        } else {
            event
        };
        if done {
            self.steps.pop_front();
            self.copy_in = false;
        }
        Ok((verdict, event))
    }

    /// In COPY mode the server ignores Sync: those sent ahead get no answer.
    fn on_copy_in(&mut self) -> Event {
        self.copy_in = true;
        let mut ended = false;
        while self.steps.get(1).is_some_and(|s| matches!(s.op, Op::Sync)) {
            ended |= self.steps.remove(1).is_some_and(|s| s.last);
        }
        let Some(front) = self.steps.front_mut() else {
            return Event::None;
        };
        let reopened = ended && matches!(front.op, Op::Execute);
        // A Query ends its request by itself; the Sync stood behind it for a prefix's sake.
        front.last |= ended && !reopened;
        front.keeps_ready &= !ended;
        Event::CopyIn { reopened }
    }

    /// An error ends a simple Query with its own `Z`; in a batch everything up to the Sync is skipped.
    fn on_error(&mut self) -> (Verdict, Event) {
        self.copy_in = false;
        let Some(first) = self.steps.front() else {
            return (Verdict::Swallow, Event::Error);
        };
        let verdict = match &first.op {
            Op::Fail(fields) => Verdict::Error(fields.clone()),
            _ => Verdict::Forward,
        };
        if matches!(first.op, Op::Query | Op::Function | Op::Sync) {
            let verdict = if first.to == To::Client {
                verdict
            } else {
                Verdict::Swallow
            };
            return (verdict, Event::Error);
        }
        let mut query = false;
        while let Some(step) = self.steps.front() {
            match &step.op {
                Op::Sync => break,
                Op::Parse(Some(id)) | Op::Close(Some(id)) => self.skipped.push(*id),
                Op::Query => query = true,
                _ => {}
            }
            self.ended_early += usize::from(step.is_joined());
            self.steps.pop_front();
        }
        self.skipping = self.steps.is_empty();
        self.owes_sync = self.skipping && query;
        (verdict, Event::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(steps: Vec<Step>) -> Script {
        Script {
            steps: steps.into(),
            ..Script::default()
        }
    }

    fn shown(script: &mut Script, frames: &[(u8, u8)]) -> Result<String, Misfit> {
        let mut out = String::new();
        for (tag, status) in frames {
            let (verdict, event) = script.on_frame(*tag, *status)?;
            match verdict {
                Verdict::Forward => out.push(char::from(*tag)),
                Verdict::ParseComplete => out.push('1'),
                Verdict::Error(_) => out.push('e'),
                Verdict::Swallow => out.push('-'),
            }
            if matches!(event, Event::Ready { last: true, .. } | Event::Answered) {
                out.push('!');
            }
        }
        Ok(out)
    }

    fn prefixed_query() -> Script {
        script(vec![
            Step::nobody(Op::Bind(None)),
            Step::nobody(Op::Execute),
            Step::query_before_sync(),
            Step::client(Op::Sync).ending(),
        ])
    }

    #[test]
    fn a_prefix_and_its_second_ready_are_shown_to_nobody() {
        let frames = [
            (b'2', 0),
            (b'D', 0),
            (b'C', 0),
            (b'T', 0),
            (b'D', 0),
            (b'C', 0),
            (b'Z', b'I'),
            (b'Z', b'I'),
        ];
        assert_eq!(shown(&mut prefixed_query(), &frames).as_deref(), Ok("---TDC-Z!"));
    }

    #[test]
    fn after_a_failed_prefix_the_clients_query_is_skipped_and_its_ready_is_the_syncs() {
        assert_eq!(
            shown(&mut prefixed_query(), &[(b'E', 0), (b'Z', b'I')]).as_deref(),
            Ok("EZ!")
        );
    }

    #[test]
    fn an_error_in_the_query_behind_a_prefix_leaves_two_readies() {
        let frames = [
            (b'2', 0),
            (b'D', 0),
            (b'C', 0),
            (b'E', 0),
            (b'Z', b'I'),
            (b'Z', b'I'),
        ];
        assert_eq!(shown(&mut prefixed_query(), &frames).as_deref(), Ok("---E-Z!"));
    }

    #[test]
    fn a_begin_ahead_of_a_query_costs_no_sync_unless_it_fails() {
        let steps = || {
            vec![
                Step::nobody(Op::Bind(None)),
                Step::nobody(Op::Execute),
                Step::client(Op::Query).ending(),
            ]
        };
        let mut fine = script(steps());
        let frames = [
            (b'2', 0),
            (b'C', 0),
            (b'T', 0),
            (b'D', 0),
            (b'C', 0),
            (b'Z', b'T'),
        ];
        assert_eq!(shown(&mut fine, &frames).as_deref(), Ok("--TDCZ!"));
        assert!(fine.is_empty() && !fine.take_owed_sync());

        let mut failed = script(steps());
        assert_eq!(shown(&mut failed, &[(b'2', 0), (b'E', 0)]).as_deref(), Ok("-E"));
        assert!(failed.take_owed_sync() && !failed.take_owed_sync());
        failed.push(Step::client(Op::Sync).ending());
        assert_eq!(shown(&mut failed, &[(b'Z', b'I')]).as_deref(), Ok("Z!"));
        assert!(failed.is_empty() && !failed.is_skipping());
    }

    /// Three reads with one Sync.
    fn joined() -> Script {
        let mut steps = Vec::new();
        for _ in 0..3 {
            steps.push(Step::client(Op::Bind(None)));
            steps.push(Step::client(Op::Execute).ending());
        }
        steps[5].last = false;
        steps.push(Step::client(Op::Sync).ending());
        script(steps)
    }

    #[test]
    fn of_reads_that_share_a_sync_each_ends_with_its_answer_and_the_last_with_the_ready() {
        let answer = [(b'2', 0), (b'D', 0), (b'C', 0)];
        let mut script = joined();
        assert!(script.head_is_joined());
        assert_eq!(shown(&mut script, &answer).as_deref(), Ok("2DC!"));
        assert_eq!(shown(&mut script, &answer).as_deref(), Ok("2DC!"));
        assert!(!script.head_is_joined());
        assert_eq!(shown(&mut script, &answer).as_deref(), Ok("2DC"));
        assert_eq!(shown(&mut script, &[(b'Z', b'I')]).as_deref(), Ok("Z!"));
        assert!(script.is_empty() && script.take_ended_early() == 0);
    }

    #[test]
    fn an_error_ends_the_read_it_belongs_to_and_those_behind_it_that_share_its_sync() {
        for (answered, early) in [(0, 2), (1, 1), (2, 0)] {
            let mut script = joined();
            for _ in 0..answered {
                assert!(shown(&mut script, &[(b'2', 0), (b'C', 0)]).is_ok());
            }
            assert_eq!(shown(&mut script, &[(b'2', 0), (b'E', 0)]).as_deref(), Ok("2E"));
            assert_eq!(script.take_ended_early(), early);
            assert_eq!(script.take_ended_early(), 0);
            assert_eq!(shown(&mut script, &[(b'Z', b'I')]).as_deref(), Ok("Z!"));
            assert!(script.is_empty());
        }
    }

    #[test]
    fn a_close_stands_in_for_a_parse() {
        let mut script = script(vec![
            Step::client(Op::ParseStandIn),
            Step::client(Op::Bind(None)),
            Step::client(Op::Execute),
            Step::client(Op::Sync).ending(),
        ]);
        assert_eq!(
            shown(&mut script, &[(b'3', 0), (b'2', 0), (b'C', 0), (b'Z', b'I')]).as_deref(),
            Ok("12CZ!")
        );
    }

    #[test]
    fn an_error_skips_to_the_sync_and_the_next_batch_is_untouched() {
        let mut script = script(vec![
            Step::client(Op::Bind(None)),
            Step::client(Op::Execute),
            Step::client(Op::Sync).ending(),
            Step::client(Op::Bind(None)),
            Step::client(Op::Execute),
            Step::client(Op::Sync).ending(),
        ]);
        let frames = [(b'E', 0), (b'Z', b'I'), (b'2', 0), (b's', 0), (b'Z', b'I')];
        assert_eq!(shown(&mut script, &frames).as_deref(), Ok("EZ!2sZ!"));
    }

    #[test]
    fn after_an_error_without_a_sync_everything_up_to_the_sync_is_unanswered() {
        let mut script = script(vec![Step::client(Op::Bind(None))]);
        assert_eq!(shown(&mut script, &[(b'E', 0)]).as_deref(), Ok("E"));
        script.push(Step::client(Op::Execute));
        script.push(Step::client(Op::Parse(Some(StatementId::test(3)))));
        script.push(Step::client(Op::Sync).ending());
        assert_eq!(shown(&mut script, &[(b'Z', b'I')]).as_deref(), Ok("Z!"));
        assert_eq!(script.take_skipped().collect::<Vec<_>>(), [StatementId::test(3)]);
    }

    #[test]
    fn a_parse_that_was_skipped_is_reported() {
        let id = StatementId::test(7);
        let mut script = script(vec![
            Step::client(Op::Bind(None)),
            Step::client(Op::Parse(Some(id))),
            Step::client(Op::Sync).ending(),
        ]);
        assert!(script.on_frame(b'E', 0).is_ok());
        assert_eq!(script.take_skipped().collect::<Vec<_>>(), [id]);
    }

    #[test]
    fn a_sync_sent_ahead_of_copy_data_gets_no_answer() {
        let mut script = script(vec![
            Step::client(Op::Bind(None)),
            Step::client(Op::Execute),
            Step::client(Op::Sync).ending(),
        ]);
        assert_eq!(shown(&mut script, &[(b'2', 0), (b'G', 0)]).as_deref(), Ok("2G"));
        assert!(script.copying_in());
        script.copy_ended();
        script.push(Step::client(Op::Sync).ending());
        assert_eq!(
            shown(&mut script, &[(b'C', 0), (b'Z', b'I')]).as_deref(),
            Ok("CZ!")
        );
    }

    #[test]
    fn a_query_behind_a_prefix_that_copies_ends_without_the_ignored_sync() {
        let mut script = prefixed_query();
        assert_eq!(
            shown(&mut script, &[(b'2', 0), (b'C', 0), (b'G', 0)]).as_deref(),
            Ok("--G")
        );
        script.copy_ended();
        assert_eq!(
            shown(&mut script, &[(b'C', 0), (b'Z', b'T')]).as_deref(),
            Ok("CZ!")
        );
        assert!(script.is_empty());
    }

    #[test]
    fn a_deferred_constraint_may_fail_at_the_sync() {
        let mut script = script(vec![Step::client(Op::Execute), Step::client(Op::Sync).ending()]);
        assert_eq!(
            shown(&mut script, &[(b'C', 0), (b'E', 0), (b'Z', b'I')]).as_deref(),
            Ok("CEZ!")
        );
    }

    #[test]
    fn what_merely_passes_is_what_the_script_forwards_without_a_change() {
        let ops = [
            Op::Parse(None),
            Op::ParseStandIn,
            Op::Bind(None),
            Op::DescribeStatement(None),
            Op::DescribePortal(None),
            Op::Execute,
            Op::Close(None),
            Op::Sync,
            Op::Query,
            Op::Function,
        ];
        for op in ops {
            for to in [To::Client, To::Nobody] {
                for tag in (0..=255u8).filter(|tag| *tag != b't') {
                    let step = match to {
                        To::Client => Step::client(op.clone()),
                        To::Nobody => Step::nobody(op.clone()),
                    };
                    let mut script = script(vec![step]);
                    let passes = script.merely_passes(tag);
                    let outcome = script.on_frame(tag, b'I');
                    let unchanged = !script.is_empty() && !script.copying_in();
                    let forwarded = matches!(outcome, Ok((Verdict::Forward, Event::None)));
                    let simple = matches!(op, Op::Query | Op::Execute);
                    let expected = simple && forwarded && unchanged;
                    assert_eq!(passes, expected, "{op:?} {}", char::from(tag));
                }
            }
        }
    }

    #[test]
    fn what_nobody_asked_for_is_a_misfit() {
        assert_eq!(
            shown(&mut script(vec![]), &[(b'Z', b'I')]),
            Err(Misfit { tag: 'Z' })
        );
        assert_eq!(
            shown(&mut script(vec![Step::client(Op::Bind(None))]), &[(b'D', 0)]),
            Err(Misfit { tag: 'D' })
        );
        assert_eq!(
            shown(&mut script(vec![Step::client(Op::Sync)]), &[(b'C', 0)]),
            Err(Misfit { tag: 'C' })
        );
        for tag in 0..=255u8 {
            let allowed = matches!(tag, b'1' | b'E');
            let mut parse = script(vec![Step::client(Op::Parse(None))]);
            assert_eq!(parse.on_frame(tag, 0).is_ok(), allowed, "{}", char::from(tag));
        }
    }

    #[test]
    fn our_own_error_replaces_the_servers() {
        let fields = Rc::new(ErrorFields::new(
            pgnet::fields::Severity::Error,
            pgnet::sqlstate::SqlState::DUPLICATE_PREPARED_STATEMENT,
            "prepared statement \"a\" already exists",
        ));
        let mut script = script(vec![
            Step::client(Op::Fail(fields)),
            Step::client(Op::Bind(None)),
            Step::client(Op::Sync).ending(),
        ]);
        assert_eq!(
            shown(&mut script, &[(b'E', 0), (b'Z', b'I')]).as_deref(),
            Ok("eZ!")
        );
    }
}
