//! Requests to the operator, and waiting for what becomes of them.

use crate::Exit;
use crate::cli::{Failover, Switchover, Wait};
use crate::place::Place;
use cluster::{FailoverRequest, Request, SwitchoverRequest};
use crds::status::{OperationOutcome, OperationStep, PgPoolStatus};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

/// How often the status is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// An operator that has not taken a request up by then is probably not there.
const SILENCE: Duration = Duration::from_secs(15);

async fn current(place: &Place) -> Option<PgPoolStatus> {
    place.source().current().await.ok()?.status.as_deref().cloned()
}

fn fail(message: &str) -> Exit {
    eprintln!("pgstmtpool: {message}");
    Exit::Failed
}

async fn write(place: &Place, request: &Request) -> Result<(), Exit> {
    place.ask(request).await.map_err(|error| fail(&error))
}

/// Asks that no operation is started, or that they may be again.
pub(crate) async fn pause(place: &Place, paused: bool) -> Exit {
    let request = Request {
        paused: Some(paused),
        ..Request::default()
    };
    match write(place, &request).await {
        Ok(()) if paused => println!("paused: no failover and no switchover is started"),
        Ok(()) => println!("resumed"),
        Err(exit) => return exit,
    }
    Exit::Good
}

/// Asks for a planned switchover.
pub(crate) async fn switchover(place: &Place, asked: &Switchover) -> Exit {
    let Ok(snapshot) = place.source().current().await else {
        return fail("the manifest cannot be read");
    };
    if snapshot.config.server(&asked.to).is_none() {
        let names: Vec<String> = snapshot
            .config
            .servers()
            .into_iter()
            .map(|server| server.name)
            .collect();
        eprintln!(
            "pgstmtpool: {} is no server of this pool: expected one of {}",
            asked.to,
            names.join(", ")
        );
        return Exit::Invalid;
    }
    let Some(status) = snapshot.status.as_deref() else {
        return fail("there is no status: is the operator running?");
    };
    if let Some(operation) = &status.operation {
        return fail(&format!("{} is under way: wait for its end", operation.id));
    }
    let id = format!("ctl-{}-{}", asked.to, crds::units::rfc3339(SystemTime::now()));
    let switchover = SwitchoverRequest {
        to: asked.to.clone(),
        request_id: id.clone(),
        force: asked.force,
    };
    let request = Request {
        switchover: Some(switchover),
        ..Request::default()
    };
    if let Err(exit) = write(place, &request).await {
        return exit;
    }
    if !asked.wait.wait {
        println!("asked: {id}");
        return Exit::Good;
    }
    let known: Vec<String> = status.history.iter().map(|record| record.id.clone()).collect();
    wait(place, &asked.wait, |status| {
        let served = status.last_switchover_request.as_deref() == Some(&id);
        let record = status.history.iter().find(|record| !known.contains(&record.id))?;
        served.then(|| {
            (
                record.outcome,
                format!(
                    "{} -> {} in {} ms {}",
                    record.from, record.to, record.duration_ms, record.message
                ),
            )
        })
    })
    .await
}

/// Forces a blocked failover on.
pub(crate) async fn failover(place: &Place, asked: &Failover) -> Exit {
    let Some(status) = current(place).await else {
        return fail("there is no status: is the operator running?");
    };
    match &status.operation {
        Some(operation) if operation.id == asked.force && operation.step == OperationStep::Blocked => {}
        Some(operation) if operation.id == asked.force => {
            return fail(&format!(
                "{} is not blocked: it is at {:?}",
                operation.id, operation.step
            ));
        }
        Some(operation) => return fail(&format!("the operation under way is {}", operation.id)),
        None => return fail("no operation is under way"),
    }
    let request = Request {
        failover: Some(FailoverRequest {
            force: asked.force.clone(),
        }),
        ..Request::default()
    };
    if let Err(exit) = write(place, &request).await {
        return exit;
    }
    if !asked.wait.wait {
        println!("asked: acknowledged writes may be lost");
        return Exit::Good;
    }
    let id = asked.force.clone();
    wait(place, &asked.wait, |status| {
        let record = status.history.iter().find(|record| record.id == id)?;
        Some((
            record.outcome,
            format!("{} -> {} in {} ms", record.from, record.to, record.duration_ms),
        ))
    })
    .await
}

/// Shows the steps until `done` finds the end.
async fn wait(
    place: &Place,
    wait: &Wait,
    done: impl Fn(&PgPoolStatus) -> Option<(OperationOutcome, String)>,
) -> Exit {
    let mut progress = Progress::new();
    let begun = Instant::now();
    let mut taken_up = false;
    while begun.elapsed() < Duration::from_secs(wait.timeout) {
        if let Some(status) = current(place).await {
            if let Some((outcome, message)) = done(&status) {
                progress.end();
                println!("{outcome:?}: {message}");
                return match outcome {
                    OperationOutcome::Completed | OperationOutcome::Adopted => Exit::Good,
                    OperationOutcome::Aborted => Exit::Aborted,
                    OperationOutcome::Refused => Exit::Refused,
                };
            }
            taken_up |= status.operation.is_some();
            progress.show(&status, begun.elapsed());
        }
        if !taken_up && begun.elapsed() >= SILENCE {
            progress.end();
            eprintln!("pgstmtpool: nobody takes the request up: is the operator running?");
            return Exit::TimedOut;
        }
        tokio::time::sleep(LOOK).await;
    }
    progress.end();
    eprintln!("pgstmtpool: no result within {} s", wait.timeout);
    Exit::TimedOut
}

/// One line that is written over on a terminal; elsewhere a line a step.
struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            last: String::new(),
        }
    }

    fn show(&mut self, status: &PgPoolStatus, elapsed: Duration) {
        let step = match &status.operation {
            Some(operation) => {
                let (id, step, message) = (&operation.id, operation.step, &operation.message);
                let why = match message.as_str() {
                    "" => String::new(),
                    message => format!(" ({message})"),
                };
                format!("{id} {step:?}: {}{why}", crate::show::meaning(step))
            }
            None => "waiting for the operator".to_owned(),
        };
        let mut out = std::io::stderr();
        if self.terminal {
            let _ = write!(
                out,
                "\r\x1b[K{:5.1} s  epoch {}  {step}",
                elapsed.as_secs_f64(),
                status.epoch
            );
            let _ = out.flush();
        } else if step != self.last {
            let _ = writeln!(
                out,
                "{:5.1} s  epoch {}  {step}",
                elapsed.as_secs_f64(),
                status.epoch
            );
        }
        self.last = step;
    }

    fn end(&self) {
        if self.terminal && !self.last.is_empty() {
            eprintln!();
        }
    }
}
