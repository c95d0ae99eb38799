//! Runs a script and writes its transcript.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parse::{Line, Script, Step, Until};
use crate::server::Server;
use crate::wait::wait_for;
use crate::wire::show::Shower;
use crate::wire::{Address, Connection, WireError, encode};

/// How long a `wait` may take before the script has failed.
const LIMIT: Duration = Duration::from_secs(20);
/// How long nothing must come for a `quiet`.
const SILENCE: Duration = Duration::from_millis(150);

struct Talker {
    connection: Connection,
    outgoing: Vec<u8>,
    owed: usize,
    ended: bool,
}

struct Run<'a> {
    address: &'a Address,
    user: &'a str,
    database: &'a str,
    admin: &'a Server,
    talkers: BTreeMap<String, Talker>,
    shower: Shower,
    out: Vec<String>,
}

impl Script {
    /// Runs it against `address`; `admin` is the server behind it, for `admin` and `until` lines.
    ///
    /// # Errors
    /// Names the line at which an answer did not come, and shows the transcript so far.
    pub fn run(
        &self,
        address: &Address,
        user: &str,
        database: &str,
        admin: &Server,
    ) -> Result<Vec<String>, String> {
        let mut run = Run {
            address,
            user,
            database,
            admin,
            talkers: BTreeMap::new(),
            shower: Shower::default(),
            out: Vec::new(),
        };
        for line in &self.lines {
            run.out.push(format!(
                "{:>3} {}> {}",
                line.number,
                line.connection,
                shortened(&line.text)
            ));
            run.line(line).map_err(|e| {
                format!(
                    "{} line {}: {e}\n{}",
                    self.name,
                    line.number,
                    crate::world::tail(&run.out.join("\n"), 15)
                )
            })?;
        }
        Ok(run.out)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

impl Run<'_> {
    fn line(&mut self, line: &Line) -> Result<(), String> {
        let name = line.connection.as_str();
        match &line.step {
            Step::Admin(sql) => {
                self.admin.sql_in(self.database, sql);
                return Ok(());
            }
            Step::Until(sql) => {
                let admin = self.admin;
                wait_for(sql, LIMIT, || match admin.try_value(sql)?.as_str() {
                    "t" => Ok(()),
                    other => Err(other.to_owned()),
                });
                return Ok(());
            }
            Step::Connect(parameters) => return self.connect(name, parameters),
            _ => {}
        }
        if !self.talkers.contains_key(name) {
            self.connect(name, &[])?;
        }
        self.talk(name, &line.step)
    }

    fn connect(&mut self, name: &str, extra: &[(String, String)]) -> Result<(), String> {
        let mut connection = Connection::dial(self.address).map_err(|e| e.to_string())?;
        connection.set_timeout(LIMIT);
        let base = [("user", self.user), ("database", self.database)];
        let base = base
            .into_iter()
            .filter(|(key, _)| !extra.iter().any(|(k, _)| k == key));
        let all: Vec<(&str, &str)> = base
            .chain(extra.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .collect();
        connection
            .send(&encode::startup(0x0003_0000, &all))
            .map_err(|e| e.to_string())?;
        let talker = Talker {
            connection,
            outgoing: Vec::new(),
            owed: 1,
            ended: false,
        };
        self.talkers.insert(name.to_owned(), talker);
        let from = self.out.len();
        self.read(name, Until::Ready)?;
        self.out[from..].sort_by_key(|line| {
            if line.contains("ParameterStatus") {
                line.clone()
            } else {
                String::new()
            }
        });
        let process_id = self.talkers[name].connection.process_id;
        self.shower.knows(process_id, name);
        Ok(())
    }

    fn talk(&mut self, name: &str, step: &Step) -> Result<(), String> {
        let talker = self.talkers.get_mut(name).ok_or("no such connection")?;
        match step {
            Step::Message(bytes, answered) => {
                talker.outgoing.extend_from_slice(bytes);
                talker.owed += usize::from(*answered);
                return Ok(());
            }
            Step::Drop => {
                self.talkers.remove(name);
                return Ok(());
            }
            Step::Cancel => return talker.connection.cancel(self.address).map_err(|e| e.to_string()),
            _ => {}
        }
        let outgoing = std::mem::take(&mut talker.outgoing);
        match talker.connection.send(&outgoing) {
            // The server may have closed while we were writing; the reads will show it.
            Ok(()) | Err(WireError::Closed) => {}
            Err(error) => return Err(error.to_string()),
        }
        match step {
            Step::Wait(until) => self.read(name, *until),
            Step::Quiet => self.quiet(name),
            _ => Ok(()),
        }
    }

    fn read(&mut self, name: &str, until: Until) -> Result<(), String> {
        loop {
            let talker = self.talkers.get_mut(name).ok_or("no such connection")?;
            if talker.ended || (matches!(until, Until::Ready) && talker.owed == 0) {
                return Ok(());
            }
            let frame = match talker.connection.read() {
                Ok(frame) => frame,
                Err(WireError::Closed) => {
                    talker.ended = true;
                    self.out.push(format!("    {name}< end of the stream"));
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            if frame.tag == b'Z' {
                talker.owed = talker.owed.saturating_sub(1);
            }
            let stop = matches!(until, Until::Tag(tag) if tag == frame.tag);
            if stop && frame.tag == b'Z' {
                talker.owed = 0;
            }
            let line = self.shower.line(name, &frame);
            self.out.push(format!("    {name}< {line}"));
            if stop {
                return Ok(());
            }
        }
    }

    fn quiet(&mut self, name: &str) -> Result<(), String> {
        let talker = self.talkers.get_mut(name).ok_or("no such connection")?;
        talker.connection.set_timeout(SILENCE);
        let got = talker.connection.read();
        talker.connection.set_timeout(LIMIT);
        match got {
            Err(WireError::Timeout) => self.out.push(format!("    {name}< silence")),
            Err(WireError::Closed) => {
                talker.ended = true;
                self.out.push(format!("    {name}< end of the stream"));
            }
            Err(error) => return Err(error.to_string()),
            Ok(frame) => {
                let line = self.shower.line(name, &frame);
                self.out.push(format!("    {name}< {line}"));
            }
        }
        Ok(())
    }
}
