//! The generator: one image, or a batch of them, one bounded step at a time.
//!
//! A plain state machine. Progress, preview, cancel and a fed watchdog all fall out of [`Generator::step`]:
//! stop calling it and the image waits; drop the generator and it is cancelled.

use crate::error::Error;
use crate::host::{Backend, Job};
use crate::model::Model;
use crate::plan::{Buf, Plan};
use crate::request::Request;
use crate::slices::{part, pieces};
use crate::stage::{Pass, Stage};
use crate::tensor::Layer;

/// Work done so far, in multiply-accumulates: close to linear in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// In the whole image, or in all of a batch.
    pub total: u64,
}

/// What a step brought.
#[derive(Debug)]
pub enum Step<'g> {
    /// Nothing to show yet.
    Working(Progress),
    /// A scale is finished.
    Scale(ScaleView<'g>),
    /// Finished pixel rows.
    Rows(Rows<'g>),
    /// The image is complete.
    Done,
}

/// The latent after a scale.
#[derive(Debug)]
pub struct ScaleView<'g> {
    /// Which image of a batch: 0 without one.
    pub image: usize,
    /// The scale.
    pub scale: usize,
    /// Height and width of the preview.
    pub size: (usize, usize),
    /// Work done.
    pub progress: Progress,
    latent: &'g [f32],
    weight: &'g [f32],
    bias: &'g [f32],
}

impl ScaleView<'_> {
    /// A small picture of the latent so far, pixel by pixel: the model's linear map from its channels
    /// to RGB. Costs nothing unless it is asked for; empty after [`Generator::set_previews`]`(false)`.
    pub fn preview(&self) -> impl Iterator<Item = [u8; 3]> + '_ {
        let z = self.weight.len() / 3;
        pieces(self.latent, z).map(move |f| {
            let mut i = 0;
            [(); 3].map(|()| {
                let dot =
                    part(self.weight, i * z, z).iter().zip(f).fold(0.0, |a, (w, v)| a + w * v);
                let v = dot + self.bias.get(i).copied().unwrap_or(0.0);
                i += 1;
                (v * 255.0) as u8
            })
        })
    }
}

/// Finished rows of the image.
#[derive(Debug)]
pub struct Rows<'g> {
    /// Which image of a batch: 0 without one.
    pub image: usize,
    /// First row.
    pub y: usize,
    /// Pixels per row.
    pub width: usize,
    /// `[rows, width, 3]`, RGB.
    pub rgb: &'g [u8],
    /// Work done.
    pub progress: Progress,
}

/// Makes one image after another in the same memory.
#[derive(Debug)]
pub struct Generator<'a, B> {
    model: &'a Model<'a>,
    /// The plan that an image begins with.
    first: &'a Plan,
    /// The plan of the next step: another one after [`Generator::lower`].
    plan: &'a Plan,
    /// Bytes that the backend is known to have.
    room: usize,
    backend: B,
    request: Request<'a>,
    /// The other requests of a batch.
    more: &'a [Request<'a>],
    stage: Stage,
    /// Whether the stage has run and only its result was not seen yet.
    ran: bool,
    /// Images whose result was seen.
    seen: usize,
    /// Whether the latent is looked at after a scale.
    previews: bool,
    done: u64,
}

impl<'a, B: Backend> Generator<'a, B> {
    /// Ready to make the requested image.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`], [`Error::BadSampling`], [`Error::BadTokens`]; [`Error::NotLower`] for a plan that
    /// only goes on with an image.
    pub fn new(
        model: &'a Model<'a>,
        plan: &'a Plan,
        backend: B,
        request: Request<'a>,
    ) -> Result<Self, Error> {
        request.check(model)?;
        if !plan.begins() {
            return Err(Error::NotLower);
        }
        let room = plan.bytes();
        let (first, stage, ran, seen, previews) = (plan, Stage::START, false, 0, true);
        let more = &[];
        Ok(Self {
            model,
            first,
            plan,
            room,
            backend,
            request,
            more,
            stage,
            ran,
            seen,
            previews,
            done: 0,
        })
    }

