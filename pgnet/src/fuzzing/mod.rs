//! What the fuzz targets check: one function for each decoder, in the crate so that the fuzzer (folder `fuzz`, feature `fuzzing`) and
//! the smoke run of the ordinary tests (`cargo test -p pgnet fuzzing`) run the same code.
//!
//! None may panic, however the bytes are; what is decoded must also be what it claims, which the assertions say.

mod protocol;
mod secrets;

/// A target: its name and what it does with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The first word is the name of the program in the folder `fuzz`.
pub const TARGETS: &[Target] = &[
    ("frame", protocol::frame),
    ("startup", protocol::startup),
    ("frontend", protocol::frontend),
    ("backend", protocol::backend),
    ("fields", protocol::fields),
    ("values", protocol::values),
    ("sasl", secrets::sasl),
    ("scram_server", secrets::scram_server),
    ("scram_client", secrets::scram_client),
    ("verifier", secrets::verifier),
    ("certificate", secrets::certificate),
];

/// Runs the target of this name; an unknown name does nothing.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(found, _)| *found == name) {
        target(data);
    }
}

/// Splits at the first line feed, for targets that take two messages.
fn two(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests;
