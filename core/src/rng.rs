//! Philox4x32-10 (Salmon et al., SC'11): randomness as a function of where it is used.
//!
//! A draw is keyed by (seed, scale, token, entry), so the result of an image does not depend on
//! the order, the tiling or the device in which its tokens are drawn.

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Ten rounds of Philox4x32: 128 random bits for a counter and a key.
pub const fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    let mut round = 0;
    while round < 10 {
        let p0 = M0 * c0 as u64;
        let p1 = M1 * c2 as u64;
        let (n0, n1) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32);
        let (n2, n3) = ((p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        (c0, c1, c2, c3) = (n0, n1, n2, n3);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// The random numbers of one token.
#[derive(Clone, Copy, Debug)]
pub struct TokenRng {
    key: [u32; 2],
    scale: u32,
    token: u32,
}

impl TokenRng {
    /// For token `token` (row-major in its scale) of scale `scale`.
    pub const fn new(seed: u64, scale: usize, token: usize) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], scale: scale as u32, token: token as u32 }
    }

    /// A uniform number in (0, 1) for vocabulary entry `entry`: the upper 23 bits, plus a half.
    pub fn uniform(&self, entry: usize) -> f32 {
        let block = philox([(entry / 4) as u32, self.token, self.scale, 0], self.key);
        let word = block.get(entry % 4).copied().unwrap_or(0);
        ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
    }

    /// A standard Gumbel number, -ln(-ln u): the entry with the largest logit + Gumbel is a draw
    /// from the softmax of the logits.
    pub fn gumbel(&self, entry: usize) -> f32 {
        -libm::logf(-libm::logf(self.uniform(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of Random123 (`kat_vectors`, philox4x32-10).
    #[test]
    fn published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_stays_inside() {
        let r = TokenRng::new(7, 2, 3);
        for e in 0..4096 {
            let u = r.uniform(e);
            assert!(u > 0.0 && u < 1.0 && r.gumbel(e).is_finite());
        }
    }
}
