//! Random bytes for the keys of clients: asked of the operating system for many at a time.

use std::cell::RefCell;

/// Asked for at a time.
const PORTION: usize = 512;

/// See the module. Each byte is given out once and forgotten.
pub(super) struct Secrets(RefCell<Portion>);

struct Portion {
    bytes: [u8; PORTION],
    left: usize,
}

impl Default for Secrets {
    fn default() -> Self {
        Self(RefCell::new(Portion {
            bytes: [0; PORTION],
            left: 0,
        }))
    }
}

impl Secrets {
    /// So many bytes nobody else gets; `None`: the operating system has none.
    pub(super) fn take<const N: usize>(&self) -> Option<[u8; N]> {
        const { assert!(N <= PORTION) };
        let mut portion = self.0.borrow_mut();
        if portion.left < N {
            portion.left = 0;
            getrandom::fill(&mut portion.bytes).ok()?;
            portion.left = PORTION;
        }
        let end = portion.left;
        portion.left -= N;
        let taken = &mut portion.bytes[end - N..end];
        let secret = <[u8; N]>::try_from(&*taken).ok()?;
        taken.fill(0);
        Some(secret)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice_and_none_are_kept() {
        let secrets = Secrets::default();
        let mut seen = HashSet::new();
        for _ in 0..100 {
            assert!(seen.insert(secrets.take::<32>().unwrap().to_vec()));
            assert!(seen.insert(secrets.take::<12>().unwrap().to_vec()));
            let portion = secrets.0.borrow();
            assert!(portion.bytes[portion.left..].iter().all(|byte| *byte == 0));
        }
    }
}
