//! varmint on NVIDIA GPUs, Jetson first: the plan's arena is one allocation on the device, the model file is read
//! where it lies, and every stage of a run is a few kernels that give the bits of the scalar reference.
//!
//! ```text
//! params     the kernels' parameters, as in kernels/*.cu
//! device     the driver: memory, kernels, launches, graphs (all that is unsafe)
//! queue      launches of a stage: products, quantized rows
//! block, latent, decode   the stages
//! ```
//!
//! Stages only queue launches. What they queued is sent at the end of every scale as one CUDA graph, which is made at
//! the first image and replayed for every later one. Nothing waits for the device but [`Backend::view`]:
//! rows of pixels, tokens, and previews unless the generator is told not to make them.

mod block;
mod decode;
mod device;
mod error;
mod latent;
#[doc(hidden)]
pub mod measure;
mod params;
mod queue;

pub use device::Facts;
pub use error::Error;

use std::sync::Arc;

use device::{Device, Launch, Memory};
use params::Ptr;
use varmint_core::tensor::Layer;
use varmint_core::{Backend, Buf, Job, Model, Pass, Plan, Stage, Store, Tier};

/// The tier as it runs on a GPU: whole scales at once, both rows together, strips of many rows. The same bits.
pub fn tier(model: &Model<'_>, tier: &Tier) -> Tier {
    let tile = model.shape.config.max_tokens();
    let mut tier = *tier;
    (tier.tile, tier.strip, tier.together, tier.conv_scratch) = (tile, 256, true, 0);
    tier
}

/// Whether there is a GPU that this build can use, and which.
///
/// # Errors
/// Why there is none.
pub fn probe() -> Result<Facts, Error> {
    Device::open().map(|d| d.facts.clone())
}

/// What of the device's memory a backend holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The plan's arena: of all images of a batch.
    pub arena: usize,
    /// The model file.
    pub weights: usize,
    /// Whether the weights are the host's own bytes, mapped (Jetson): they then count once.
    pub weights_shared: bool,
    /// Beside the plan: requests, the logits of a whole scale, sums of products that several blocks share.
    pub extra: usize,
    /// What was not free before the first byte of these: the driver's context and kernels, and whatever other programs
    /// hold. Graphs come on top, made at the first image of a tier.
    pub driver: usize,
}

/// The backend.
#[derive(Debug)]
pub struct Cuda<'a> {
    file: &'a [u8],
    queue: Vec<Launch>,
    /// What [`Buf::Rows`] holds of the condition.
    held: Option<i32>,
    /// Bytes of the last view.
    seen: Vec<u8>,
    weights: Arc<Memory>,
    /// What every image has for itself, one image behind the other: its arena, then what is beside the plan.
    memory: Memory,
    /// What all images share.
    shared: Memory,
    places: Places,
    /// Images that are being made, and their requests as they are on the device.
    images: usize,
    sent: Vec<params::Request>,
    driver: usize,
    device: Device,
}

/// Where the first image has what is not in its arena.
#[derive(Clone, Copy, Debug)]
struct Places {
    request: Ptr,
    forced: Ptr,
    logits: Ptr,
    /// Rows of a strip, for decoders in float.
    floats: Ptr,
    /// Sums of tiles that several blocks share, and how many of these are done: zeros between launches. Of all images.
    partial: Ptr,
    arrived: Ptr,
    /// From an image to the next.
    image: u64,
    /// Bytes of all arenas.
    arena: usize,
}

impl<'a> Cuda<'a> {
    /// Opens the first GPU and takes all memory that images by this plan will need.
    ///
    /// # Errors
    /// No GPU or driver; [`Error::Memory`] with need and got; [`Error::Unsupported`] for a plan that is not of
    /// [`tier()`], and for shapes that the kernels do not take.
    pub fn new(model: &Model<'a>, plan: &Plan) -> Result<Self, Error> {
        Self::with(model, plan, None)
    }

