//! Zero-shot editing (official `demo_zero_shot_edit.ipynb`): which tokens of a picture stay, scale by scale.
//!
//! ```text
//! M_k = bilinear(M -> scale k) > 1/2        M on the grid of the latent, 1 where the picture stays
//! M_k = 1 everywhere                        for scales of at most 3 tokens
//! ```
//!
//! Tokens that stay take the place of drawn ones before they are added to the latent: [`crate::Request::tokens`]. Either
//! they are those of the picture ([`keep`] alone, as in the official demo), or scale by scale they are looked for again,
//! beside what was drawn ([`follow`]).

use crate::config::{Config, Scale};
use crate::encode::nearest;
use crate::error::Error;
use crate::latent::reduce;
use crate::model::Model;
pub use crate::request::DRAW;
use crate::slices::{part, part_mut, place};
use crate::stage::HEAD_TILE;

/// A scale of at most so many tokens stays whole: it has the colours of the picture, not its parts.
pub const WHOLE: usize = 3;

/// Both taps of output `d` of a reduction `from -> to` without a filter, half-pixel centres, and the weight of the
/// second one in units of `1 / 2 to`.
fn taps(d: usize, from: usize, to: usize) -> (usize, usize, usize) {
    let at = ((2 * d + 1) * from).saturating_sub(to);
    let (first, weight) = place(at, 2 * to);
    (first, (first + 1).min(from.saturating_sub(1)), weight)
}

/// Whether token `(y, x)` of a scale stays. Exact: sums of integers, so a half is a half.
fn stays(mask: &[bool], latent: Scale, scale: Scale, (y, x): (usize, usize)) -> bool {
    let (h, w) = (scale.h as usize, scale.w as usize);
    let (top, bottom, low) = taps(y, latent.h as usize, h);
    let (left, right, late) = taps(x, latent.w as usize, w);
    let (high, early) = (2 * h - low, 2 * w - late);
    let at =
        |y: usize, x: usize| mask.get(y * latent.w as usize + x).copied().unwrap_or(false) as usize;
    let upper = early * at(top, left) + late * at(top, right);
    let lower = early * at(bottom, left) + late * at(bottom, right);
    2 * (high * upper + low * lower) > 4 * h * w
}

/// Leaves of a picture's tokens those that stay, where `mask` says it of the cells of the latent, row by row; in the
/// place of the others comes [`DRAW`]. Returns how many these are.
///
/// # Errors
/// [`Error::BadImage`] for a mask of another size than the latent; [`Error::BadTokens`] for another number of tokens;
/// [`Error::Unsupported`] for a model of 65,536 codes, where no number is left to say it.
pub fn keep(config: &Config, mask: &[bool], tokens: &mut [u16]) -> Result<usize, Error> {
    let latent = config.latent();
    if mask.len() != latent.tokens() {
        return Err(Error::BadImage { need: latent.tokens(), got: mask.len() });
    }
    if tokens.len() != config.tokens() {
        return Err(Error::BadTokens { need: config.tokens(), got: tokens.len() });
    }
    if config.vocab > DRAW as u32 {
        return Err(Error::Unsupported);
    }
    let mut drawn = 0;
    for k in 0..config.n_scales() {
        let scale = config.scale(k);
        if scale.tokens() <= WHOLE {
            continue;
        }
        let tokens = part_mut(tokens, config.tokens_before(k), scale.tokens());
        for (i, token) in tokens.iter_mut().enumerate() {
            if !stays(mask, latent, scale, place(i, scale.w as usize)) {
                *token = DRAW;
                drawn += 1;
            }
        }
    }
    Ok(drawn)
}

/// Floats that [`follow`] needs.
pub const fn follow_room(config: &Config) -> usize {
    (2 * config.latent().tokens() + 1) * config.cvae as usize
}

