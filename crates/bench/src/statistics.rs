//! Medians, spreads and percentiles: values in, values out.

use std::fmt;

/// One figure over all rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

/// How long calls took, each in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    sorted: Vec<u32>,
}

// === impl Series ===

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The middle value, or the mean of the two in the middle; 0 without any.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len(), sorted.get(middle)) {
            (_, None) => 0.0,
            (count, Some(upper)) if count % 2 == 1 => *upper,
            (_, Some(upper)) => f64::midpoint(sorted[middle - 1], *upper),
        }
    }

    /// The smallest value that this share of the values does not exceed (nearest rank); 0 without any.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        nearest_rank(&sorted, percent).copied().unwrap_or(0.0)
    }

    /// The newest value; 0 without any.
    pub(crate) fn last(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// Replaces the newest value by a larger one.
    pub(crate) fn raise_last(&mut self, value: f64) {
        if let Some(last) = self.0.last_mut() {
            *last = last.max(value);
        }
    }

    /// The smallest and the largest value.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let smallest = self.0.iter().copied().reduce(f64::min);
        let largest = self.0.iter().copied().reduce(f64::max);
        (smallest.unwrap_or(0.0), largest.unwrap_or(0.0))
    }

    /// Each round's value over the other's of the same round.
    pub(crate) fn over(&self, floor: &Self) -> Self {
        self.0
            .iter()
            .zip(&floor.0)
            .map(|(value, floor)| value / floor)
            .collect()
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

// === impl Latencies ===

impl Latencies {
    pub(crate) fn of(mut microseconds: Vec<u32>) -> Self {
        microseconds.sort_unstable();
        Self {
            sorted: microseconds,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest time that this share of the calls did not exceed (nearest rank); 0 without calls.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        nearest_rank(&self.sorted, percent).map_or(0.0, |microseconds| f64::from(*microseconds))
    }
}

fn nearest_rank<T>(sorted: &[T], percent: f64) -> Option<&T> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1)
}

/// A number with as many places as are worth reading.
pub(crate) struct Short(pub(crate) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = match self.0.abs() {
            value if value >= 1_000.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{:.places$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_the_middle() {
        for (values, median) in [
            (&[][..], 0.0),
            (&[3.0], 3.0),
            (&[9.0, 1.0], 5.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 100.0, 2.0], 3.0),
        ] {
            assert_eq!(series(values).median(), median, "{values:?}");
        }
    }

    #[test]
    fn a_series_has_percentiles_and_an_end() {
        let mut nine = series(&[9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]);
        assert_eq!((nine.percentile(90.0), nine.percentile(50.0)), (9.0, 5.0));
        assert_eq!(series(&[]).percentile(90.0), 0.0);
        nine.raise_last(4.0);
        assert_eq!(nine.last(), 5.0);
        nine.raise_last(6.0);
        assert_eq!(nine.last(), 6.0);
    }

    #[test]
    fn the_spread_is_from_the_smallest_to_the_largest() {
        assert_eq!(series(&[2.0, 3.0, 1.0]).spread(), (1.0, 3.0));
        assert_eq!(series(&[]).spread(), (0.0, 0.0));
    }

    #[test]
    fn rounds_are_compared_in_pairs() {
        let ratios = series(&[3.0, 8.0]).over(&series(&[2.0, 4.0]));
        assert_eq!(ratios, series(&[1.5, 2.0]));
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latencies = Latencies::of((1..=200).rev().collect());
        for (percent, expected) in [
            (0.0, 1.0),
            (0.5, 1.0),
            (50.0, 100.0),
            (99.0, 198.0),
            (100.0, 200.0),
        ] {
            assert_eq!(latencies.percentile(percent), expected, "{percent}");
        }
        assert_eq!(Latencies::of(vec![7]).percentile(99.0), 7.0);
        assert_eq!(Latencies::default().percentile(50.0), 0.0);
    }

    #[test]
    fn numbers_lose_places_as_they_grow() {
        for (value, text) in [
            (0.126, "0.13"),
            (9.999, "10.00"),
            (12.34, "12.3"),
            (12_345.6, "12346"),
            (-1.5, "-1.50"),
        ] {
            assert_eq!(Short(value).to_string(), text);
        }
    }
}