    /// Another one for the same model, which it reads where this one does: to make several images at once, each from
    /// a thread of its own.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn beside(&self, model: &Model<'a>, plan: &Plan) -> Result<Self, Error> {
        if !std::ptr::eq(model.bytes(), self.file) {
            return Err(varmint_core::Error::PlanMismatch.into());
        }
        Self::with(model, plan, Some(self.weights.clone()))
    }

    fn with(model: &Model<'a>, plan: &Plan, weights: Option<Arc<Memory>>) -> Result<Self, Error> {
        let device = Device::open()?;
        check(model, plan, &device.facts)?;
        let before = device.free()?;
        let total = device.facts.memory;
        let memory = device.take(needs(model, plan)?)?;
        let shared = device.take(queue::PARTIAL + queue::ARRIVED)?;
        let places = places(model, plan, memory.at, shared.at);
        device.write(shared.at, &vec![0; shared.bytes])?;
        let weights = match weights {
            Some(shared) => shared,
            None => Arc::new(device.map(model.bytes())?),
        };
        let driver = total - before;
        Ok(Self {
            file: model.bytes(),
            queue: Vec::new(),
            held: None,
            seen: Vec::new(),
            weights,
            memory,
            shared,
            places,
            images: 1,
            sent: Vec::new(),
            driver,
            device,
        })
    }

    /// Checks that images by another plan of the same model can be made in the memory that is there.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn prepare(&mut self, model: &Model<'a>, plan: &Plan) -> Result<(), Error> {
        check(model, plan, &self.device.facts)?;
        let (need, got) = (needs(model, plan)?, self.memory.bytes);
        if need > got {
            return Err(Error::Memory { need, got });
        }
        self.send(false)?;
        self.places = places(model, plan, self.memory.at, self.shared.at);
        self.device.wait()
    }

    /// Facts of the device.
    pub fn facts(&self) -> &Facts {
        &self.device.facts
    }

    /// What it holds of the device's memory.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            arena: self.places.arena,
            weights: self.weights.bytes,
            weights_shared: self.weights.shared(),
            extra: self.memory.bytes - self.places.arena + self.shared.bytes,
            driver: self.driver,
        }
    }

    /// Graphs made, graphs launched, kernels launched outside of graphs.
    pub fn launches(&self) -> (usize, u64, u64) {
        (self.device.graphs(), self.device.launched.0, self.device.launched.1)
    }

    /// Whether work is sent as graphs (the default) or kernel by kernel, for measurements and debuggers.
    pub fn set_graphs(&mut self, on: bool) {
        self.device.capture = on;
    }

    /// Waits until the device has done all that was sent.
    ///
    /// # Errors
    /// The driver's.
    pub fn wait(&self) -> Result<(), Error> {
        self.device.wait()
    }

    /// Writes a buffer of image `image` of the plan, for tests.
    ///
    /// # Errors
    /// The driver's; [`varmint_core::Error::PlanMismatch`] for more bytes than the buffer has, or an image that is not there.
    pub fn write(
        &mut self,
        plan: &Plan,
        image: usize,
        buf: Buf,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.send(false)?;
        let b = plan.buffer(buf);
        if bytes.len() > b.size as usize || image >= plan.images() {
            return Err(varmint_core::Error::PlanMismatch.into());
        }
        let at = self.memory.at + image as u64 * self.places.image + u64::from(b.offset);
        self.device.write(at, bytes)?;
        self.device.wait()
    }

    /// Sends what was queued.
    fn send(&mut self, graph: bool) -> Result<(), Error> {
        self.held = None;
        let queue = std::mem::take(&mut self.queue);
        let done = self.device.submit(&queue, graph);
        self.queue = queue;
        self.queue.clear();
        done
    }

    fn stage(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
        match stage {
            Stage::Setup { trunk } => self.setup(job, trunk)?,
            Stage::Ada { trunk, row, block } => self.ada(job, trunk, row, block)?,
            Stage::HeadAda { trunk, row } => self.head_ada(job, trunk, row)?,
            Stage::Begin { trunk, scale } => self.begin(job, trunk, scale)?,
            Stage::Keys(t) => self.keys(job, t)?,
            Stage::Mix(t) => self.mix(job, t)?,
            Stage::Keep(t) => self.keep(job, t),
            Stage::Head { scale, at } => self.head(job, scale, at)?,
            Stage::Draw { scale, at } => self.draw(job, scale, at)?,
            Stage::Fold { scale } => self.fold(job, scale)?,
            Stage::Decode { layer, pass, y } => self.decode(job, layer, pass, y)?,
            Stage::Done => return Ok(()),
        }
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let ends = matches!(
            stage.next(shape, tier),
            Stage::Setup { .. }
                | Stage::Begin { .. }
                | Stage::Decode { layer: 0, pass: Pass::Scan, .. }
                | Stage::Done
        );
        let rows = match stage {
            Stage::Decode { layer, pass: Pass::First, .. } => {
                let d = shape.decoder(tier.decoder);
                matches!(d.layer(shape.config.cvae as usize, layer).0, Layer::Out { .. })
            }
            _ => false,
        };
        if ends || rows {
            self.send(true)?;
        }
        Ok(())
    }
}

