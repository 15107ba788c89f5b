//! The std owner of a run: plan, arena, CPU.

use std::cell::OnceCell;

use varmint_core::{
    Backend, Budget, Buf, Error, Generator, Host, Model, Ops, Plan, Progress, Request, Rows,
    ScaleView, Step, Tier, edit,
};
use varmint_cpu::Cpu;

use crate::encode::Encoded;
use crate::image::Image;

/// What happens while an image is made.
#[derive(Debug)]
pub enum Event<'e> {
    /// A piece of work is done.
    Working(Progress),
    /// A scale is done; its preview can be drawn.
    Scale(&'e ScaleView<'e>),
    /// Rows of pixels are done.
    Rows(&'e Rows<'e>),
}

/// Makes images in an arena that is allocated once and never grows. Between two images the tier may
/// change, to any that fits: nothing is allocated or moved for that.
///
/// ```no_run
/// # use varmint::{Budget, Engine, Model, Request};
/// # fn show(model: &Model<'_>) -> Result<(), varmint::Error> {
/// let mut engine = Engine::with_arena(model, 1 << 20)?; // the best tier that fits 1 MiB
/// let image = engine.generate(Request::new(model))?;
/// engine.set_tier(&model.best_tier(Budget::ram(300 << 10))?)?; // memory is short now
/// let smaller = engine.generate(Request::new(model))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model<'m>,
    plan: Plan,
    arena: Vec<u128>,
    cpu: Cpu,
    /// What works in its place, where there is one; the arena is then empty.
    #[cfg(feature = "cuda")]
    gpu: Option<Box<varmint_cuda::Cuda<'m>>>,
}

