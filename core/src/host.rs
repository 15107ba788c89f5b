//! The backend over the caller's memory: an arena, and the kernels that work in it.
//!
//! A [`Backend`] executes stages; a GPU would keep the same plan on its device. [`Host`] does it with
//! [`Ops`] on disjoint slices of one byte slice. The stages themselves are in `block`, `latent`,
//! `sample` and `decode`.

use crate::error::Error;
use crate::model::{Linear, Model};
use crate::num::{up4, up32};
use crate::ops::{Ops, Packed, Packed4, Taps};
use crate::plan::{ARENA_ALIGN, Buf, Plan};
use crate::request::Request;
use crate::slices::{pieces, pieces_mut};
use crate::stage::Stage;
use crate::tensor::Data;

/// What a stage works for.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The model.
    pub model: &'a Model<'a>,
    /// The plan of the tier that runs.
    pub plan: &'a Plan,
    /// The request; of a batch the first one.
    pub request: &'a Request<'a>,
    /// The other requests of a batch, at most [`Plan::images`] less one.
    pub more: &'a [Request<'a>],
}

impl<'a> Job<'a> {
    /// The requests, in the order of their images.
    pub fn requests(&self) -> impl Iterator<Item = &'a Request<'a>> + use<'a> {
        core::iter::once(self.request).chain(self.more)
    }
}

/// Executes the stages of a run in memory that the plan laid out.
pub trait Backend {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Does one stage, of every image.
    ///
    /// # Errors
    /// [`Error::Backend`] and whatever the device says; [`Error::PlanMismatch`] for a foreign plan.
    fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error>;

    /// A buffer of image `image` as the host sees it, between two stages.
    ///
    /// # Errors
    /// As `run`.
    fn view(&mut self, plan: &Plan, image: usize, buf: Buf) -> Result<&[u8], Error>;
}

/// A backend that someone else owns.
impl<B: Backend + ?Sized> Backend for &mut B {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
        (**self).run(job, stage)
    }

    fn view(&mut self, plan: &Plan, image: usize, buf: Buf) -> Result<&[u8], Error> {
        (**self).view(plan, image, buf)
    }
}

/// The backend over the caller's memory.
#[derive(Debug)]
pub struct Host<'m, O> {
    pub(crate) ops: O,
    pub(crate) arena: Arena<'m>,
}

/// Exactly the bytes of a plan.
#[derive(Debug)]
pub(crate) struct Arena<'m> {
    bytes: &'m mut [u8],
    /// Where the image begins that is worked on.
    at: usize,
}

impl<'m, O: Ops> Host<'m, O> {
    /// Takes `plan.bytes()` of `ram`; what lies beyond is never touched.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`] with need and got, [`Error::ArenaMisaligned`].
    pub fn new(ops: O, ram: &'m mut [u8], plan: &Plan) -> Result<Self, Error> {
        let got = ram.len();
        if !(ram.as_ptr() as usize).is_multiple_of(ARENA_ALIGN) {
            return Err(Error::ArenaMisaligned { need: ARENA_ALIGN });
        }
        match ram.get_mut(..plan.bytes()) {
            Some(bytes) => Ok(Self { ops, arena: Arena { bytes, at: 0 } }),
            None => Err(Error::ArenaTooSmall { need: plan.bytes(), got }),
        }
    }
}

impl<O: Ops> Backend for Host<'_, O> {
    fn name(&self) -> &str {
        self.ops.name()
    }

    fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
        self.arena.at = 0;
        // One place that runs a stage: a firmware without batches pays for no second one.
        let (mut request, mut more) = (job.request, job.more.iter());
        loop {
            self.stage(&Job { request, ..*job }, stage)?;
            let Some(next) = more.next() else { return Ok(()) };
            request = next;
            self.arena.at += job.plan.image_bytes();
        }
    }

    fn view(&mut self, plan: &Plan, image: usize, buf: Buf) -> Result<&[u8], Error> {
        if image >= plan.images() {
            return Err(Error::PlanMismatch);
        }
        self.arena.at = image.wrapping_mul(plan.image_bytes());
        let [bytes] = self.arena.take(plan, [buf])?;
        Ok(bytes)
    }
}

impl<O: Ops> Host<'_, O> {
    fn stage(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
        match stage {
            Stage::Setup { trunk } => self.setup(job, trunk),
            Stage::Ada { trunk, row, block } => self.ada(job, trunk, row, block),
            Stage::HeadAda { trunk, row } => self.head_ada(job, trunk, row),
            Stage::Begin { trunk, scale } => self.begin(job, trunk, scale),
            Stage::Keys(tile) => self.keys(job, tile),
            Stage::Mix(tile) => self.mix(job, tile),
            Stage::Keep(tile) => self.keep(job, tile),
            Stage::Head { scale, at } => self.head(job, scale, at),
            Stage::Draw { scale, at } => self.draw(job, scale, at),
            Stage::Fold { scale } => self.fold(job, scale),
            Stage::Decode { layer, pass, y } => self.decode(job, layer, pass, y),
            Stage::Done => Ok(()),
        }
    }
}

