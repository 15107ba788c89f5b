//! Pixels to tokens, with memory of its own.

use varmint_core::{Encoder, Encoding, Error, Host, Model, Tier};
use varmint_cpu::Cpu;

/// What an encoder finds in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The tokens of all scales.
    pub tokens: Vec<u16>,
    /// What they are the nearest codes of: the latent, `[height, width, channels]`.
    pub latent: Vec<f32>,
}

/// Looks at a picture, `[height, width, 3]` as [`Encoder::size`] says. The tier says in which strips it is read, and
/// how maps are stored.
///
/// ```no_run
/// use varmint::{Encoder, Engine, ModelFile, Request, edit};
///
/// # fn show(picture: &[u8], inside: impl Fn(usize) -> bool) -> Result<(), Box<dyn std::error::Error>> {
/// let (file, other) = (ModelFile::open("fixtures/emoji-64.vmt")?, ModelFile::open("fixtures/emoji-64.vme")?);
/// let (model, encoder) = (file.model()?, Encoder::parse(other.bytes())?);
/// let tier = model.tier("full")?;
/// let mut found = varmint::encode(&model, &encoder, &tier, picture)?;
/// // What is drawn anew: some cells of the latent.
/// let config = &model.shape.config;
/// let mask: Vec<bool> = (0..config.latent().tokens()).map(|cell| !inside(cell)).collect();
/// edit::keep(config, &mask, &mut found.tokens)?;
/// let image = Engine::new(&model, &tier)?.edit(Request::new(&model), &found)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Encoder::plan`] and [`Encoding::new`].
pub fn encode(
    model: &Model<'_>,
    encoder: &Encoder<'_>,
    tier: &Tier,
    rgb: &[u8],
) -> Result<Encoded, Error> {
    let plan = encoder.plan(&model.shape, tier)?;
    plan.verify()?;
    let mut arena = vec![0u128; plan.bytes() / 16];
    let host = Host::new(Cpu::detect(), bytemuck::cast_slice_mut(&mut arena), &plan)?;
    let mut encoding = Encoding::new(model, encoder, &plan, host, rgb)?;
    let mut latent = Vec::new();
    while encoding.step()?.is_some() {
        if let Some(found) = encoding.latent()? {
            latent = found.to_vec();
        }
    }
    Ok(Encoded { tokens: encoding.tokens()?.to_vec(), latent })
}
