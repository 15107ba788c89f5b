//! The C interface of varmint, `include/varmint.h`: the caller's memory, error codes, no heap.
//!
//! A generator lives in memory that the caller gives it, holds an open model, and makes one image after another in
//! an arena that is the caller's, too. How large both must be can be asked before anything runs:
//!
//! ```c
//! varmint_open(memory, sizeof memory, model, model_bytes, &g);      // checks the whole model
//! varmint_find_tier(g, "fast", &index);
//! varmint_tier_at(g, index, &tier);                                 // tier.arena_bytes
//! varmint_request_default(g, &request);
//! varmint_find_label(g, 0, "red heart", &request.labels[0]);
//! varmint_start(g, index, arena, sizeof arena, &request);
//! do {
//!     varmint_step(g, &event);                                      // a bounded piece of work
//!     if (event.kind == VARMINT_EVENT_KIND_ROWS) show(event.y, event.rgb);
//! } while (event.kind != VARMINT_EVENT_KIND_DONE);
//! ```
//!
//! Every function but the three that cannot fail returns a [`Status`]. A pointer that is null or not aligned is refused;
//! what it points to is the caller's promise, as always in C. A generator is used by one thread at a time and is not
//! moved; it needs no closing.
#![no_std]

mod memory;
mod status;
mod types;

use core::ffi::{c_char, c_void};
use core::mem::{MaybeUninit, align_of, size_of};
use core::slice;

use varmint_core::{Budget, Generator as Run, Host, Model, Plan, Step};
use varmint_cpu::Cpu;

use memory::{Extent, check, text};
pub use status::{MESSAGES, Status};
pub use types::{
    ARENA_ALIGN, Event, EventKind, MODEL_ALIGN, NOT_GIVEN, Request, TABLES, Text, Tier,
};

/// An open model and the image that it makes.
#[derive(Debug)]
pub struct Generator {
    model: Model<'static>,
    /// Of the generator itself and the model's file.
    extents: [Extent; 2],
    /// Written before `run` borrows it, and not again before `run` is gone.
    plan: MaybeUninit<Plan>,
    run: Option<Run<'static, Host<'static, Cpu>>>,
    /// Null, or room for a preview.
    preview: *mut u8,
}

fn call(body: impl FnOnce() -> Result<(), Status>) -> Status {
    body().err().unwrap_or(Status::Ok)
}

/// The kernels: the best that the processor has, or that the compiler was told of.
fn cpu() -> Cpu {
    #[cfg(feature = "std")]
    return Cpu::detect();
    #[cfg(not(feature = "std"))]
    Cpu::build()
}

/// The model of an open generator.
///
/// # Safety
/// `generator` is null or one that [`varmint_open`] gave, and nothing writes to it for `'a`.
unsafe fn model<'a>(generator: *const Generator) -> Result<&'a Model<'static>, Status> {
    check(generator)?;
    // SAFETY: not null; the caller promises that it is open. `model` is written by `varmint_open` only.
    Ok(unsafe { &(*generator).model })
}

/// Bytes of a generator.
#[unsafe(no_mangle)]
pub extern "C" fn varmint_generator_size() -> usize {
    size_of::<Generator>()
}

/// Alignment of a generator.
#[unsafe(no_mangle)]
pub extern "C" fn varmint_generator_align() -> usize {
    align_of::<Generator>()
}

/// A sentence about a status; never null.
#[unsafe(no_mangle)]
pub extern "C" fn varmint_message(status: i32) -> *const c_char {
    let found = MESSAGES.iter().find(|(s, _)| *s as i32 == status);
    found.map_or(c"unknown error", |(_, m)| m).as_ptr()
}

/// Opens a model: checks all of it once, in time linear in its length. The model is read in place, from flash if it lies there.
///
/// `memory`: `varmint_generator_size()` bytes at a multiple of `varmint_generator_align()`. `model`: the bytes of a .vmt file,
/// at a multiple of 64. Both stay where and as they are while the generator is in use. `*generator` is null after an error.
///
/// # Safety
/// The memory is the caller's, to be read and (but the model) written, and stays as long as the generator is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_open(
    memory: *mut c_void,
    memory_bytes: usize,
    model: *const u8,
    model_bytes: usize,
    generator: *mut *mut Generator,
) -> Status {
    call(|| {
        check(generator)?;
        // SAFETY: checked; the caller lets it be written.
        unsafe { generator.write(core::ptr::null_mut()) };
        let place = memory.cast::<Generator>();
        check(place)?;
        if memory_bytes < size_of::<Generator>() {
            return Err(Status::MemoryTooSmall);
        }
        let extents = [Extent::new(memory.cast(), memory_bytes)?, Extent::new(model, model_bytes)?];
        extents[0].apart(&extents[1..])?;
        // SAFETY: not null and within the address space; the caller promises readable bytes that nobody changes.
        let file = unsafe { slice::from_raw_parts(model, model_bytes) };
        let model = Model::parse(file)?;
        let preview = core::ptr::null_mut();
        let new = Generator { model, extents, plan: MaybeUninit::uninit(), run: None, preview };
        // SAFETY: checked for null, alignment and size; the caller lets it be written.
        unsafe {
            place.write(new);
            generator.write(place);
        }
        Ok(())
    })
}

