//! A line through measurements: how much something grows.

/// The least-squares slope through points of time and value, in values per unit of time; zero for fewer than two
/// different times.
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (time, value) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|(t, v)| (t - time) * (v - value)).sum();
    let below: f64 = points.iter().map(|(t, _)| (t - time).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

/// The value that `percent` of all are not above; zero of none.
pub(super) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_own_slope_and_noise_around_it_none() {
        let line: Vec<(f64, f64)> = (0..60).map(|n| (f64::from(n), 7.0 + 2.5 * f64::from(n))).collect();
        assert!((slope(&line) - 2.5).abs() < 1e-9);
        let noise: Vec<(f64, f64)> = (0..60).map(|n| (f64::from(n), f64::from(n % 2))).collect();
        assert!(slope(&noise).abs() < 0.01);
        assert!(slope(&[]).abs() < 1e-9 && slope(&[(1.0, 5.0)]).abs() < 1e-9);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&values, 99) - 198.0).abs() < 1e-9);
        assert!((percentile(&values, 50) - 100.0).abs() < 1e-9);
        assert!((percentile(&[3.0], 99) - 3.0).abs() < 1e-9);
        assert!(percentile(&[], 99).abs() < 1e-9);
    }
}
