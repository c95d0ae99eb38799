//! Frames as lines of a transcript. What differs between two runs of one conversation and means nothing is
//! normalised: process ids, keys, OIDs of things that were made in the run, and the place in PostgreSQL's source that
//! an error names (fields F, L, R), which the proxy's own errors cannot have. All else stays as it is.

use std::collections::HashMap;

use super::connection::{DbError, Frame, show_text};

/// The highest OID that initdb gives out; those above were made by a test.
const FIRST_NORMAL_OID: u32 = 16_384;

/// Turns frames into lines and remembers what it has normalised.
#[derive(Debug, Default)]
pub struct Shower {
    oids: HashMap<u32, usize>,
    people: HashMap<i32, String>,
    listener: String,
}

impl Shower {
    /// From now on this process id is shown as `<name>`.
    pub fn knows(&mut self, process_id: i32, name: &str) {
        self.people.insert(process_id, name.to_owned());
    }

    /// One frame that `connection` got, as one line.
    pub fn line(&mut self, connection: &str, frame: &Frame) -> String {
        connection.clone_into(&mut self.listener);
        let body = frame.body.as_slice();
        match frame.tag {
            b'R' => format!("Authentication {}", number(body, 0)),
            b'K' => format!("BackendKeyData of {} bytes", body.len()),
            b'S' => format!("ParameterStatus {}", texts(body).join("=")),
            b'Z' => format!("ReadyForQuery {}", String::from_utf8_lossy(body)),
            b'C' => format!("CommandComplete {:?}", show_text(body)),
            b'E' => format!("ErrorResponse {}", self.fields(body)),
            b'N' => format!("NoticeResponse {}", self.fields(body)),
            b'T' => format!("RowDescription {}", self.columns(body)),
            b'D' => format!("DataRow {}", row(body)),
            b't' => format!("ParameterDescription {}", self.parameters(body)),
            b'A' => self.notification(body),
            b'V' => format!(
                "FunctionCallResponse {}",
                value(body.get(4..).filter(|_| number(body, 0) != -1))
            ),
            b'd' => format!("CopyData {}", bytes(body)),
            b'G' | b'H' | b'W' => format!("{} {body:?}", name(frame.tag)),
            b'v' => format!("NegotiateProtocolVersion {}", number(body, 0)),
            tag => format!(
                "{}{}",
                name(tag),
                if body.is_empty() {
                    String::new()
                } else {
                    format!(" {body:?}")
                }
            ),
        }
    }

    fn fields(&self, body: &[u8]) -> String {
        let error = DbError::decode(body);
        let fields = error
            .fields
            .iter()
            .filter(|(kind, _)| !matches!(kind, 'F' | 'L' | 'R'));
        let shown = fields.map(|(kind, text)| format!("{kind}={}", self.without_pids(text)));
        shown.collect::<Vec<_>>().join(" ")
    }

    fn without_pids(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (pid, who) in &self.people {
            out = out.replace(&format!("process {pid}"), &format!("process <{who}>"));
            out = out.replace(&format!("PID {pid}"), &format!("PID <{who}>"));
        }
        out
    }

    fn oid(&mut self, oid: u32) -> String {
        if oid < FIRST_NORMAL_OID {
            return oid.to_string();
        }
        let next = self.oids.len() + 1;
        format!("oid{}", self.oids.entry(oid).or_insert(next))
    }

    fn columns(&mut self, body: &[u8]) -> String {
        let mut rest = body.get(2..).unwrap_or_default();
        let mut out = Vec::new();
        while let Some(end) = rest.iter().position(|b| *b == 0) {
            let name = String::from_utf8_lossy(&rest[..end]).into_owned();
            let Some(fixed) = rest.get(end + 1..end + 19) else {
                break;
            };
            let table = self.oid(u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]));
            let column = short(fixed, 4);
            let kind = self.oid(u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]));
            let (size, modifier, format) = (short(fixed, 10), number(fixed, 12), short(fixed, 16));
            out.push(format!(
                "{name}:{kind}/{size}/{modifier}/{format}@{table}.{column}"
            ));
            rest = &rest[end + 19..];
        }
        out.join(", ")
    }

    fn parameters(&mut self, body: &[u8]) -> String {
        let oids = body.get(2..).unwrap_or_default().chunks_exact(4);
        let oids = oids.map(|c| self.oid(u32::from_be_bytes([c[0], c[1], c[2], c[3]])));
        oids.collect::<Vec<_>>().join(", ")
    }

    /// Who sent it matters to clients in one way: whether it was themselves.
    fn notification(&self, body: &[u8]) -> String {
        let own = self
            .people
            .get(&number(body, 0))
            .is_some_and(|who| *who == self.listener);
        let who = if own { "itself" } else { "another" };
        format!(
            "NotificationResponse from {who} {:?}",
            texts(body.get(4..).unwrap_or_default())
        )
    }
}

fn name(tag: u8) -> String {
    let known = match tag {
        b'1' => "ParseComplete",
        b'2' => "BindComplete",
        b'3' => "CloseComplete",
        b'n' => "NoData",
        b's' => "PortalSuspended",
        b'I' => "EmptyQueryResponse",
        b'c' => "CopyDone",
        b'G' => "CopyInResponse",
        b'H' => "CopyOutResponse",
        b'W' => "CopyBothResponse",
        other => return format!("unknown message {:?}", char::from(other)),
    };
    known.to_owned()
}

fn texts(body: &[u8]) -> Vec<String> {
    let body = body.strip_suffix(&[0]).unwrap_or(body);
    body.split(|b| *b == 0)
        .map(|t| String::from_utf8_lossy(t).into_owned())
        .collect()
}

fn row(body: &[u8]) -> String {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut out = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*head)).ok();
        out.push(value(length.and_then(|n| tail.get(..n))));
        rest = &tail[length.unwrap_or(0).min(tail.len())..];
    }
    out.join(" | ")
}

fn value(content: Option<&[u8]>) -> String {
    content.map_or("NULL".to_owned(), bytes)
}

/// Bytes in quotes; long ones as their length, a checksum and their ends.
fn bytes(content: &[u8]) -> String {
    if content.len() <= 200 {
        return format!("\"{}\"", content.escape_ascii());
    }
    let sum = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    });
    let (head, tail) = (&content[..40], &content[content.len() - 40..]);
    format!(
        "\"{}...{}\" ({} bytes, {sum:016x})",
        head.escape_ascii(),
        tail.escape_ascii(),
        content.len()
    )
}

fn number(body: &[u8], at: usize) -> i32 {
    body.get(at..at + 4)
        .map_or(0, |b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn short(body: &[u8], at: usize) -> i16 {
    body.get(at..at + 2)
        .map_or(0, |b| i16::from_be_bytes([b[0], b[1]]))
}