impl Backend for Cuda<'_> {
    fn name(&self) -> &str {
        "cuda"
    }

    fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), varmint_core::Error> {
        self.images = 1 + job.more.len();
        let done = self.stage(job, stage);
        if done.is_err() {
            self.queue.clear();
        }
        Ok(done?)
    }

    fn view(&mut self, plan: &Plan, image: usize, buf: Buf) -> Result<&[u8], varmint_core::Error> {
        if image >= plan.images() {
            return Err(varmint_core::Error::PlanMismatch);
        }
        self.send(false)?;
        let b = plan.buffer(buf);
        self.seen.resize(b.size as usize, 0);
        let at = self.memory.at + image as u64 * self.places.image + u64::from(b.offset);
        self.device.read(at, &mut self.seen)?;
        Ok(&self.seen)
    }
}

/// Bytes that a plan's images need for themselves.
fn needs(model: &Model<'_>, plan: &Plan) -> Result<usize, Error> {
    let image = places(model, plan, 0, 0).image;
    let all = usize::try_from(image).ok().and_then(|image| image.checked_mul(plan.images()));
    all.ok_or(varmint_core::Error::PlanTooLarge.into())
}

/// What lies where, in memory that begins at `at` and in what is shared.
fn places(model: &Model<'_>, plan: &Plan, at: Ptr, shared: Ptr) -> Places {
    let c = &model.shape.config;
    let up = |n: usize| n.div_ceil(256) as u64 * 256;
    let request = at + up(plan.image_bytes());
    let forced = request + up(size_of::<params::Request>());
    let logits = forced + up(2 * c.tokens());
    let rows = |k| plan.tier.rows(k) * c.scale(k).tokens();
    let most = (0..c.n_scales()).map(rows).max().unwrap_or(0);
    let floats = logits + up(4 * most * c.vocab as usize);
    let d = model.shape.decoder(plan.tier.decoder);
    let strip = (0..d.n_layers()).filter(|&at| decode::has_floats(model, plan, at)).map(|at| {
        let (layer, level, _) = model.layer(plan.tier.decoder, at);
        let (h, w) = varmint_core::device::out_size(&model.shape, &plan.tier, layer, level);
        4 * plan.tier.strip.min(h) * w * decode::most_channels(layer)
    });
    let image = floats + up(strip.max().unwrap_or(0)) - at;
    let (partial, arrived) = (shared, shared + queue::PARTIAL as u64);
    Places { request, forced, logits, floats, partial, arrived, image, arena: plan.bytes() }
}

