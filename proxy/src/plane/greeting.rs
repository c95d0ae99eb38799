//! What clients are told at their login: as a server said it once, ready to be sent.

use bytes::{Bytes, BytesMut};
use pgnet::backend;

/// The parameter that is each client's own.
const NAME: &[u8] = b"application_name";
/// Room for that, and for BackendKeyData and ReadyForQuery.
const OWN: usize = 192;

/// See the module.
#[derive(Debug)]
pub(super) struct Greeting {
    parameters: Vec<(Bytes, Bytes)>,
    /// All but the application's name, as ParameterStatus.
    encoded: Bytes,
    /// Where that goes, if the server reports it.
    name_at: Option<usize>,
}

impl Greeting {
    /// Of the parameters a server reported, in its order.
    pub(super) fn new(parameters: Vec<(Bytes, Bytes)>) -> Self {
        let mut encoded = BytesMut::new();
        let mut name_at = None;
        for (name, value) in &parameters {
            if &name[..] == NAME {
                name_at = Some(encoded.len());
            } else {
                backend::parameter_status(&mut encoded, name, value);
            }
        }
        Self {
            parameters,
            encoded: encoded.freeze(),
            name_at,
        }
    }

    /// What the server reported.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.parameters.iter()
    }

    /// Tells a client with this application's name, which has room for itself here.
    pub(super) fn tell(&self, application_name: &[u8], out: &mut BytesMut) {
        out.reserve(self.encoded.len() + OWN);
        let (before, behind) = self.encoded.split_at(self.name_at.unwrap_or(0));
        out.extend_from_slice(before);
        if self.name_at.is_some() {
            backend::parameter_status(out, NAME, application_name);
        }
        out.extend_from_slice(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_the_server_said_in_its_order_with_its_own_name() {
        let of = |pairs: &[(&str, &str)]| -> Vec<(Bytes, Bytes)> {
            let owned = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            pairs.iter().map(|(n, v)| (owned(n), owned(v))).collect()
        };
        let cases: [&[(&str, &str)]; 4] = [
            &[("a", "1"), ("application_name", "theirs"), ("b", "2")],
            &[("application_name", "theirs"), ("b", "2")],
            &[("a", "1")],
            &[],
        ];
        for case in cases {
            let mut expected = BytesMut::new();
            for (name, value) in case {
                let value = if *name == "application_name" {
                    "mine"
                } else {
                    value
                };
                backend::parameter_status(&mut expected, name.as_bytes(), value.as_bytes());
            }
            let mut told = BytesMut::new();
            Greeting::new(of(case)).tell(b"mine", &mut told);
            assert_eq!(told, expected, "{case:?}");
        }
    }
}
