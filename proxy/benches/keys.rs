//! What it costs to find the one object that stands for a session's settings and a prepared statement (at a Parse, not at a Bind).

use bytes::Bytes;
use divan::{Bencher, black_box};
use pgstmtpool_proxy::plane::benches::Keys;

fn main() {
    divan::main();
}

/// One of so many known statements, for settings that are known too.
#[divan::bench(args = [10, 1000, 4000])]
fn known_statement(bencher: Bencher<'_, '_>, known: usize) {
    let keys = Keys::new(known);
    let text = Bytes::from(format!("select {}", known / 2));
    assert!(keys.find(&text, &[("datestyle", "ISO")]));
    bencher.bench_local(|| keys.find(black_box(&text), &[("datestyle", "ISO")]));
}

/// A new text each time.
#[divan::bench]
fn new_statement(bencher: Bencher<'_, '_>) {
    let keys = Keys::new(1000);
    let mut n = 1_000_000_u64;
    bencher
        .with_inputs(|| {
            n += 1;
            Bytes::from(format!("select {n}"))
        })
        .bench_local_values(|text| keys.find(&text, &[("datestyle", "ISO")]));
}
