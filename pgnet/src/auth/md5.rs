//! The obsolete md5 method: what a server stores is enough to log in, and the hash is weak. Kept for servers that know nothing else.

use ::md5::{Digest, Md5};
use subtle::ConstantTimeEq;

fn hex(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What `pg_authid.rolpassword` holds for this user and password: `md5` and 32 hexadecimal digits.
#[must_use]
pub fn hash(user: &str, password: &str) -> String {
    format!("md5{}", hex(&[password.as_bytes(), user.as_bytes()]))
}

/// Whether a stored password has the form that [`hash`] gives.
#[must_use]
pub fn is_hash(stored: &str) -> bool {
    stored.strip_prefix("md5").is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The answer to a request with this salt, from the stored hash. `None`: it is not one.
#[must_use]
pub fn response(stored: &str, salt: [u8; 4]) -> Option<String> {
    if !is_hash(stored) {
        return None;
    }
    Some(format!("md5{}", hex(&[&stored.as_bytes()[3..], &salt])))
}

/// Whether `answer` is the right one for this stored hash and salt. Takes the same time wherever they differ.
#[must_use]
pub fn verify(stored: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    response(stored, salt).is_some_and(|expected| expected.as_bytes().ct_eq(answer).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_postgresql_stores() {
        // select 'md5' || md5('secret' || 'joe')
        assert_eq!(hash("joe", "secret"), "md5c59ec932d911ffdf487595b5a2adf973");
        assert!(is_hash(&hash("", "")));
        for bad in [
            "md5",
            "md5ABCDEF0123456789ABCDEF0123456789",
            "MD5c59ec932d911ffdf487595b5a2adf973",
        ] {
            assert!(!is_hash(bad), "{bad}");
        }
    }

    #[test]
    fn only_the_right_answer_is_accepted() {
        let stored = hash("joe", "secret");
        let answer = response(&stored, [1, 2, 3, 4]).unwrap();
        assert!(verify(&stored, [1, 2, 3, 4], answer.as_bytes()));
        assert!(!verify(&stored, [1, 2, 3, 5], answer.as_bytes()));
        assert!(!verify(&stored, [1, 2, 3, 4], b""));
        assert!(
            !verify("secret", [1, 2, 3, 4], answer.as_bytes()),
            "clear text is no hash"
        );
    }
}
