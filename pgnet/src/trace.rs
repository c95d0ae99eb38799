//! A protocol trace (PC-15): what two ends say to each other, a line for each message, without what is secret.
//!
//! Owns the reading along, not the sockets: whoever relays feeds [`Tracer::feed`] with the bytes of both directions. Bodies are
//! shown by their head; the rest is counted and forgotten, so a trace costs no memory that depends on the traffic.

use bytes::{Buf, BytesMut};

use crate::startup::{self, Startup};
use crate::{backend, frame, frontend};

/// So much of a body is shown.
const SHOWN_MAX: usize = 120;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    FromClient,
    /// The server.
    FromServer,
}

/// Reads along.
#[derive(Debug, Default)]
pub struct Tracer {
    client: Side,
    server: Side,
    /// The client's startup packet has passed.
    started: bool,
    /// The server owes the one byte that answers a request for TLS or GSSAPI.
    owed: bool,
    /// Nothing can be read any more: it is encrypted, or not the protocol.
    opaque: bool,
}

#[derive(Debug, Default)]
struct Side {
    buffered: BytesMut,
    /// The rest of a frame whose head was shown.
    skip: usize,
}

impl Tracer {
    /// Takes bytes of one direction and returns the lines they complete.
    pub fn feed(&mut self, direction: Direction, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        // A piece at a time, so that no more is ever held than the head of a frame or a startup packet.
        while !bytes.is_empty() && !self.opaque {
            let side = self.side(direction);
            let skipped = side.skip.min(bytes.len());
            side.skip -= skipped;
            bytes.advance(skipped);
            let piece = bytes.len().min(SHOWN_MAX);
            side.buffered.extend_from_slice(&bytes[..piece]);
            bytes.advance(piece);
            while let Some(line) = self.next(direction) {
                lines.push(line);
            }
        }
        lines
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::FromClient => &mut self.client,
            Direction::FromServer => &mut self.server,
        }
    }

    fn next(&mut self, direction: Direction) -> Option<String> {
        if self.opaque || self.side(direction).buffered.is_empty() {
            return None;
        }
        match direction {
            Direction::FromClient if !self.started => self.startup(),
            Direction::FromServer if self.owed => self.answer(),
            _ => self.frame(direction),
        }
    }

    fn startup(&mut self) -> Option<String> {
        let buffered = &mut self.client.buffered;
        let packet = match frame::peek_startup(buffered) {
            Ok(Some(len)) if buffered.len() >= len as usize => buffered.split_to(len as usize),
            Ok(_) => return None,
            Err(error) => return Some(self.give_up(&format!("F {error}"))),
        };
        Some(match startup::decode(&packet) {
            Ok(Startup::Startup { version, parameters }) => {
                self.started = true;
                format!("F Startup {version} {parameters:?}")
            }
            Ok(request @ (Startup::Ssl | Startup::GssEnc)) => {
                self.owed = true;
                format!("F {request:?}")
            }
            Ok(cancel) => self.give_up(&format!("F {cancel:?}")),
            Err(error) => self.give_up(&format!("F {error}")),
        })
    }

    fn answer(&mut self) -> Option<String> {
        self.owed = false;
        Some(match self.server.buffered.get_u8() {
            b'N' => "B N: in the clear".to_owned(),
            answer => self.give_up(&format!(
                "B {}: encrypted from here",
                char::from(answer).escape_default()
            )),
        })
    }

    fn frame(&mut self, direction: Direction) -> Option<String> {
        let side = self.side(direction);
        let header = match frame::peek(&side.buffered, u32::MAX) {
            Ok(header) => header?,
            Err(error) => return Some(self.give_up(&format!("{} {error}", letter(direction)))),
        };
        let shown = header.total().min(frame::HEADER + SHOWN_MAX);
        if side.buffered.len() < shown {
            return None;
        }
        let head = side.buffered.split_to(shown);
        let rest = header.total() - shown;
        let here = rest.min(side.buffered.len());
        side.buffered.advance(here);
        side.skip = rest - here;
        let body = &head[frame::HEADER..];
        let text = if secret(direction, header.tag) {
            "(not shown)".to_owned()
        } else {
            let more = if rest > 0 { "..." } else { "" };
            format!("{}{more}", body.escape_ascii())
        };
        Some(format!(
            "{} {} {} {text}",
            letter(direction),
            name(direction, header.tag),
            header.body()
        ))
    }

    fn give_up(&mut self, line: &str) -> String {
        self.opaque = true;
        line.to_owned()
    }
}

fn letter(direction: Direction) -> char {
    match direction {
        Direction::FromClient => 'F',
        Direction::FromServer => 'B',
    }
}

/// Passwords and proofs of clients, cancel keys of servers.
fn secret(direction: Direction, tag: u8) -> bool {
    match direction {
        Direction::FromClient => tag == frontend::tag::AUTHENTICATION,
        Direction::FromServer => tag == backend::tag::BACKEND_KEY_DATA,
    }
}

