//! Medians and percentiles.

use std::time::Duration;

/// The median of some figures; 0 of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Durations of statements, kept in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, taken: Duration) {
        self.micros
            .push(u32::try_from(taken.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds one given in microseconds.
    pub fn add_micros(&mut self, micros: u32) {
        self.micros.push(micros);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The percentile `p` (0.5 is the median); zero of none.
    pub fn percentile(&mut self, p: f64) -> Duration {
        if self.micros.is_empty() {
            return Duration::ZERO;
        }
        let last = self.micros.len() - 1;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = ((last as f64) * p.clamp(0.0, 1.0)).round() as usize;
        let (_, value, _) = self.micros.select_nth_unstable(at.min(last));
        Duration::from_micros(u64::from(*value))
    }

    /// The longest; zero of none.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.micros.iter().copied().max().unwrap_or(0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut all = Latencies::default();
        (1..=100).for_each(|n| all.add(Duration::from_millis(n)));
        assert_eq!(all.percentile(0.5), Duration::from_millis(51));
        assert_eq!(all.percentile(0.99), Duration::from_millis(99));
        assert_eq!(all.longest(), Duration::from_millis(100));
    }
}