/// Whether the kernels can run the plan.
fn check(model: &Model<'_>, plan: &Plan, facts: &Facts) -> Result<(), Error> {
    let (shape, t) = (&model.shape, &plan.tier);
    let c = &shape.config;
    if !t.together || t.tile < c.max_tokens() {
        return Err(Error::Unsupported("a plan that is not made with varmint_cuda::tier"));
    }
    if c.replaces() || (0..c.n_scales()).any(|k| c.scale(k).greedy()) {
        return Err(Error::Unsupported("scales that replace the latent or are greedy (FlexVAR)"));
    }
    if shape.decoder(t.decoder).inner != 0 {
        return Err(Error::Unsupported("a post_quant_conv that changes the number of channels"));
    }
    if queue::shared_memory() > facts.shared_memory {
        return Err(Error::Unsupported("less than 90 KB of shared memory a block (Turing)"));
    }
    if 12 * (c.vocab as usize).next_power_of_two() > facts.shared_memory - 4096 {
        return Err(Error::Unsupported("a vocabulary this large"));
    }
    for set in (0..c.n_scales()).map(|k| t.trunk(k)) {
        let trunk = shape.trunk(set);
        let (w, hidden, dim) = (trunk.width as usize, trunk.hidden as usize, trunk.head_dim());
        if !w.is_multiple_of(4) || !hidden.is_multiple_of(4) || !dim.is_multiple_of(4) || dim < 8 {
            return Err(Error::Unsupported("widths that are no multiples of 4"));
        }
        if hidden < 3 * w {
            return Err(Error::Unsupported("a hidden layer below three times the width"));
        }
        if 4 * (c.tokens() + dim) > facts.shared_memory - 1024 || 128 * dim > facts.shared_memory {
            return Err(Error::Unsupported("so many tokens: a row of scores does not fit"));
        }
        if 4 * hidden > facts.shared_memory - 1024 {
            return Err(Error::Unsupported("a hidden layer this wide"));
        }
    }
    let d = shape.decoder(t.decoder);
    for at in 0..d.n_layers() {
        let (layer, level, _) = model.layer(t.decoder, at);
        let (h, w) = varmint_core::device::map_size(shape, t, level);
        let room = plan.buffer(Buf::OutRows).size as usize;
        let channels = decode::most_channels(layer);
        // The latent's statistics are taken at once.
        let rows = if at == 0 { h } else { t.strip.min(h) };
        if 4 * 3 * rows * channels > room || 4 * h * channels > room {
            return Err(Error::Unsupported("an image this narrow"));
        }
        if let Layer::Attention { c } = layer
            && (8 * (h * w + c) > facts.shared_memory - 1024 || c % 4 != 0)
        {
            return Err(Error::Unsupported("attention over so many positions"));
        }
    }
    Ok(())
}

fn store(s: Store) -> i32 {
    s as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use varmint::ModelFile;

    fn h200() -> Facts {
        Facts {
            name: String::new(),
            capability: (9, 0),
            multiprocessors: 132,
            shared_memory: 227 << 10,
            memory: 0,
            integrated: false,
            driver: (13, 0),
        }
    }

    #[test]
    fn relatives_are_refused_with_a_reason() {
        let file = ModelFile::open("../../fixtures/small/replaced.vmt").unwrap();
        let model = file.model().unwrap();
        let plan = Plan::new(&model.shape, &tier(&model, &model.tier_at(0).unwrap())).unwrap();
        match check(&model, &plan, &h200()) {
            Err(Error::Unsupported(why)) => assert!(why.contains("FlexVAR"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    /// Models run in every tier; plans of the CPU say why not.
    #[test]
    fn what_runs_is_known_without_a_gpu() {
        for name in ["tiny", "emoji-micro", "emoji-64"] {
            let file = ModelFile::open(format!("../../fixtures/{name}.vmt")).unwrap();
            let model = file.model().unwrap();
            for t in model.tiers() {
                let plan = Plan::new(&model.shape, &tier(&model, &t)).unwrap();
                let runs = check(&model, &plan, &h200());
                assert!(runs.is_ok(), "{name} {}: {runs:?}", t.name());
                // The tier of the CPU is another plan.
                let plan = Plan::new(&model.shape, &t).unwrap();
                assert!(check(&model, &plan, &h200()).is_err());
            }
        }
    }
}
