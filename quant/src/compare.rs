//! A model against another one of the same shape: how far the same tokens lie apart as pictures, and
//! how often both draw the same tokens.

use serde::Serialize;
use varmint::{Image, Model, Tier};
use varmint_core::rng::philox;

use crate::batch::{Item, generate};
use crate::error::Error;

/// The PSNR that two equal images count as, in dB.
pub const EQUAL_DB: f64 = 100.0;

/// The outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Images.
    pub count: usize,
    /// Mean over images of the PSNR, in dB, of the same tokens decoded by both.
    pub mean_psnr_db: f64,
    /// The worst of them.
    pub min_psnr_db: f64,
    /// The PSNR of all pixels together.
    pub pooled_psnr_db: f64,
    /// The largest difference of a pixel value, of 255.
    pub max_difference: u8,
    /// Share of requests for which both drew exactly the same tokens.
    pub same_images: f64,
    /// Share of tokens that both drew alike.
    pub same_tokens: f64,
}

/// `count` requests with random rows of every condition table.
pub fn requests(model: &Model<'_>, count: usize, seed: u64) -> Vec<Item> {
    let c = &model.shape.config;
    (0..count as u64)
        .map(|i| {
            let mut item = Item::new(c.sampling, seed.wrapping_add(i));
            let r = philox([i as u32, 0, 0, 0xC0], [seed as u32, (seed >> 32) as u32]);
            for (t, (label, r)) in item.labels.iter_mut().zip(r).enumerate() {
                *label = (t < c.n_tables()).then(|| r % (c.table(t).rows - 1));
            }
            item
        })
        .collect()
}

/// Draws `items` on both models, and decodes the first model's tokens with the second. `done` is
/// called once per image, three times per request.
///
/// # Errors
/// Models of different shapes; a run that fails.
pub fn compare(
    (a, a_tier): (&Model<'_>, &Tier),
    (b, b_tier): (&Model<'_>, &Tier),
    items: &[Item],
    jobs: usize,
    done: &(dyn Fn() + Sync),
) -> Result<Comparison, Error> {
    let (ca, cb) = (&a.shape.config, &b.shape.config);
    let tables =
        |c: &varmint::Config| -> Vec<u32> { (0..c.n_tables()).map(|t| c.table(t).rows).collect() };
    let scales =
        |c: &varmint::Config| -> Vec<_> { (0..c.n_scales()).map(|k| c.scale(k)).collect() };
    if ca.vocab != cb.vocab || tables(ca) != tables(cb) || scales(ca) != scales(cb) {
        return Err(Error::mismatch(
            "vocabulary, schedule or condition tables",
            "equal",
            "unequal",
        ));
    }
    let ours = generate(a, a_tier, items, jobs, done)?;
    let theirs = generate(b, b_tier, items, jobs, done)?;
    let with_tokens = |(item, image): (&Item, &Image)| Item {
        tokens: Some(image.tokens.clone()),
        ..item.clone()
    };
    let forced: Vec<Item> = items.iter().zip(&ours).map(with_tokens).collect();
    let decoded = generate(b, b_tier, &forced, jobs, done)?;

    let n = items.len().max(1) as f64;
    let (mut sum, mut min, mut pooled, mut max) = (0.0, EQUAL_DB, 0.0, 0);
    for (x, y) in ours.iter().zip(&decoded) {
        if (x.width, x.height) != (y.width, y.height) {
            let size = |i: &Image| format!("{} x {}", i.height, i.width);
            return Err(Error::mismatch("size of the images", size(x), size(y)));
        }
        let mse = mse(&x.rgb, &y.rgb);
        let db = psnr(mse);
        sum += db;
        min = db.min(min);
        pooled += mse;
        let largest = x.rgb.iter().zip(&y.rgb).map(|(a, b)| a.abs_diff(*b)).max();
        max = max.max(largest.unwrap_or(0));
    }
    let pairs = || ours.iter().zip(&theirs);
    let same = pairs().filter(|(x, y)| x.tokens == y.tokens).count();
    let alike: usize =
        pairs().map(|(x, y)| x.tokens.iter().zip(&y.tokens).filter(|(a, b)| a == b).count()).sum();
    Ok(Comparison {
        count: items.len(),
        mean_psnr_db: sum / n,
        min_psnr_db: min,
        pooled_psnr_db: psnr(pooled / n),
        max_difference: max,
        same_images: same as f64 / n,
        same_tokens: alike as f64 / (n * ca.tokens() as f64),
    })
}

fn mse(a: &[u8], b: &[u8]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
    squares / a.len().max(1) as f64
}

/// PSNR in dB of a mean squared difference of bytes, at most [`EQUAL_DB`].
pub fn psnr(mse: f64) -> f64 {
    (10.0 * (255.0 * 255.0 / mse.max(1e-12)).log10()).min(EQUAL_DB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_of_known_differences() {
        assert_eq!(psnr(mse(&[1, 2, 3], &[1, 2, 3])), EQUAL_DB);
        let one = psnr(mse(&[10; 9], &[11; 9]));
        assert!((one - 48.130_8).abs() < 1e-3, "{one}");
        assert_eq!(psnr(mse(&[0; 4], &[255; 4])), 0.0);
    }
}