/// Tier `index` of the model, best first, and what an image in it needs. VARMINT_STATUS_UNKNOWN_TIER past the last one.
///
/// # Safety
/// `generator` is open; `tier` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_tier_at(
    generator: *const Generator,
    index: usize,
    tier: *mut Tier,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { model(generator) }?;
        check(tier)?;
        let row = model.tier_at(index)?;
        let plan = Plan::new(&model.shape, &row)?;
        let latent = model.shape.config.latent();
        let (height, width) = (u32::from(latent.h), u32::from(latent.w));
        let factor = model.shape.decoder(row.decoder).factor() as u32;
        let mut name = [0; 20];
        for (to, from) in name.iter_mut().zip(row.name().bytes()) {
            *to = from as c_char;
        }
        let found = Tier {
            step_macs: plan.max_step_macs(),
            image_macs: plan.total_macs(),
            arena_bytes: plan.bytes(),
            width: width * factor,
            height: height * factor,
            preview_width: width,
            preview_height: height,
            scales: model.shape.config.n_scales() as u32,
            name,
        };
        // SAFETY: checked; the caller lets it be written.
        unsafe { tier.write(found) };
        Ok(())
    })
}

/// The index of the tier of that name.
///
/// # Safety
/// `generator` is open; `name` ends with a zero; `index` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_find_tier(
    generator: *const Generator,
    name: *const c_char,
    index: *mut usize,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let (model, name) = unsafe { (model(generator)?, text(name)?) };
        check(index)?;
        let found = name.ok_or(Status::UnknownTier).and_then(|n| Ok(model.tier(n)?))?.index;
        // SAFETY: checked; the caller lets it be written.
        unsafe { index.write(found) };
        Ok(())
    })
}

/// The index of the best tier that fits: in so many bytes of arena, so much work per step and per image (UINT64_MAX: any).
///
/// # Safety
/// `generator` is open; `index` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_best_tier(
    generator: *const Generator,
    arena_bytes: usize,
    step_macs: u64,
    image_macs: u64,
    index: *mut usize,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { model(generator) }?;
        check(index)?;
        let found = model.best_tier(Budget { ram: arena_bytes, step_macs, image_macs })?.index;
        // SAFETY: checked; the caller lets it be written.
        unsafe { index.write(found) };
        Ok(())
    })
}

/// The name of row `row` of condition table `table` (0: class, 1: style); empty where the model does not name its rows.
/// VARMINT_STATUS_UNKNOWN_LABEL past the last one.
///
/// # Safety
/// `generator` is open; `name` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_label_at(
    generator: *const Generator,
    table: u32,
    row: u32,
    name: *mut Text,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { model(generator) }?;
        check(name)?;
        let config = &model.shape.config;
        let (t, r) = (table as usize, row as usize);
        // The last row means "not given".
        if t >= config.n_tables() || row >= config.table(t).rows.saturating_sub(1) {
            return Err(Status::UnknownLabel);
        }
        let found = match model.label(t, r) {
            Some(label) => Text { bytes: label.as_ptr(), len: label.len() },
            None => Text { bytes: core::ptr::null(), len: 0 },
        };
        // SAFETY: checked; the caller lets it be written.
        unsafe { name.write(found) };
        Ok(())
    })
}

/// The row of condition table `table` (0: class, 1: style) of that name.
///
/// # Safety
/// `generator` is open; `name` ends with a zero; `row` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_find_label(
    generator: *const Generator,
    table: u32,
    name: *const c_char,
    row: *mut u32,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let (model, name) = unsafe { (model(generator)?, text(name)?) };
        check(row)?;
        let found = name.and_then(|n| model.find_label(table as usize, n));
        let found = found.ok_or(Status::UnknownLabel)?;
        // SAFETY: checked; the caller lets it be written.
        unsafe { row.write(found as u32) };
        Ok(())
    })
}

/// Seed 0, no condition, the model's own guidance and sampling, no previews.
///
/// # Safety
/// `generator` is open; `request` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_request_default(
    generator: *const Generator,
    request: *mut Request,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let sampling = unsafe { model(generator) }?.shape.config.sampling;
        check(request)?;
        let plain = Request {
            seed: 0,
            labels: [NOT_GIVEN; TABLES],
            guidance: sampling.guidance,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            preview: core::ptr::null_mut(),
            preview_bytes: 0,
        };
        // SAFETY: checked; the caller lets it be written.
        unsafe { request.write(plain) };
        Ok(())
    })
}