    /// Ready to make as many images at once as there are requests: at most [`Plan::images`]. Every image is the one that its
    /// request alone would give. Scales and rows come image by image.
    ///
    /// # Errors
    /// As [`Generator::new`]; [`Error::BadBatch`] for no requests, or more than the plan has room for.
    pub fn batch(
        model: &'a Model<'a>,
        plan: &'a Plan,
        backend: B,
        requests: &'a [Request<'a>],
    ) -> Result<Self, Error> {
        let Some(&first) = requests.first() else {
            return Err(Error::BadBatch { need: plan.images(), got: 0 });
        };
        let mut this = Self::new(model, plan, backend, first)?;
        this.reset_batch(requests)?;
        Ok(this)
    }

    /// Whether [`ScaleView::preview`] has anything to show (the default). A device with a memory of its own has to be
    /// waited for to look at the latent: without previews it goes on.
    pub fn set_previews(&mut self, on: bool) {
        self.previews = on;
    }

    /// Starts over, with another request. Legal at any time; nothing of the last image remains.
    ///
    /// # Errors
    /// As [`Generator::new`]; the old request then stays.
    pub fn reset(&mut self, request: Request<'a>) -> Result<(), Error> {
        self.reset_to(self.first, request)
    }

    /// Starts over in another tier, with any plan that fits where the first one did. Costs nothing.
    ///
    /// # Errors
    /// As [`Generator::new`]; [`Error::ArenaTooSmall`] for a larger plan. The old request and plan then stay.
    pub fn reset_to(&mut self, plan: &'a Plan, request: Request<'a>) -> Result<(), Error> {
        request.check(self.model)?;
        if !plan.begins() {
            return Err(Error::NotLower);
        }
        if plan.bytes() > self.room {
            return Err(Error::ArenaTooSmall { need: plan.bytes(), got: self.room });
        }
        (self.first, self.plan, self.request, self.more) = (plan, plan, request, &[]);
        (self.stage, self.ran, self.seen, self.done) = (Stage::START, false, 0, 0);
        Ok(())
    }

    /// Starts over with a batch, in the same plan.
    ///
    /// # Errors
    /// As [`Generator::batch`]; the old requests then stay.
    pub fn reset_batch(&mut self, requests: &'a [Request<'a>]) -> Result<(), Error> {
        let (need, got) = (self.first.images(), requests.len());
        match requests.split_first() {
            Some((&request, more)) if got <= need => {
                more.iter().try_for_each(|r| r.check(self.model))?;
                self.reset(request)?;
                self.more = more;
                Ok(())
            }
            _ => Err(Error::BadBatch { need, got }),
        }
    }

    /// The scale that begins with the next step, if one does and the image can go on in a lower tier there.
    pub fn boundary(&self) -> Option<usize> {
        match self.stage {
            Stage::Begin { trunk, scale } if scale > 0 && self.plan.tier.trunk(scale) == trunk => {
                Some(scale)
            }
            _ => None,
        }
    }

    /// Goes on with the image in a lower tier, in the same arena: at once, nothing is copied. `plan` comes from
    /// [`Plan::lowered`] of the plan in use, at the scale that [`Generator::boundary`] says. The next image begins
    /// as this one did.
    ///
    /// # Errors
    /// [`Error::NotLower`] at any other time and for any other plan; the image then goes on as it was.
    pub fn lower(&mut self, plan: &'a Plan) -> Result<(), Error> {
        match self.boundary() {
            Some(scale) if plan.follows(self.plan, scale) => {
                self.plan = plan;
                Ok(())
            }
            _ => Err(Error::NotLower),
        }
    }

    /// Other given tokens, from the next draw on ([`Request::tokens`]), of the first image. Scales that are done do not
    /// change.
    ///
    /// # Errors
    /// [`Error::BadTokens`]; the old ones then stay.
    pub fn set_tokens(&mut self, tokens: Option<&'a [u16]>) -> Result<(), Error> {
        let request = Request { tokens, ..self.request };
        request.check(self.model)?;
        self.request = request;
        Ok(())
    }

    /// The stage that the next step does.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The backend's name.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// Height and width of the image.
    pub fn size(&self) -> (usize, usize) {
        let latent = self.model.shape.config.latent();
        let f = self.model.shape.decoder(self.plan.tier.decoder).factor();
        (latent.h as usize * f, latent.w as usize * f)
    }

    /// All tokens; those of scales not yet run are 0.
    ///
    /// # Errors
    /// The backend's. Tokens are kept until the decoder begins.
    pub fn tokens(&mut self) -> Result<&[u16], Error> {
        self.tokens_of(0)
    }

    /// The tokens of image `image` of a batch.
    ///
    /// # Errors
    /// As [`Generator::tokens`]; [`Error::PlanMismatch`] for an image that the plan has not.
    pub fn tokens_of(&mut self, image: usize) -> Result<&[u16], Error> {
        let n = self.model.shape.config.tokens();
        let all = self.backend.view(self.plan, image, Buf::Tokens)?;
        Ok(part(bytemuck::try_cast_slice(all).unwrap_or(&[]), 0, n))
    }

    /// A buffer of the plan between two steps, for tests and tools: of the first image.
    ///
    /// # Errors
    /// The backend's.
    pub fn view(&mut self, buf: Buf) -> Result<&[u8], Error> {
        self.backend.view(self.plan, 0, buf)
    }

    /// The plan of the next step.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// Does one bounded piece of work: at most [`Plan::max_step_macs`] multiply-accumulates.
    ///
    /// # Errors
    /// The backend's. The stage is not advanced: the step may be tried again, if the backend left its memory as it was
    /// before the call that failed; [`Generator::reset`] is right in any case. A piece of work that was done is not
    /// done twice where only its result could not be seen.
    pub fn step(&mut self) -> Result<Step<'_>, Error> {
        let stage = self.stage;
        if stage == Stage::Done {
            return Ok(Step::Done);
        }
        let shape = &self.model.shape;
        if !self.ran {
            let (request, more) = (&self.request, self.more);
            let job = Job { model: self.model, plan: self.plan, request, more };
            self.backend.run(&job, stage)?;
            (self.ran, self.seen) = (true, 0);
        }
        let (image, last) = (self.seen, self.more.len());
        let (h, width) = self.size();
        let tier = &self.plan.tier;
        let images = 1 + last as u64;
        let done = self.done + stage.macs(shape, tier) * images;
        let progress = Progress { done, total: self.plan.image_macs() * images };
        let c = &shape.config;
        let step = match stage {
            Stage::Fold { scale } => {
                let latent = c.latent();
                let size = (latent.h as usize, latent.w as usize);
                let (weight, bias) = self.model.preview();
                let n = if self.previews { size.0 * size.1 * c.cvae as usize } else { 0 };
                let bytes =
                    if n > 0 { self.backend.view(self.plan, image, Buf::FHat)? } else { &[] };
                let latent = part(bytemuck::try_cast_slice(bytes).unwrap_or(&[]), 0, n);
                Step::Scale(ScaleView { image, scale, size, progress, latent, weight, bias })
            }
            Stage::Decode { layer, pass: Pass::First, y }
                if matches!(
                    shape.decoder(tier.decoder).layer(c.cvae as usize, layer).0,
                    Layer::Out { .. }
                ) =>
            {
                let n = h.saturating_sub(y).min(tier.strip);
                let rgb = part(self.backend.view(self.plan, image, Buf::Rgb)?, 0, n * width * 3);
                Step::Rows(Rows { image, y, width, rgb, progress })
            }
            _ => {
                self.seen = last;
                Step::Working(progress)
            }
        };
        if self.seen < last {
            self.seen += 1;
        } else {
            (self.stage, self.ran, self.done) = (stage.next(shape, tier), false, done);
        }
        Ok(step)
    }
}
