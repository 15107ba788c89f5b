//! What a model file may have beside one transformer and one VQVAE: a refiner, which runs late scales, and further image
//! decoders, which draw from the same latent.

use super::{DecoderConfig, Official, OfficialError, StateDict, VarConfig, decoder, var};
use crate::checkpoint::Checkpoint;

impl<'a> Official<'a> {
    /// Adds the transformer in `file` as the refiner. Its depth and width are its own, but it reads and writes the same
    /// tokens on the same scales under the same condition. `heads` as in [`super::Hints`].
    pub fn add_refiner(
        &mut self,
        file: &'a Checkpoint,
        heads: Option<usize>,
    ) -> Result<(), OfficialError> {
        let files = std::slice::from_ref(file);
        let weights = StateDict::find(files, "VAR transformer", var::ANCHOR, None)?;
        let first = &self.var_config;
        let config = VarConfig::infer(&weights, first.scales.as_deref(), heads)?;
        let tables = |c: &VarConfig| {
            let rows = c.tables.iter().map(|(key, rows)| format!("{rows} rows of {key}"));
            rows.collect::<Vec<_>>().join(", ")
        };
        for (what, expected, found) in [
            ("layout", first.layout.by_keys().to_string(), config.layout.to_string()),
            ("vocabulary size", first.vocab.to_string(), config.vocab.to_string()),
            ("token width", first.cvae.to_string(), config.cvae.to_string()),
            ("condition", tables(first), tables(&config)),
        ] {
            if expected != found {
                let (place, var) = (weights.place(), self.var.place());
                return Err(OfficialError::Refiner { place, var, what, expected, found });
            }
        }
        self.refiner = Some((weights, config));
        Ok(())
    }

    /// Adds the image decoder in `file`: `post_quant_conv` and `decoder`, whatever else is there. Its widths are its own,
    /// the latent is that of the VQVAE.
    pub fn add_decoder(&mut self, file: &'a Checkpoint) -> Result<(), OfficialError> {
        let files = std::slice::from_ref(file);
        let weights = StateDict::find(files, "image decoder", decoder::ANCHOR, None)?;
        let config = DecoderConfig::infer(&weights, self.vae_config.cvae)?;
        self.decoders.push((weights, config));
        Ok(())
    }

    /// Every transformer: the drafter, then the refiner if there is one.
    pub fn trunks(&self) -> impl Iterator<Item = (&StateDict<'a>, &VarConfig)> {
        let more = self.refiner.iter().map(|(weights, config)| (weights, config));
        std::iter::once((&self.var, &self.var_config)).chain(more)
    }

    /// Every image decoder: that of the VQVAE, then the further ones.
    pub fn decoders(&self) -> impl Iterator<Item = (&StateDict<'a>, &DecoderConfig)> {
        let more = self.decoders.iter().map(|(weights, config)| (weights, config));
        std::iter::once((&self.vae, &self.vae_config.decoder)).chain(more)
    }
}
