//! Between the scales: inputs of a scale, draws, the residual quantizer.

use varmint_core::device::{next_place, second_row};
use varmint_core::tensor::Data;
use varmint_core::{Buf, Job};

use crate::device::Kernel;
use crate::params;
use crate::{Cuda, Error};

impl Cuda<'_> {
    pub(crate) fn begin(&mut self, job: &Job<'_>, trunk: usize, scale: usize) -> Result<(), Error> {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let c = &shape.config;
        let w = shape.trunk(trunk).width as usize;
        let weights = job.model.trunk(trunk);
        let l = c.scale(scale).tokens();
        let rows = tier.rows_of(trunk, scale);
        let second = second_row(shape, tier, trunk) as i32;
        let x = self.at(job, Buf::X);
        let s = params::Stream { x, n: l as i32, second, w: w as i32, unused: 0 };
        let lvl_pos = self.table(&weights.lvl_pos)?;
        if scale == 0 {
            let cond = self.at(job, Buf::Cond);
            let start = self.table(&weights.pos_start)?;
            let p = params::BeginFirst { cond, start, lvl_pos, s, image: self.places.image };
            self.push(Kernel::begin_first, [w.div_ceil(128), rows * l, 1], 128, 0, &p);
            return Ok(());
        }
        let z = c.cvae as usize;
        let from = 4 * next_place(shape, tier, scale) * z;
        let p = params::Begin {
            next: self.at(job, Buf::Next) + from as u64,
            word: self.float_weights(&weights.word)?,
            lvl_pos,
            s,
            z: z as i32,
            first: c.tokens_before(scale) as i32,
            rows: rows as i32,
            unused: 0,
            image: self.places.image,
        };
        self.push(Kernel::begin, [w.div_ceil(128), l.div_ceil(8), 1], 128, 0, &p);
        Ok(())
    }

    /// The tokens of a whole scale.
    pub(crate) fn draw(&mut self, job: &Job<'_>, scale: usize, at: usize) -> Result<(), Error> {
        if at > 0 {
            return Ok(());
        }
        let c = &job.model.shape.config;
        let (l, v, before) =
            (c.scale(scale).tokens(), c.vocab as usize, 2 * c.tokens_before(scale) as u64);
        // Given tokens may have changed since the last scale. What is sent before runs before.
        self.requests(job)?;
        for (image, request) in job.requests().enumerate() {
            let first = c.tokens_before(scale);
            if let Some(tokens) = request.tokens.and_then(|all| all.get(first..first + l)) {
                let to = self.places.forced + image as u64 * self.places.image + before;
                self.device.write(to, bytemuck::cast_slice(tokens))?;
            }
        }
        let room = v.next_power_of_two();
        let mixed = job.plan.tier.rows(scale) == 2 && c.n_scales() > 1;
        let p = params::Draw {
            req: self.places.request,
            logits: self.places.logits,
            tokens: self.at(job, Buf::Tokens) + before,
            forced: self.places.forced + before,
            l: l as i32,
            v: v as i32,
            rows: if mixed { 2 } else { 1 },
            scale: scale as i32,
            room: room as i32,
            unused: 0,
            image: self.places.image,
        };
        self.push(Kernel::draw, [l, 1, 1], 512, 12 * room, &p);
        Ok(())
    }

    pub(crate) fn fold(&mut self, job: &Job<'_>, scale: usize) -> Result<(), Error> {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let c = &shape.config;
        let (s, last) = (c.scale(scale), c.latent());
        let (ph, pw, z) = (last.h as usize, last.w as usize, c.cvae as usize);
        let phi = job.model.phi(s.phi as usize);
        let (w, half) = match phi.w.data {
            Data::F32(w) => (self.of(w)?, 0),
            Data::F16(w) => (self.of(w)?, 1),
            _ => return Err(varmint_core::Error::PlanMismatch.into()),
        };
        let f_hat = self.at(job, Buf::FHat);
        let p = params::Fold {
            tokens: self.at(job, Buf::Tokens) + 2 * c.tokens_before(scale) as u64,
            codebook: self.table(&job.model.codebook())?,
            phi: w,
            bias: self.of(phi.bias)?,
            big: self.at(job, Buf::Enlarged),
            f_hat,
            half,
            enlarge: (scale + 1 < c.n_scales()).into(),
            h: s.h.into(),
            w: s.w.into(),
            ph: ph as i32,
            pw: pw as i32,
            z: z as i32,
            unused: 0,
            image: self.places.image,
        };
        let n = ph * pw * z;
        self.push(Kernel::enlarge, [n.div_ceil(256), 1, 1], 256, 0, &p);
        self.push(Kernel::phi, [n.div_ceil(32), 1, 1], 256, 0, &p);
        if scale + 1 < c.n_scales() {
            let next = c.scale(scale + 1);
            let to = 4 * next_place(shape, tier, scale + 1) * z;
            let p = params::Reduce {
                from: f_hat,
                out: self.at(job, Buf::Next) + to as u64,
                ph: ph as i32,
                pw: pw as i32,
                z: z as i32,
                nh: next.h.into(),
                nw: next.w.into(),
                unused: 0,
                image: self.places.image,
            };
            let n = next.tokens() * z;
            self.push(Kernel::reduce, [n.div_ceil(128), 1, 1], 128, 0, &p);
        }
        Ok(())
    }
}