/// Starts an image in tier `tier`. Legal at any time: the image before it, finished or not, is forgotten.
///
/// `arena`: the tier's `arena_bytes` or more, at a multiple of 16; what lies beyond is never touched. Arena and previews are the
/// generator's until the image is complete or another is started.
///
/// # Safety
/// `generator` is open; `request` can be read; arena and previews can be written and nobody else does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_start(
    generator: *mut Generator,
    tier: usize,
    arena: *mut u8,
    arena_bytes: usize,
    request: *const Request,
) -> Status {
    call(|| {
        check(generator)?;
        // SAFETY: open, as the caller promises. From here on `plan` is not borrowed.
        unsafe { (&raw mut (*generator).run).write(None) };
        // SAFETY: the caller's promise.
        let model = unsafe { model::<'static>(generator) }?;
        // SAFETY: open, as the caller promises.
        let [own, file] = unsafe { (*generator).extents };
        check(request)?;
        // SAFETY: checked; the caller lets it be read.
        let asked = unsafe { request.read() };

        let ram = Extent::new(arena, arena_bytes)?;
        ram.apart(&[own, file])?;
        let plan = Plan::new(&model.shape, &model.tier_at(tier)?)?;
        if !asked.preview.is_null() {
            let latent = model.shape.config.latent();
            Extent::new(asked.preview, asked.preview_bytes)?.apart(&[own, file, ram])?;
            if asked.preview_bytes < latent.h as usize * latent.w as usize * 3 {
                return Err(Status::PreviewTooSmall);
            }
        }

        let mut request = varmint_core::Request::new(model);
        request.seed = asked.seed;
        request.labels = asked.labels.map(|row| (row != NOT_GIVEN).then_some(row));
        request.sampling.guidance = asked.guidance;
        request.sampling.temperature = asked.temperature;
        request.sampling.top_p = asked.top_p;
        request.sampling.top_k = asked.top_k;

        // SAFETY: open, as the caller promises; `run` is gone, so nothing borrows `plan`.
        let place = unsafe { &mut (*generator).plan };
        let plan: &'static Plan = place.write(plan);
        // SAFETY: within the address space, apart from everything else that is in use; the caller gives it away.
        let ram = unsafe { slice::from_raw_parts_mut(arena, arena_bytes) };
        let run = Run::new(model, plan, Host::new(cpu(), ram, plan)?, request)?;
        // SAFETY: open, as the caller promises; `model` and `plan`, which `run` borrows, are other fields.
        unsafe {
            (&raw mut (*generator).run).write(Some(run));
            (&raw mut (*generator).preview).write(asked.preview);
        }
        Ok(())
    })
}

/// Does a bounded piece of work, at most the tier's `step_macs`, and says what it brought. After the last step it goes on saying
/// VARMINT_EVENT_KIND_DONE.
///
/// # Safety
/// `generator` is open; `event` can be written; what was given to [`varmint_start`] is still there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn varmint_step(generator: *mut Generator, event: *mut Event) -> Status {
    call(|| {
        check(generator)?;
        check(event)?;
        // SAFETY: open, as the caller promises; what `run` borrows are other fields.
        let (run, preview) = unsafe { (&mut (*generator).run, (*generator).preview) };
        let run = run.as_mut().ok_or(Status::NotStarted)?;
        let total = run.plan().total_macs();
        let mut new = Event {
            done: total,
            total,
            rgb: core::ptr::null(),
            kind: EventKind::Done,
            scale: 0,
            y: 0,
            width: 0,
            height: 0,
        };
        match run.step()? {
            Step::Working(progress) => {
                (new.kind, new.done) = (EventKind::Working, progress.done);
            }
            Step::Scale(scale) => {
                (new.kind, new.done) = (EventKind::Scale, scale.progress.done);
                new.scale = scale.scale as u32;
                if !preview.is_null() {
                    let (height, width) = scale.size;
                    // SAFETY: `varmint_start` has checked that it is as long and shares no byte.
                    let room = unsafe { slice::from_raw_parts_mut(preview, height * width * 3) };
                    for (to, pixel) in room.chunks_exact_mut(3).zip(scale.preview()) {
                        to.copy_from_slice(&pixel);
                    }
                    (new.width, new.height) = (width as u32, height as u32);
                    new.rgb = preview;
                }
            }
            Step::Rows(rows) => {
                (new.kind, new.done) = (EventKind::Rows, rows.progress.done);
                (new.y, new.width) = (rows.y as u32, rows.width as u32);
                new.height = rows.rgb.len().checked_div(rows.width * 3).unwrap_or(0) as u32;
                new.rgb = rows.rgb.as_ptr();
            }
            Step::Done => {}
        }
        // SAFETY: checked; the caller lets it be written.
        unsafe { event.write(new) };
        Ok(())
    })
}

/// The panic handler that Rust asks of a library without std around it. Nothing here panics; if something did, a watchdog
/// would see it.
#[cfg(all(feature = "standalone", not(feature = "std")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
