//! The scale schedule: its sizes, and which phi convolution smooths each scale.

use varmint_core::Scale;

/// Which of `n_phi` convolutions scale `k` of `n_scales` uses: the one whose tick is nearest to
/// k / (S - 1), the first of two that are equally near.
///
/// Ties exist in real arithmetic (S = 10, k = 2 and 7) and are decided by float64 rounding, so the
/// operations are exactly those of numpy's `linspace` in the official `models/quant.py`.
pub fn phi_index(n_scales: usize, n_phi: usize, k: usize) -> u8 {
    let at = if n_scales > 1 { k as f64 / (n_scales - 1) as f64 } else { 0.0 };
    let n = n_phi as f64;
    let low = if n_phi == 4 { 1.0 / 3.0 / n } else { 1.0 / 2.0 / n };
    let high = 1.0 - low;
    let mut best = (f64::INFINITY, 0u8);
    for i in 0..n_phi {
        let tick = if n_phi > 1 && i == n_phi - 1 {
            high
        } else {
            i as f64 * ((high - low) / (n_phi.max(2) - 1) as f64) + low
        };
        let distance = (tick - at).abs();
        if distance < best.0 {
            best = (distance, i as u8);
        }
    }
    best.1
}

/// The schedule of these map sizes (height, width) with their phi convolutions.
pub fn schedule(sizes: &[(u16, u16)], n_phi: usize) -> Vec<Scale> {
    let scale = |(k, &(h, w))| Scale::new(h, w, phi_index(sizes.len(), n_phi, k));
    sizes.iter().enumerate().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_of_the_official_schedules() {
        let row = |s: usize| (0..s).map(|k| phi_index(s, 4, k)).collect::<Vec<_>>();
        assert_eq!(row(4), [0, 1, 2, 3]);
        assert_eq!(row(5), [0, 1, 2, 2, 3]);
        assert_eq!(row(7), [0, 0, 1, 2, 2, 3, 3]);
        assert_eq!(row(10), [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]);
        assert_eq!(row(14), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn one_phi_or_one_per_scale() {
        for s in 1..=16 {
            for k in 0..s {
                assert_eq!(phi_index(s, 1, k), 0);
                assert_eq!(phi_index(s, s, k) as usize, k);
            }
        }
    }
}
