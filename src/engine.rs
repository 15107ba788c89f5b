//! The std owner of a run: plan, arena, CPU.

use varmint_core::{
    Error, Generator, Host, Model, Plan, Progress, Request, Rows, ScaleView, Step, Tier,
};
use varmint_cpu::Cpu;

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

/// Makes images in an arena that is allocated once.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model<'m>,
    plan: Plan,
    arena: Vec<u128>,
    cpu: Cpu,
}

impl<'m> Engine<'m> {
    /// Plans the tier and allocates its arena.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn new(model: &'m Model<'m>, tier: &Tier) -> Result<Self, Error> {
        let plan = Plan::new(&model.shape, tier)?;
        plan.verify()?;
        let arena = vec![0; plan.bytes().div_ceil(16)];
        Ok(Self { model, plan, arena, cpu: Cpu::detect() })
    }

    /// Uses another instruction set.
    pub fn set_cpu(&mut self, cpu: Cpu) {
        self.cpu = cpu;
    }

    /// The CPU in use.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The arena: between two images its content means nothing.
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
        mut on: impl FnMut(Event<'_>),
    ) -> Result<Image, Error> {
        let ram: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        let host = Host::new(self.cpu, ram, &self.plan)?;
        let mut generator = Generator::new(self.model, &self.plan, host, request)?;
        let (height, width) = generator.size();
        let last = self.model.shape.config.n_scales() - 1;
        let mut image = Image {
            width,
            height,
            rgb: Vec::with_capacity(width * height * 3),
            tokens: Vec::new(),
        };
        loop {
            let mut latent_done = false;
            match generator.step()? {
                Step::Working(progress) => on(Event::Working(progress)),
                Step::Scale(scale) => {
                    latent_done = scale.scale == last;
                    on(Event::Scale(&scale));
                }
                Step::Rows(rows) => {
                    image.rgb.extend_from_slice(rows.rgb);
                    on(Event::Rows(&rows));
                }
                Step::Done => return Ok(image),
            }
            if latent_done {
                image.tokens = generator.tokens()?.to_vec();
            }
        }
    }
}
