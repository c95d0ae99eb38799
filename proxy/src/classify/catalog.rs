//! A copy of what a database's catalog says about names.

/// A snapshot of one database.
#[derive(Debug)]
pub struct Catalog {
    generation: u64,
}

impl Catalog {
    /// A number no other snapshot of this process has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}