/// Tokens of scale `k` that lead to the latent `wanted` from what the scales before have made, `so_far`: the codes
/// nearest to what is missing, as an encoder finds them when nothing else was drawn. So what stays of a picture makes
/// up for what is drawn around it. A token that is [`DRAW`] is left alone.
///
/// Latents are `[height, width, channels]`; `tokens` are those of the scale, `room` is for [`follow_room`] floats.
///
/// # Errors
/// [`Error::BadImage`] for a latent or room of another size, [`Error::BadTokens`] for another number of tokens, both with
/// need and got; [`Error::Unsupported`] where a scale replaces the latent.
pub fn follow(
    model: &Model<'_>,
    k: usize,
    (wanted, so_far): (&[f32], &[f32]),
    tokens: &mut [u16],
    room: &mut [f32],
) -> Result<(), Error> {
    let (c, z) = (&model.shape.config, model.shape.config.cvae as usize);
    let (latent, scale) = (c.latent(), c.scale(k));
    let n = latent.tokens() * z;
    for (need, got) in [(n, wanted.len()), (n, so_far.len()), (follow_room(c), room.len())] {
        if need != got {
            return Err(Error::BadImage { need, got });
        }
    }
    if k >= c.n_scales() || tokens.len() != scale.tokens() {
        return Err(Error::BadTokens { need: scale.tokens(), got: tokens.len() });
    }
    if c.replaces() {
        return Err(Error::Unsupported);
    }
    let (missing, rest) = room.split_at_mut_checked(n).ok_or(Error::PlanMismatch)?;
    let (code, rest) = rest.split_at_mut_checked(z).ok_or(Error::PlanMismatch)?;
    // With the other sign, as `nearest` wants it.
    for ((o, &w), &s) in missing.iter_mut().zip(wanted).zip(so_far) {
        *o = s - w;
    }
    let size = (latent.h as usize, latent.w as usize, z);
    reduce(missing, size, (scale.h as usize, scale.w as usize), rest);
    let (reduced, all) = (&*rest, scale.tokens());
    let mut at = 0;
    while at < all {
        let few = (all - at).min(HEAD_TILE);
        let mut found = [0; HEAD_TILE];
        nearest(model, part(reduced, at * z, few * z), part_mut(&mut found, 0, few), code);
        for (token, found) in part_mut(tokens, at, few).iter_mut().zip(found) {
            if *token != DRAW {
                *token = found;
            }
        }
        at += HEAD_TILE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn square(side: u16) -> Scale {
        Scale::new(side, side, 0)
    }

    fn shown(mask: &[bool], latent: u16, scale: u16) -> std::vec::Vec<std::string::String> {
        let row = |y| {
            let cell = |x| stays(mask, square(latent), square(scale), (y, x));
            (0..scale as usize).map(|x| if cell(x) { '#' } else { '.' }).collect()
        };
        (0..scale as usize).map(row).collect()
    }

    /// A box of 4x4 cells in the middle of 8x8, as `torch.nn.functional.interpolate(mode="bilinear")` reduces it.
    #[test]
    fn masks_shrink_as_the_official_ones() {
        let inside = |y: usize, x: usize| (2..6).contains(&y) && (2..6).contains(&x);
        let mask: std::vec::Vec<bool> = (0..64).map(|i| !inside(i / 8, i % 8)).collect();
        assert_eq!(shown(&mask, 8, 2), ["##", "##"]);
        assert_eq!(shown(&mask, 8, 3), ["###", "#.#", "###"]);
        assert_eq!(shown(&mask, 8, 5), ["#####", "#...#", "#...#", "#...#", "#####"]);
        assert_eq!(shown(&mask, 8, 8).concat().find("##....##"), Some(16));
    }

    #[test]
    fn half_is_not_enough() {
        // Left half of 2x2: the centre of 1x1 is one half exactly.
        let mask = [true, false, true, false];
        assert!(!stays(&mask, square(2), square(1), (0, 0)));
        assert!(stays(&[true, true, true, false], square(2), square(1), (0, 0)));
    }
}
