//! How a model is sampled where a request says nothing.

use serde::Deserialize;

/// Default sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Defaults {
    /// Strength of guidance at the last scale.
    pub guidance: Option<f32>,
    /// Keep so many tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep so much mass; 0 keeps all.
    pub top_p: Option<f32>,
    /// Divides the logits.
    pub temperature: Option<f32>,
}

impl Defaults {
    /// These, and where they are missing, those of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            guidance: self.guidance.or(other.guidance),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            temperature: self.temperature.or(other.temperature),
        }
    }
}
