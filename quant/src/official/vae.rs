//! The VQVAE: configuration and keys of what generation needs (codebook, phi convolutions, decoder).
//!
//! ```text
//! quantize.embedding [V, Cvae] → quantize.quant_resi (phi) → latent → the image decoder
//! ```
//!
//! The decoder has a module of its own, [`super::decoder`]: a file may have more than one. Encoder, `quant_conv` and the
//! usage counts `ema_vocab_hit_SV` and `codebook_used` are not needed.

use super::decoder::{DecoderConfig, Keys};
use super::{OfficialError, StateDict};

/// The key by which a VQVAE is found.
pub(super) const ANCHOR: &str = "quantize.embedding.weight";

/// Where every key is either used or named as not needed.
const MODULES: [&str; 3] = ["quantize.", "post_quant_conv.", "decoder."];

/// Which scales share which phi convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phi {
    /// There are none (`quant_resi = 0`).
    None,
    /// One for all scales: `quantize.quant_resi.qresi`.
    One,
    /// A few, each for the scales nearest to it: `quantize.quant_resi.qresi_ls.{i}`. All released models (4 of them).
    Shared,
    /// One per scale: `quantize.quant_resi.{k}`.
    PerScale,
}

/// What the shapes of a VQVAE's weights say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaeConfig {
    /// Codebook entries, V.
    pub vocab: usize,
    /// Channels of a codebook entry.
    pub cvae: usize,
    /// How the phi convolutions are shared.
    pub phi: Phi,
    /// How many there are.
    pub num_phi: usize,
    /// Its image decoder.
    pub decoder: DecoderConfig,
    /// Is the encoder stored too?
    pub has_encoder: bool,
}

impl VaeConfig {
    /// Infers the configuration, then checks every needed key against it.
    pub fn infer(dict: &StateDict<'_>) -> Result<Self, OfficialError> {
        let [vocab, cvae] = dict.dims(ANCHOR, "[V, Cvae]")?;
        let (phi, num_phi) = if dict.contains("quantize.quant_resi.qresi.weight") {
            (Phi::One, 1)
        } else {
            match (dict.count("quantize.quant_resi.qresi_ls."), dict.count("quantize.quant_resi."))
            {
                (0, 0) => (Phi::None, 0),
                (0, n) => (Phi::PerScale, n),
                (n, _) => (Phi::Shared, n),
            }
        };
        let config = Self {
            vocab,
            cvae,
            phi,
            num_phi,
            decoder: DecoderConfig::read(dict, cvae)?,
            has_encoder: dict.contains("encoder.conv_in.weight"),
        };
        let counts = ["quantize.ema_vocab_hit_SV", "quantize.codebook_used"];
        dict.check_all(&config.keys(), &MODULES, &counts)?;
        Ok(config)
    }

    /// Key of phi convolution `i`, without `.weight`.
    pub fn phi_key(&self, i: usize) -> String {
        match self.phi {
            Phi::None | Phi::One => "quantize.quant_resi.qresi".into(),
            Phi::Shared => format!("quantize.quant_resi.qresi_ls.{i}"),
            Phi::PerScale => format!("quantize.quant_resi.{i}"),
        }
    }

    /// Every key that generation needs, with its shape.
    pub fn keys(&self) -> Vec<(String, Vec<usize>)> {
        let mut keys = Keys(vec![(ANCHOR.into(), vec![self.vocab, self.cvae])]);
        for i in 0..self.num_phi {
            keys.conv(self.phi_key(i), self.cvae, self.cvae, 3);
        }
        keys.0.extend(self.decoder.keys());
        keys.0
    }
}