impl Arena<'_> {
    /// Disjoint buffers. Buffers that are live together never overlap, so an error here is a defect
    /// of the plan.
    pub(crate) fn take<const N: usize>(
        &mut self,
        plan: &Plan,
        bufs: [Buf; N],
    ) -> Result<[&mut [u8]; N], Error> {
        let ranges = bufs.map(|b| {
            let b = plan.buffer(b);
            // Nothing wraps: the image is one of the plan, whose bytes can be addressed.
            let from = self.at.wrapping_add(b.offset as usize);
            from..from.wrapping_add(b.size as usize)
        });
        self.bytes.get_disjoint_mut(ranges).map_err(|_| Error::PlanMismatch)
    }
}

pub(crate) trait CopyChecked<T> {
    /// Copies what fits; never panics.
    fn copy_from_slice_checked(&mut self, from: &[T]);
}

impl<T: Copy> CopyChecked<T> for [T] {
    fn copy_from_slice_checked(&mut self, from: &[T]) {
        for (a, b) in self.iter_mut().zip(from) {
            *a = *b;
        }
    }
}

/// Bytes as numbers.
pub(crate) fn nums<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], Error> {
    if bytes.is_empty() {
        return Ok(&mut []); // an empty slice may point anywhere
    }
    bytemuck::try_cast_slice_mut(bytes).map_err(|_| Error::ArenaMisaligned { need: ARENA_ALIGN })
}

/// As [`nums`], of bytes that are only read.
pub(crate) fn nums_ref<T: bytemuck::Pod>(bytes: &[u8]) -> Result<&[T], Error> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    bytemuck::try_cast_slice(bytes).map_err(|_| Error::ArenaMisaligned { need: ARENA_ALIGN })
}

/// The first `at` items and the rest; a shortage is a plan that does not fit the model.
pub(crate) fn split<T>(x: &mut [T], at: usize) -> Result<(&mut [T], &mut [T]), Error> {
    x.split_at_mut_checked(at).ok_or(Error::PlanMismatch)
}

/// `out = W x + b` for `m` rows of `x`, whatever the storage of W. `rows` takes the quantized inputs,
/// `row_scale` their scales.
pub(crate) fn linear<O: Ops>(
    ops: &O,
    x: &[f32],
    m: usize,
    lin: &Linear<'_>,
    rows: &mut [u8],
    row_scale: &mut [f32],
    out: &mut [f32],
) -> Result<(), Error> {
    let k = lin.w.cols;
    let kp = up4(k);
    let scales = row_scale.get_mut(..m).ok_or(Error::PlanMismatch)?;
    match lin.w.data {
        Data::F32(w) => ops.gemm_f32(Taps::matrix(x, m, k), w, lin.bias, out),
        Data::F16(w) => ops.gemm_f16(Taps::matrix(x, m, k), w, lin.bias, out),
        Data::I8 { w, scale, wide: false } => {
            let q = nums::<i8>(rows)?.get_mut(..m * kp).ok_or(Error::PlanMismatch)?;
            for ((q, x), s) in pieces_mut(q, kp).zip(pieces(x, k)).zip(scales.iter_mut()) {
                *s = ops.quantize_i8(x, q);
            }
            ops.gemm_i8(Taps::matrix(q, m, kp), scales, Packed { w, scale, bias: lin.bias }, out);
        }
        Data::I8 { w, scale, wide: true } => {
            let q = nums::<i16>(rows)?.get_mut(..m * kp).ok_or(Error::PlanMismatch)?;
            for ((q, x), s) in pieces_mut(q, kp).zip(pieces(x, k)).zip(scales.iter_mut()) {
                *s = ops.quantize_i12(x, q);
            }
            ops.gemm_i12(Taps::matrix(q, m, kp), scales, Packed { w, scale, bias: lin.bias }, out);
        }
        Data::I4 { w, group, scale } => {
            let kp = up32(k);
            let q = nums::<i8>(rows)?.get_mut(..m * kp).ok_or(Error::PlanMismatch)?;
            for ((q, x), s) in pieces_mut(q, kp).zip(pieces(x, k)).zip(scales.iter_mut()) {
                *s = ops.quantize_i8(x, q);
            }
            let w = Packed4 { w, group, scale, bias: lin.bias };
            ops.gemm_i4(Taps::matrix(q, m, kp), scales, w, out);
        }
        Data::I8Rows(..) => return Err(Error::PlanMismatch),
    }
    Ok(())
}
