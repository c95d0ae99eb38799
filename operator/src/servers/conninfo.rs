//! `primary_conninfo`: read, change where it points, write. What we do not know is kept as it is.

use crate::core::{DETACHED_HOST, Upstream};
use std::fmt;

/// libpq's connection string as key and value, in the order written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// Reads `key = value ...` or `postgresql://...`. `None`: it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        for scheme in ["postgresql://", "postgres://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Self::parse_uri(rest);
            }
        }
        let mut pairs = Vec::new();
        let mut chars = text.chars().peekable();
        loop {
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            if chars.peek().is_none() {
                return Some(Self(pairs));
            }
            let mut key = String::new();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '=') {
                key.push(c);
            }
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            if key.is_empty() || chars.next() != Some('=') {
                return None;
            }
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            let quoted = chars.next_if_eq(&'\'').is_some();
            let mut value = String::new();
            loop {
                match chars.next() {
                    Some('\\') => value.extend(chars.next()),
                    Some('\'') if quoted => break,
                    None if quoted => return None,
                    None => break,
                    Some(c) if !quoted && c.is_whitespace() => break,
                    Some(c) => value.push(c),
                }
            }
            pairs.push((key, value));
        }
    }

    fn parse_uri(rest: &str) -> Option<Self> {
        let mut info = Self::default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
                Some((name, port)) => (name, port.strip_prefix(':').unwrap_or("")),
                None => host.rsplit_once(':').unwrap_or((host, "")),
            };
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        let port = if ports.iter().all(String::is_empty) {
            String::new()
        } else {
            ports.join(",")
        };
        let parts = [
            ("user", decode(user)?),
            ("password", decode(password)?),
            ("host", names.join(",")),
            ("port", port),
            ("dbname", decode(database)?),
        ];
        for (key, value) in parts {
            if !value.is_empty() {
                info.set(key, value);
            }
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=')?;
            info.set(&decode(key)?, decode(value)?);
        }
        Some(info)
    }

    /// The value of a key; the last one counts, as in libpq.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter().position(|(name, _)| name == key) {
            Some(at) => {
                self.remove_after(at, key);
                self.0[at].1 = value;
            }
            None => self.0.push((key.to_owned(), value)),
        }
    }

    fn remove_after(&mut self, at: usize, key: &str) {
        let mut index = 0;
        self.0.retain(|(name, _)| {
            index += 1;
            index - 1 <= at || name != key
        });
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// The same login and settings, towards another master.
    #[must_use]
    pub fn pointed_at(&self, host: &str, port: u16, application_name: &str) -> Self {
        let mut info = self.clone();
        // An address in numbers would win over the host; several hosts end with the one we mean.
        info.remove("hostaddr");
        info.set("host", host);
        info.set("port", port.to_string());
        info.set("application_name", application_name);
        info
    }

    /// The same login and settings, towards nobody.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut info = self.clone();
        info.remove("hostaddr");
        info.set("host", DETACHED_HOST);
        info.set("port", "5432");
        info
    }

    /// Where it points.
    pub fn upstream(&self) -> Upstream {
        let host = self
            .get("hostaddr")
            .or_else(|| self.get("host"))
            .unwrap_or_default();
        Upstream {
            host: host.to_owned(),
            port: self
                .get("port")
                .and_then(|port| port.parse().ok())
                .unwrap_or(5432),
            application_name: self.get("application_name").unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let blank = if at > 0 { " " } else { "" };
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@,+".contains(c);
            if !value.is_empty() && value.chars().all(is_plain) {
                write!(f, "{blank}{key}={value}")?;
            } else {
                write!(
                    f,
                    "{blank}{key}='{}'",
                    value.replace('\\', "\\\\").replace('\'', "\\'")
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self
            .0
            .iter()
            .map(|(key, value)| (key, if key == "password" { "..." } else { value }));
        f.debug_map().entries(keys).finish()
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            decoded.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read() {
        for (text, expected) in [
            ("", ""),
            ("host=h port=5", "host=h port=5"),
            ("  user = 'a b'  host='h'\n", "user='a b' host=h"),
            (r"password='it\'s \\ me' host=x", r"password='it\'s \\ me' host=x"),
            (r"password=a\ b", "password='a b'"),
            ("host=''", "host=''"),
            (
                "postgresql://u:p%40q@h:5433/db?sslmode=require",
                "user=u password=p@q host=h port=5433 dbname=db sslmode=require",
            ),
            ("postgres://[::1]:7/", "host=::1 port=7"),
            ("postgres://u@/x?host=%2Ftmp", "user=u dbname=x host=/tmp"),
        ] {
            assert_eq!(Conninfo::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["host", "host='x", "=x", "postgresql://u%zz@h"] {
            assert_eq!(Conninfo::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn pointing_elsewhere_keeps_login_and_settings() {
        let info = Conninfo::parse(
            "user=r password='s e' hostaddr=1.2.3.4 host=old port=1 sslmode=prefer host=old2",
        )
        .unwrap();
        let there = info.pointed_at("new", 7, "pg-1");
        assert_eq!(
            there.to_string(),
            "user=r password='s e' host=new port=7 sslmode=prefer application_name=pg-1"
        );
        assert!(!there.upstream().is_detached());
        let nowhere = there.detached();
        assert!(nowhere.upstream().is_detached());
        assert_eq!(nowhere.pointed_at("new", 7, "pg-1"), there);
    }

    #[test]
    fn a_password_is_never_printed() {
        let info = Conninfo::parse("user=r password=hunter2").unwrap();
        assert!(!format!("{info:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(pairs in prop::collection::vec(("[a-z_]{1,8}", ".{0,12}"), 0..6)) {
            let mut info = Conninfo::default();
            for (key, value) in pairs {
                info.set(&key, value);
            }
            prop_assert_eq!(Conninfo::parse(&info.to_string()), Some(info));
        }

        #[test]
        fn no_text_is_too_odd_to_be_looked_at(text in ".{0,60}") {
            let _ = Conninfo::parse(&text).map(|info| info.pointed_at("h", 1, "a").to_string());
        }
    }
}
