//! The program `pgstmtpool-guard`: wraps the command of a PostgreSQL container and decides at every start what the data may
//! come up as. A former master never starts writable on a guess.
//!
//! `decide` is the table; here are the API, the files and the programs of PostgreSQL around it. It runs before PostgreSQL and
//! becomes it: there is nothing of it left while PostgreSQL runs.

mod data;
mod decide;

use cluster::kube::{call, client, config_of, resource, status_of};
use data::{Environment, Failure};
use decide::{Data, Order, Plan, Told, decide, order};
use kube::Api;
use kube::api::DynamicObject;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How often it asks, while it waits.
const ASK: Duration = Duration::from_secs(1);
/// How often it says what it waits for.
const SAY: Duration = Duration::from_secs(10);
/// Between two tries of a rewind or a copy.
const AGAIN: Duration = Duration::from_secs(3);
/// Tries before it gives up; its kubelet, and the operator, try again later.
const TRIES: u32 = 3;
/// Where Kubernetes reads why a container ended.
const LAST_WORDS: &str = "/dev/termination-log";

const USAGE: &str = "\
pgstmtpool-guard decides what a PostgreSQL data directory may come up as, and then becomes COMMAND.

  pgstmtpool-guard exec -- COMMAND [ARGUMENTS]   in the container of PostgreSQL, around its command
  pgstmtpool-guard install FOLDER                in an init container: copies itself into FOLDER
  pgstmtpool-guard --help | --version

It reads who is master from the PgPool PGSTMTPOOL_POOL (in POD_NAMESPACE) and compares that with PGDATA.
Environment: PGSTMTPOOL_POOL POD_NAME POD_NAMESPACE PGDATA PGSTMTPOOL_REPLICATION_USER _PASSWORD PGSTMTPOOL_REWIND_USER _PASSWORD
PGSTMTPOOL_BOOTSTRAP_MASTER. Exit codes: those of COMMAND; 1 it cannot go on; 2 bad arguments or environment.
";

/// The whole program.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--help" | "-h"] => print(USAGE),
        ["--version"] => print(concat!("pgstmtpool-guard ", env!("CARGO_PKG_VERSION"), "\n")),
        ["install", folder] => match install(Path::new(folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &format!("install {folder}: {error}")),
        },
        ["exec", "--", command, rest @ ..] => exec(command, rest),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn say(text: &str) {
    eprintln!("pgstmtpool-guard: {text}");
}

fn fail(code: u8, text: &str) -> ExitCode {
    say(text);
    if let Ok(mut file) = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(LAST_WORDS)
    {
        let _ = file.write_all(text.as_bytes());
    }
    ExitCode::from(code)
}

fn install(folder: &Path) -> std::io::Result<()> {
    let own = std::env::current_exe()?;
    let beside = folder.join(".pgstmtpool-guard");
    std::fs::copy(own, &beside)?;
    std::fs::rename(beside, folder.join("pgstmtpool-guard"))
}

fn exec(command: &str, arguments: &[&str]) -> ExitCode {
    let environment = match Environment::read() {
        Ok(environment) => environment,
        Err(missing) => return fail(2, &missing),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error.to_string()),
    };
    let prepared = runtime.block_on(prepare(&environment));
    drop(runtime);
    if let Err(failure) = prepared {
        return fail(1, &failure.to_string());
    }
    let error = Command::new(command).args(arguments).exec();
    fail(1, &format!("{command}: {error}"))
}

/// Returns when the command may start.
async fn prepare(environment: &Environment) -> Result<(), Failure> {
    let mut said: Option<(String, Instant)> = None;
    let mut tries = 0;
    loop {
        let told = ask(environment).await;
        let data = environment.look();
        let plan = decide(data, &told, environment.is_first());
        let outcome = match (&plan, &told) {
            (Plan::Run, _) => {
                if data == Data::Standby && matches!(told, Told::Silence(_)) {
                    say("nobody says who is master: starting as the standby it was");
                }
                return Ok(());
            }
            (Plan::Wait(why), _) => {
                let news = said
                    .as_ref()
                    .is_none_or(|(text, at)| text != why || at.elapsed() >= SAY);
                if news {
                    say(why);
                    said = Some((why.clone(), Instant::now()));
                }
                tokio::time::sleep(ASK).await;
                continue;
            }
            (Plan::CopyFirst, _) => environment.copy_first(),
            (Plan::Copy, Told::Master(order)) => environment.copy(order),
            (Plan::Follow { rewind }, Told::Master(order)) => {
                if *rewind {
                    environment.checkpoint(order).await;
                }
                follow(environment, order, *rewind)
            }
            (Plan::Copy | Plan::Follow { .. }, _) => Ok(()),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(failure) => {
                say(&failure.to_string());
                tries += 1;
                // A master that is not there yet is waited for; what was tried in vain is not tried for ever.
                if tries >= TRIES && !failure.is_absence() {
                    return match &told {
                        Told::Master(order) if order.rebuild && data != Data::None => {
                            say("spec.ha.rejoin is Rebuild: the data is thrown away and copied anew");
                            environment.copy(order)
                        }
                        _ => Err(failure),
                    };
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn follow(environment: &Environment, order: &Order, rewind: bool) -> Result<(), Failure> {
    if rewind {
        environment.rewind(order)?;
    }
    say(&format!(
        "{} follows {} at {}:{}",
        order.mine, order.master, order.host, order.port
    ));
    environment.make_standby(order)
}

/// What the API says. Never longer than a few seconds.
async fn ask(environment: &Environment) -> Told {
    let client = match client(None).await {
        Ok(client) => client,
        Err(error) => return Told::Silence(error.to_string()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, &environment.namespace, &resource());
    let object = match call(api.get(&environment.pool)).await {
        Ok(object) => object,
        Err(error) if error.is_missing() => return Told::NoMaster,
        Err(error) => return Told::Silence(error.to_string()),
    };
    let status = match status_of(&object) {
        Ok(status) => status,
        Err(fault) => return Told::Silence(fault.to_string()),
    };
    match config_of(&object) {
        Ok(checked) => order(&checked.config, status.as_ref(), &environment.pod),
        Err(faults) => Told::Silence(faults.first().map(ToString::to_string).unwrap_or_default()),
    }
}