fn name(direction: Direction, tag: u8) -> &'static str {
    match (direction, tag) {
        (Direction::FromClient, b'B') => "Bind",
        (Direction::FromClient, b'C') => "Close",
        (Direction::FromClient, b'D') => "Describe",
        (Direction::FromClient, b'E') => "Execute",
        (Direction::FromClient, b'F') => "FunctionCall",
        (Direction::FromClient, b'H') => "Flush",
        (Direction::FromClient, b'P') => "Parse",
        (Direction::FromClient, b'p') => "Authentication",
        (Direction::FromClient, b'Q') => "Query",
        (Direction::FromClient, b'S') => "Sync",
        (Direction::FromClient, b'X') => "Terminate",
        (Direction::FromClient, b'f') => "CopyFail",
        (_, b'c') => "CopyDone",
        (_, b'd') => "CopyData",
        (Direction::FromServer, b'1') => "ParseComplete",
        (Direction::FromServer, b'2') => "BindComplete",
        (Direction::FromServer, b'3') => "CloseComplete",
        (Direction::FromServer, b'A') => "NotificationResponse",
        (Direction::FromServer, b'C') => "CommandComplete",
        (Direction::FromServer, b'D') => "DataRow",
        (Direction::FromServer, b'E') => "ErrorResponse",
        (Direction::FromServer, b'G') => "CopyInResponse",
        (Direction::FromServer, b'H') => "CopyOutResponse",
        (Direction::FromServer, b'I') => "EmptyQueryResponse",
        (Direction::FromServer, b'K') => "BackendKeyData",
        (Direction::FromServer, b'N') => "NoticeResponse",
        (Direction::FromServer, b'R') => "Authentication",
        (Direction::FromServer, b'S') => "ParameterStatus",
        (Direction::FromServer, b'T') => "RowDescription",
        (Direction::FromServer, b'V') => "FunctionCallResponse",
        (Direction::FromServer, b'W') => "CopyBothResponse",
        (Direction::FromServer, b'Z') => "ReadyForQuery",
        (Direction::FromServer, b'n') => "NoData",
        (Direction::FromServer, b's') => "PortalSuspended",
        (Direction::FromServer, b't') => "ParameterDescription",
        (Direction::FromServer, b'v') => "NegotiateProtocolVersion",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::ProtocolVersion;
    use Direction::{FromClient, FromServer};

    fn conversation() -> Vec<(Direction, BytesMut)> {
        let made = |encode: &dyn Fn(&mut BytesMut)| {
            let mut buf = BytesMut::new();
            encode(&mut buf);
            buf
        };
        vec![
            (FromClient, made(&startup::ssl_request)),
            (FromServer, made(&|b| b.extend_from_slice(b"N"))),
            (
                FromClient,
                made(&|b| startup::startup(b, ProtocolVersion::V3_0, [("user", "joe")])),
            ),
            (FromServer, made(&backend::authentication_cleartext)),
            (FromClient, made(&|b| frontend::password(b, b"hunter2"))),
            (FromServer, made(&|b| backend::backend_key_data(b, 7, b"skey"))),
            (FromClient, made(&|b| frontend::query(b, &[b'x'; 1_000]))),
            (FromClient, made(&frontend::sync)),
        ]
    }

    #[test]
    fn a_trace_has_a_line_for_each_message_and_no_secret() {
        let expected = [
            "F Ssl".to_owned(),
            "B N: in the clear".to_owned(),
            "F Startup 3.0 [(\"user\", \"joe\")]".to_owned(),
            "B Authentication 4 \\x00\\x00\\x00\\x03".to_owned(),
            "F Authentication 8 (not shown)".to_owned(),
            "B BackendKeyData 8 (not shown)".to_owned(),
            format!("F Query 1001 {}...", "x".repeat(SHOWN_MAX)),
            "F Sync 0 ".to_owned(),
        ];
        for size in [1, 3, 7, 4_096] {
            let mut tracer = Tracer::default();
            let mut lines = Vec::new();
            for (direction, bytes) in conversation() {
                bytes
                    .chunks(size)
                    .for_each(|piece| lines.extend(tracer.feed(direction, piece)));
            }
            assert_eq!(lines, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_encrypted_or_rubbish_is_given_up_and_not_gathered() {
        let mut tracer = Tracer::default();
        let mut request = BytesMut::new();
        startup::ssl_request(&mut request);
        tracer.feed(FromClient, &request);
        assert_eq!(tracer.feed(FromServer, b"S"), ["B S: encrypted from here"]);
        assert!(tracer.feed(FromClient, &[0x16; 100_000]).is_empty());
        assert!(tracer.client.buffered.len() < 1_000);
        assert_eq!(Tracer::default().feed(FromClient, b"GET / HTTP/1.1").len(), 1);
    }
}
