//! What becomes of the request at the front of the input, and what its session waits for then.

use std::rc::Rc;

use pgnet::fields::ErrorFields;
use pgnet::frame;

use super::policy::{self, Answer, Batch, Decision, Transaction};
use super::shared::REPEATS_MAX;
use super::unit::{self, Scan, Unit};
use super::{Leave, Session, local, translate};
use crate::classify::{Class, Kind};

/// What a session does next.
pub(super) enum Next {
    /// Looks at the request at the front of its input.
    Request,
    /// Waits for more input.
    Input,
    /// Sends its own answers.
    Flush,
    /// Waits for the reply to the known read of `total` bytes at the front, which stands in a worker's queue.
    Reply { total: usize },
    /// What takes more than that.
    Aside(Aside),
}

/// What not every request needs. Small: the rest is taken from the input again.
pub(super) enum Aside {
    /// Goes on with the worker it keeps.
    Pinned,
    /// A LISTEN or UNLISTEN.
    Listen(Unit, usize),
    /// Waits for a worker that takes a known read.
    Queue(Unit, usize, Rc<Class>),
    /// Waits for a worker for itself, and runs on it.
    Lease(Rc<Class>),
    /// What is thrown away unread.
    Drop(Unit),
}

impl Session {
    /// Begins the request at the front of the input, if one is there.
    pub(super) fn next_request(&mut self) -> Result<Next, Leave> {
        self.follow_settings();
        if self.pinned.is_some() {
            return Ok(Next::Aside(Aside::Pinned));
        }
        if self.transaction == Transaction::None {
            self.take_mail();
        }
        if !self.out.is_empty() || !self.card.slot.is_drained() {
            // Without a request behind it there is no need to wait until it has left.
            let by_post = self.input.is_empty() && self.has_post();
            return Ok(if by_post { Next::Input } else { Next::Flush });
        }
        let Some(unit) = self
            .scan
            .next(&self.input, self.effective.limits.max_query_size)?
        else {
            return Ok(Next::Input);
        };
        if self.repeats == 0 {
            self.card.requests.set(self.card.requests.get() + 1);
        }
        self.card.cancelled.set(false);
        match unit {
            Unit::Terminate => Err(Leave::Gone),
            Unit::Stray { .. } | Unit::TooLarge { .. } => Ok(Next::Aside(Aside::Drop(unit))),
            Unit::Stream => Ok(match self.refusal_of_stream() {
                Some(_) => Next::Aside(Aside::Drop(unit)),
                None => lease(Rc::new(Class::of(Kind::Unknown))),
            }),
            Unit::Query { total } => {
                let text = match unit::query_text(&self.input[5..total]) {
                    Ok(text) => text,
                    Err(fields) => {
                        self.pass_over(total);
                        self.fail_open_transaction();
                        self.answer(|out, status| local::error(out, &fields, status));
                        return Ok(Next::Request);
                    }
                };
                let class = self.classify(text);
                if is_about_ears(&class) {
                    return Ok(Next::Aside(Aside::Listen(unit, total)));
                }
                Ok(self.decide_query(unit, total, class))
            }
            Unit::Batch { total } => {
                let batch = self.inspect(total)?;
                if is_about_ears(&batch.class) {
                    return Ok(Next::Aside(Aside::Listen(unit, total)));
                }
                Ok(self.decide_batch(unit, total, batch))
            }
        }
    }

    /// Why the Parse or Bind at the front may not run on a worker that is in no transaction, and what the transaction is then.
    pub(super) fn refusal_at_front(&self) -> Option<(Box<ErrorFields>, Transaction)> {
        if self.mode() != crds::PoolMode::Statement {
            return None;
        }
        let (frame, _) = frame::split(&self.input, u32::MAX >> 1).ok()??;
        let class = match frame.tag {
            b'P' => self.classify(translate::parse_parts(frame.body).ok()?.1),
            b'B' => self.class_of(&self.names.get(translate::bind_parts(frame.body).ok()?.1)?),
            _ => return None,
        };
        match policy::query(&class, &Transaction::None, self.mode(), false) {
            Decision::Refuse(fields, then) => Some((fields, then)),
            _ => None,
        }
    }

    /// Why a batch that comes in pieces is not run.
    fn refusal_of_stream(&self) -> Option<(Box<ErrorFields>, Transaction)> {
        let fields = match self.transaction {
            Transaction::Failed => local::in_failed_transaction(),
            Transaction::Lost => local::lost_transaction(false),
            _ => return self.refusal_at_front(),
        };
        Some((Box::new(fields), Transaction::Failed))
    }

    fn decide_query(&mut self, unit: Unit, total: usize, class: Rc<Class>) -> Next {
        self.names.drop_unnamed();
        let defer = self.thread.setting(|config| config.defer_begin);
        let decision = policy::query(&class, &self.transaction, self.mode(), defer);
        self.carry_out(decision, unit, total, class)
    }

