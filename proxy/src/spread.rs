//! Bytes as a number, fast: for finding what is then compared in full, and for noticing that something has changed. Neither keyed
//! nor hard to forge: nothing that one client could gain by at the expense of another may rest on it.

/// The bytes as a number, spread over all of its bits.
#[must_use]
pub fn of(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut sum = bytes.len() as u64;
    for word in &mut words {
        sum = add(sum, word.try_into().map_or(0, u64::from_le_bytes));
    }
    let rest = words.remainder();
    match bytes.last_chunk() {
        _ if rest.is_empty() => sum,
        Some(last) => add(sum, u64::from_le_bytes(*last)),
        None => add(
            sum,
            rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        ),
    }
}

/// `sum` with one more number in it.
#[must_use]
pub fn add(sum: u64, number: u64) -> u64 {
    // 2^64 divided by the golden ratio, as in Knuth's multiplicative hashing; both halves of the product, so that the highest
    // bits of a number tell in the lowest, too.
    let product = u128::from(sum.rotate_left(5) ^ number) * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbours_are_far_apart_in_every_part_of_the_number() {
        let texts: Vec<String> = (0..10_000).map(|n| format!("select {n}")).collect();
        let numbers: HashSet<u64> = texts.iter().map(|text| of(text.as_bytes())).collect();
        assert_eq!(numbers.len(), texts.len());
        for shift in [0, 16, 32, 48] {
            let places: HashSet<u64> = numbers.iter().map(|n| n >> shift & 0xff).collect();
            assert_eq!(places.len(), 256, "bits from {shift} on");
        }
    }
}