impl<'m> Engine<'m> {
    /// An arena of exactly the bytes of this tier. Tiers that need no more can replace it later.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn new(model: &'m Model<'m>, tier: &Tier) -> Result<Self, Error> {
        Self::batch(model, tier, 1)
    }

    /// An arena for `images` images at once: see [`Engine::generate_batch`].
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Plan::batch`].
    pub fn batch(model: &'m Model<'m>, tier: &Tier, images: usize) -> Result<Self, Error> {
        let plan = Plan::new(&model.shape, tier)?.batch(images)?;
        Self::allocate(model, plan, plan.bytes())
    }

    /// An arena of at most so many bytes, and the best tier that fits in it.
    ///
    /// # Errors
    /// As [`Model::best_tier`].
    pub fn with_arena(model: &'m Model<'m>, bytes: usize) -> Result<Self, Error> {
        let tier = model.best_tier(Budget::ram(bytes))?;
        Self::allocate(model, Plan::new(&model.shape, &tier)?, bytes)
    }

    fn allocate(model: &'m Model<'m>, plan: Plan, bytes: usize) -> Result<Self, Error> {
        plan.verify()?;
        // A plan's bytes are a multiple of 16: what is cut off here, no plan can use.
        Ok(Self {
            model,
            plan,
            arena: vec![0; bytes / 16],
            cpu: Cpu::detect(),
            #[cfg(feature = "cuda")]
            gpu: None,
        })
    }

    /// On the first NVIDIA GPU, which takes all memory that the tier needs at once. The same pictures.
    ///
    /// # Errors
    /// Why there is no GPU to use; [`varmint_cuda::Error::Unsupported`] for tiers that only a CPU runs.
    #[cfg(feature = "cuda")]
    pub fn on_gpu(model: &'m Model<'m>, tier: &Tier) -> Result<Self, varmint_cuda::Error> {
        Self::batch_on_gpu(model, tier, 1)
    }

    /// On the first NVIDIA GPU, with memory for `images` images at once.
    ///
    /// # Errors
    /// As [`Engine::on_gpu`] and [`Plan::batch`].
    #[cfg(feature = "cuda")]
    pub fn batch_on_gpu(
        model: &'m Model<'m>,
        tier: &Tier,
        images: usize,
    ) -> Result<Self, varmint_cuda::Error> {
        let plan = Plan::new(&model.shape, &varmint_cuda::tier(model, tier))?.batch(images)?;
        plan.verify()?;
        let gpu = Some(Box::new(varmint_cuda::Cuda::new(model, &plan)?));
        Ok(Self { model, plan, arena: Vec::new(), cpu: Cpu::detect(), gpu })
    }

    /// The GPU's backend, where there is one: its facts and what memory it holds.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<&varmint_cuda::Cuda<'m>> {
        self.gpu.as_deref()
    }

    /// Makes the next images in another tier, in the same arena.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::ArenaTooSmall`] with need and got. The tier then stays as it was.
    pub fn set_tier(&mut self, tier: &Tier) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &mut self.gpu {
            let plan = Plan::new(&self.model.shape, &varmint_cuda::tier(self.model, tier))?;
            let plan = plan.batch(self.plan.images())?;
            plan.verify()?;
            gpu.prepare(self.model, &plan)?;
            self.plan = plan;
            return Ok(());
        }
        let plan = Plan::new(&self.model.shape, tier)?.batch(self.plan.images())?;
        plan.verify()?;
        Budget::ram(self.arena.len() * 16).check(&plan)?;
        self.plan = plan;
        Ok(())
    }

    /// Uses another instruction set; nothing changes on a GPU.
    pub fn set_cpu(&mut self, cpu: Cpu) {
        self.cpu = cpu;
    }

    /// The name of what does the work: an instruction set, or "cuda".
    pub fn backend(&self) -> &str {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.name();
        }
        Ops::name(&self.cpu)
    }

    /// Height and width of an image.
    pub fn size(&self) -> (usize, usize) {
        varmint_core::device::map_size(&self.model.shape, &self.plan.tier, 0)
    }

    /// The plan of the current tier.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The arena: between two images its content means nothing. Empty where it is a GPU's.
    pub fn arena(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.arena)
    }

    /// Makes an image.
    ///
    /// # Errors
    /// As [`Generator::new`] and [`Generator::step`].
    pub fn generate(&mut self, request: Request<'_>) -> Result<Image, Error> {
        self.generate_with(request, |_| {})
    }

    /// Makes an image and tells what happens.
    ///
    /// # Errors
    /// As [`Generator::new`] and [`Generator::step`].
    pub fn generate_with(
        &mut self,
        request: Request<'_>,
        on: impl FnMut(Event<'_>),
    ) -> Result<Image, Error> {
        self.generate_lowering(request, |_, _| None, on)
    }

    /// Makes an image that may go on in a lower tier: at the start of every scale but the first `lower` is asked,
    /// with the plan in use and the scale, and may answer with a plan made by [`Plan::lowered`]. The next image
    /// begins in the engine's tier again.
    ///
    /// ```no_run
    /// # use varmint::{Engine, Model, Request};
    /// # fn show(model: &Model<'_>, engine: &mut Engine<'_>, hot: impl Fn() -> bool) -> Result<(), varmint::Error> {
    /// let cheaper = |plan: &varmint::Plan, scale| {
    ///     let mut lower = model.tiers().filter_map(|t| plan.lowered(&model.shape, &t, scale).ok());
    ///     lower.find(|p| hot() && p.total_macs() < plan.total_macs())
    /// };
    /// let image = engine.generate_lowering(Request::new(model), cheaper, |_| {})?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Generator::new`] and [`Generator::step`]; [`Error::NotLower`] for a plan made for another scale.
    pub fn generate_lowering(
        &mut self,
        request: Request<'_>,
        lower: impl FnMut(&Plan, usize) -> Option<Plan>,
        on: impl FnMut(Event<'_>),
    ) -> Result<Image, Error> {
        self.run_one(request, lower, None, on)
    }

    /// Makes as many images at once as there are requests, at most as many as the engine was made for. Each is the one
    /// that its request alone gives; what is gained is time on a GPU, where reading the weights takes most of it.
    ///
    /// # Errors
    /// As [`Generator::batch`] and [`Generator::step`].
    pub fn generate_batch(
        &mut self,
        requests: &[Request<'_>],
        on: impl FnMut(Event<'_>),
    ) -> Result<Vec<Image>, Error> {
        self.run(requests, |_, _| None, None, on)
    }

    /// Draws a part of a picture anew: the tokens of `kept` that are [`edit::DRAW`]. What stays is looked for again at every
    /// scale, so that it comes as near to the picture as it can beside what is drawn.
    ///
    /// # Errors
    /// As [`Generator::new`], [`Generator::step`] and [`edit::follow`].
    pub fn edit(&mut self, request: Request<'_>, kept: &Encoded) -> Result<Image, Error> {
        let request = Request { tokens: Some(&kept.tokens), ..request };
        self.run_one(request, |_, _| None, Some(kept), |_| {})
    }

    fn run_one(
        &mut self,
        request: Request<'_>,
        lower: impl FnMut(&Plan, usize) -> Option<Plan>,
        kept: Option<&Encoded>,
        on: impl FnMut(Event<'_>),
    ) -> Result<Image, Error> {
        Ok(self.run(&[request], lower, kept, on)?.swap_remove(0))
    }

    fn run(
        &mut self,
        requests: &[Request<'_>],
        mut lower: impl FnMut(&Plan, usize) -> Option<Plan>,
        kept: Option<&Encoded>,
        mut on: impl FnMut(Event<'_>),
    ) -> Result<Vec<Image>, Error> {
        let (scales, size) = (self.model.shape.config.n_scales(), self.size());
        // Plans of scales at which it went down, and tokens that were found on the way: the generator borrows them.
        let lowered = vec![OnceCell::new(); scales];
        let given = vec![OnceCell::new(); scales];
        let mut tokens = kept.map_or(Vec::new(), |kept| kept.tokens.clone());
        let (mut host, backend): (_, &mut dyn Backend);
        #[cfg(feature = "cuda")]
        let gpu: Option<&mut dyn Backend> = self.gpu.as_mut().map(|gpu| gpu.as_mut() as _);
        #[cfg(not(feature = "cuda"))]
        let gpu: Option<&mut dyn Backend> = None;
        match gpu {
            Some(gpu) => backend = gpu,
            None => {
                let ram = bytemuck::cast_slice_mut(&mut self.arena);
                host = Host::new(self.cpu, ram, &self.plan)?;
                backend = &mut host;
            }
        }
        let mut generator = Generator::batch(self.model, &self.plan, backend, requests)?;
        let (height, width) = size;
        let empty = Image { width, height, rgb: Vec::new(), tokens: Vec::new() };
        let mut images = vec![empty; requests.len()];
        loop {
            if let Some(scale) = generator.boundary()
                && let Some(plan) = lower(generator.plan(), scale)
            {
                generator.lower(lowered[scale].get_or_init(|| plan))?;
            }
            let mut done = None;
            match generator.step()? {
                Step::Working(progress) => on(Event::Working(progress)),
                Step::Scale(scale) => {
                    done = Some((scale.image, scale.scale));
                    on(Event::Scale(&scale));
                }
                Step::Rows(rows) => {
                    images[rows.image].rgb.extend_from_slice(rows.rgb);
                    on(Event::Rows(&rows));
                }
                Step::Done => break,
            }
            match (done, kept) {
                (Some((image, k)), _) if k + 1 == scales => {
                    images[image].tokens = generator.tokens_of(image)?.to_vec();
                }
                (Some((_, k)), Some(kept)) => {
                    follow(self.model, k + 1, &mut generator, &kept.latent, &mut tokens)?;
                    generator.set_tokens(Some(given[k + 1].get_or_init(|| tokens.clone())))?;
                }
                _ => {}
            }
        }
        Ok(images)
    }
}

/// Looks again for the tokens of scale `k` that stay.
fn follow<B: Backend>(
    model: &Model<'_>,
    k: usize,
    generator: &mut Generator<'_, B>,
    wanted: &[f32],
    tokens: &mut [u16],
) -> Result<(), Error> {
    let c = &model.shape.config;
    let bytes = generator.view(Buf::FHat)?;
    let so_far = bytemuck::try_cast_slice::<_, f32>(bytes).unwrap_or(&[]);
    let so_far = so_far.get(..wanted.len()).unwrap_or(&[]);
    let first = c.tokens_before(k);
    let of_scale = tokens.get_mut(first..first + c.scale(k).tokens()).unwrap_or(&mut []);
    edit::follow(model, k, (wanted, so_far), of_scale, &mut vec![0.0; edit::follow_room(c)])
}