    fn decide_batch(&mut self, unit: Unit, total: usize, batch: Batch) -> Next {
        let defer = self.thread.setting(|config| config.defer_begin);
        let decision = policy::batch(&batch, &self.transaction, self.mode(), defer);
        self.carry_out(decision, unit, total, batch.class)
    }

    /// As far as nothing has to be waited for.
    fn carry_out(&mut self, decision: Decision, unit: Unit, total: usize, class: Rc<Class>) -> Next {
        match decision {
            Decision::Local(answer) => {
                self.thread.counters.requests_local.add(1);
                let input = self.input.split_to(total);
                self.scan.taken();
                let batch = matches!(unit, Unit::Batch { .. });
                answer.write(&mut self.out, &input, batch, &mut self.transaction);
                if batch {
                    let pool = self.open_master(false);
                    self.note_batch(
                        pool.as_ref(),
                        &input,
                        matches!(answer, Answer::Failed | Answer::Lost { .. }),
                    );
                }
                Next::Request
            }
            Decision::Refuse(fields, then) => {
                self.thread.counters.error(fields.code);
                self.pass_over(total);
                self.transaction = then;
                local::error(&mut self.out, &fields, self.transaction.status());
                Next::Request
            }
            Decision::Lease => lease(class),
            // A client that sends ahead gets a worker for itself until its pipeline is empty.
            Decision::Shared if self.input.len() > total && self.scan_behind(total) => lease(class),
            Decision::Shared if self.settings.has_transaction_defaults() => lease(class),
            // It has been moved from worker to worker, or its servers died one after the other.
            Decision::Shared if self.repeats > REPEATS_MAX => lease(class),
            Decision::Shared => self.share_now(unit, total, class),
        }
    }

    /// Carries out what may have to wait.
    pub(super) async fn step_aside(&mut self, aside: Aside) -> Result<Next, Leave> {
        match aside {
            Aside::Pinned => {
                if let Some(mut lease) = self.pinned.take() {
                    self.run_lease(&mut lease).await?;
                    self.settle_lease(lease);
                }
            }
            Aside::Listen(unit @ Unit::Batch { .. }, total) => {
                let batch = self.inspect(total)?;
                if !self.listen_alone(unit, total, &batch.class, Some(&batch)).await {
                    return Ok(self.decide_batch(unit, total, batch));
                }
            }
            Aside::Listen(unit, total) => {
                let class = self.classify(unit::query_text(&self.input[5..total]).unwrap_or_default());
                if !self.listen_alone(unit, total, &class, None).await {
                    return Ok(self.decide_query(unit, total, class));
                }
            }
            Aside::Queue(unit, total, class) => return self.share_later(unit, total, class).await,
            Aside::Lease(class) => {
                self.repeats = 0;
                self.lease_for(&class).await?;
            }
            Aside::Drop(unit) => self.drop_unit(unit).await?,
        }
        Ok(Next::Request)
    }

    /// Reads what is not run away, and says why.
    async fn drop_unit(&mut self, unit: Unit) -> Result<(), Leave> {
        let (tag, total) = match unit {
            Unit::Stray { total } => return self.discard(total).await,
            Unit::TooLarge { tag, total } => (tag, total),
            _ => {
                let Some((fields, then)) = self.refusal_of_stream() else {
                    return Ok(());
                };
                self.thread.counters.error(fields.code);
                self.transaction = then;
                return self.skip_batch(&fields).await;
            }
        };
        let fields = local::too_large(total, self.effective.limits.max_query_size);
        self.discard(total).await?;
        if matches!(tag, b'Q' | b'F') {
            self.answer(|out, status| local::error(out, &fields, status));
        } else {
            // The rest of the batch is skipped as after any error.
            self.skip_batch(&fields).await?;
        }
        self.fail_open_transaction();
        Ok(())
    }

    /// The request of `total` bytes at the front has been answered.
    pub(super) fn pass_over(&mut self, total: usize) {
        bytes::Buf::advance(&mut self.input, total);
        self.scan.taken();
    }

    /// Whether another complete unit stands behind the first one.
    fn scan_behind(&self, total: usize) -> bool {
        matches!(
            Scan::default().next(&self.input[total..], self.effective.limits.max_query_size),
            Ok(Some(Unit::Query { .. } | Unit::Batch { .. } | Unit::Stream))
        )
    }
}

fn lease(class: Rc<Class>) -> Next {
    Next::Aside(Aside::Lease(class))
}

fn is_about_ears(class: &Class) -> bool {
    matches!(class.kind, Kind::Listen { .. } | Kind::Unlisten { .. })
}
