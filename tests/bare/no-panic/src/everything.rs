//! Whatever else is public in the core, called with values that may be any.

use core::fmt::{self, Write};

use varmint_core::config::groups;
use varmint_core::error::Fault;
use varmint_core::file::{Container, Kind, checksum};
use varmint_core::ops::{Heads, Kv, Packed, Packed4, Scratch, Strip, Taps};
use varmint_core::plan::{level_maps, second_row};
use varmint_core::rng::TokenRng;
use varmint_core::sample::{draw, threshold};
use varmint_core::tensor::{Data, Layer, Matrix};
use varmint_core::{
    Budget, Buf, Encoder, Encoding, Error, Generator, Host, Model, Ops, Pass, Plan, Scalar, Stage,
    Step, Tier, edit, num, scalar, tensor,
};

use crate::{any, any_float, file, ram, request, show};

/// Text that somebody reads.
struct Shown;

impl Write for Shown {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.bytes().for_each(show);
        if any() > 0 { Ok(()) } else { Err(fmt::Error) }
    }
}

fn show_number(n: usize) {
    n.to_le_bytes().into_iter().for_each(show);
}

fn show_float(x: f32) {
    x.to_le_bytes().into_iter().for_each(show);
}

/// Numbers that may be any, as many as may be.
fn numbers<T: bytemuck::AnyBitPattern>() -> &'static [T] {
    bytemuck::try_cast_slice(file()).unwrap_or(&[])
}

/// The same, to be written.
fn numbers_mut<T: bytemuck::Pod>() -> &'static mut [T] {
    bytemuck::try_cast_slice_mut(ram()).unwrap_or(&mut [])
}

pub(crate) fn everything(ops: impl Ops + Copy) {
    if let Err(e) = errors().and_then(|()| models(ops)).and_then(|()| editing(ops)) {
        let _ = write!(Shown, "{e}");
        let _ = write!(Shown, "{e:?}");
    }
    operations(&ops);
    operations(&Scalar);
    parts();
}

fn errors() -> Result<(), Error> {
    Err(match any() {
        0 => Error::file(Fault::Config, any()),
        1 => Error::UnknownLabel { table: any() as u16, row: any() as u32, rows: any() as u32 },
        2 => Error::BadTokens { need: any(), got: any() },
        3 => Error::TooMuchWork { need: any() as u64, got: any() as u64 },
        4 => Error::ArenaTooSmall { need: any(), got: any() },
        5 => Error::ArenaMisaligned { need: any() },
        6 => Error::Backend(any() as u32),
        7 => Error::BadImage { need: any(), got: any() },
        8 => Error::WrongEncoder,
        9 => Error::BadBatch { need: any(), got: any() },
        _ => return Ok(()),
    })
}

fn buf() -> Buf {
    match any() {
        0 => Buf::Kv(any(), any()),
        1 => Buf::Map(any()),
        2 => Buf::Wide(any()),
        3 => Buf::Hidden(any()),
        4 => Buf::Spare(any()),
        5 => Buf::Nothing,
        _ => Buf::X,
    }
}

fn editing(ops: impl Ops + Copy) -> Result<(), Error> {
    let model = Model::parse(file())?;
    let encoder = Encoder::parse(file())?;
    encoder.belongs_to(&model)?;
    let (part, level) = encoder.sizes.layer(any());
    show_number(part.count() + part.spec(any(), any()).packed_cols() + level);
    show_number(encoder.file_bytes() + encoder.sizes.first(any()));
    if let Some((spec, _, m)) = encoder.tensor(any()) {
        show_number(spec.packed_cols());
        matrix(m);
    }
    let plan = encoder.plan(&model.shape, &model.tier_at(any())?)?;
    let host = Host::new(ops, ram(), &plan)?;
    let mut encoding = Encoding::new(&model, &encoder, &plan, host, numbers())?;
    while let Some(progress) = encoding.step()? {
        show((progress.done >> 8) as u8);
        encoding.latent()?.unwrap_or(&[]).iter().for_each(|&v| show_float(v));
    }
    encoding.tokens()?.iter().for_each(|&t| show(t as u8));

    let mask = [any() > 0; 64];
    show_number(edit::keep(&model.shape.config, &mask, numbers_mut())?);
    let plan = Plan::new(&model.shape, &model.tier_at(any())?)?;
    let mut request = request(&model);
    request.tokens = Some(numbers());
    let mut g = Generator::new(&model, &plan, Host::new(ops, ram(), &plan)?, request)?;
    g.step()?;
    let latents = (numbers(), numbers());
    show_number(edit::follow_room(&model.shape.config));
    edit::follow(&model, any(), latents, numbers_mut(), numbers_mut())?;
    g.set_tokens(Some(numbers()))?;
    g.step()?;
    Ok(())
}

fn models(ops: impl Ops + Copy) -> Result<(), Error> {
    let container = Container::parse(file())?;
    show_number(container.section(Kind::Text).1 + checksum(file()) as usize);
    let shape = container.shape()?;
    show_number(shape.trunk(any()).head_dim() + shape.trunk(any()).wide(any()));
    show_number(shape.decoder(any()).factor() + groups(any()));
    let model = Model::parse(file())?;
    let texts = [model.name(), model.licence(), model.table_name(any())];
    texts.into_iter().chain(model.label(any(), any())).flat_map(str::bytes).for_each(show);
    show_number(model.find_label(any(), model.name()).unwrap_or(0) + model.file_bytes());
    if let Some((spec, dtype, m)) = model.tensor(any()) {
        show_number(spec.packed_cols() + spec.scale_count(dtype) + usize::from(spec.allows(dtype)));
        matrix(m);
    }
    for m in [
        model.codebook(),
        model.phi(any()).w,
        model.table(any(), any()),
        model.trunk(any()).head.w,
        model.block(any(), any()).fc1.w,
    ] {
        matrix(m);
    }
    let (layer, level, _) = model.layer(any(), any());
    show_number(layer.count() + level);

    let budget = Budget { ram: any(), step_macs: any() as u64, image_macs: any() as u64 };
    let best = model.best_tier(budget)?;
    let named = model.tier(model.name())?.with_blocks(&model.shape, |_| any() as u64)?;
    let plan = Plan::new(&model.shape, &best)?;
    budget.check(&plan)?;
    tiers(&model, &named);
    plans(&model, &plan)?;
    let lower = plan.lowered(&model.shape, &named, any())?;
    let other = Plan::of_file(file(), any())?;

    let mut g = Generator::new(&model, &plan, Host::new(ops, ram(), &plan)?, request(&model))?;
    g.reset(request(&model))?;
    g.reset_to(&other, request(&model))?;
    let _ = g.step()?;
    show_number(g.boundary().unwrap_or(0) + g.size().0 + g.plan().bytes());
    g.lower(&lower)?;
    g.backend().bytes().for_each(show);
    stages(&model, &named, g.stage());
    show_number(g.tokens()?.iter().map(|&t| t as usize).sum());
    g.view(buf())?.iter().for_each(|&v| show(v));

    let plan = plan.batch(any())?;
    show_number(plan.images() + plan.image_bytes() + plan.image_macs() as usize);
    let requests = [request(&model), request(&model)];
    let host = Host::new(ops, ram(), &plan)?;
    let mut g = Generator::batch(&model, &plan, host, &requests)?;
    if let Step::Rows(rows) = g.step()? {
        show_number(rows.image);
    }
    g.reset_batch(requests.get(any()..).unwrap_or(&requests))?;
    g.tokens_of(any())?.iter().for_each(|&t| show(t as u8));
    Ok(())
}

fn matrix(m: Matrix<'_>) {
    m.add_row(any(), numbers_mut());
    let m = m.rows_from(any(), any());
    show_number(m.stored_cols());
    if let Data::F32(w) = m.data {
        show_float(num::sum(w));
    }
}

fn tiers(model: &Model<'_>, tier: &Tier) {
    tier.name().bytes().for_each(show);
    show_number(tier.trunk(any()) + tier.first_scale(any()) + tier.handoff());
    show_number(tier.blocks_of(any(), any()) as usize + tier.rows_of(any(), any()));
    show_number(tier.rows_at_once(any(), any()) + tier.rows(any()) + tier.blocks(any()) as usize);
    show_number(tier.last_scale(any(), any(), any()).unwrap_or(0));
    let (c, keep) = (&model.shape.config, &tier.keep);
    show_number(keep.after(c, any(), any()) + keep.before(c, any(), any()) + keep.window_at(any()));
    show_number(usize::from(keep.alike() || keep.drops(c, any(), any())));
    show_number(second_row(&model.shape, tier, any()));
    let (from, to) = level_maps(&model.shape, tier, any());
    show_number(usize::from(from == to));
}

fn plans(model: &Model<'_>, plan: &Plan) -> Result<(), Error> {
    plan.verify()?;
    let _ = plan.draw(&mut Shown);
    for (name, b) in plan.buffers() {
        let _ = write!(Shown, "{name} {name:>12} {b:?}");
    }
    show_number(plan.buffer(buf()).size as usize + plan.cache_at(any()) + plan.cache_bytes());
    show_number(plan.floor() + plan.total_macs() as usize + plan.max_step_macs() as usize);
    let c = &model.shape.config;
    show_number(c.tokens() + c.max_tokens() + c.tokens_before(any()) + c.scale(any()).tokens());
    tensor::for_each_spec(&model.shape, |spec| {
        if spec.rows > any() { Err(Error::UnknownTier) } else { Ok(()) }
    })
}

fn stages(model: &Model<'_>, tier: &Tier, stage: Stage) {
    let tile =
        varmint_core::Tile { trunk: any(), scale: any(), row: any(), block: any(), at: any() };
    for stage in [
        stage,
        Stage::Ada { trunk: any(), row: any(), block: any() },
        Stage::Keys(tile),
        Stage::Mix(tile),
        Stage::Keep(tile),
        Stage::Head { scale: any(), at: any() },
        Stage::Fold { scale: any() },
        Stage::Decode { layer: any(), pass: Pass::First, y: any() },
    ] {
        show_number(stage.macs(&model.shape, tier) as usize);
        let _ = write!(Shown, "{:?}", stage.next(&model.shape, tier));
    }
    let d = model.shape.decoder(any());
    show_number(d.n_layers() + d.tensors_before(any(), any()));
    if let (Layer::Up { c }, level) = d.layer(any(), any()) {
        show_number(c + level);
    }
}

fn taps<T: bytemuck::AnyBitPattern>() -> Taps<'static, T> {
    Taps {
        data: numbers(),
        rows: any(),
        stride: any(),
        segs: any(),
        seg_len: any(),
        seg_stride: any(),
    }
}

fn strip<T: bytemuck::AnyBitPattern>() -> Strip<'static, T> {
    Strip { data: numbers(), rows: any(), width: any(), channels: any() }
}

fn kv() -> Kv<'static> {
    match any() {
        0 => Kv::F32 { k: numbers(), v: numbers() },
        1 => Kv::F16 { k: numbers(), v: numbers() },
        _ => Kv::I8 { k: numbers(), v: numbers(), ks: numbers(), vs: numbers() },
    }
}

/// Every kernel, with shapes that no slice holds.
fn operations(ops: &impl Ops) {
    ops.name().bytes().for_each(show);
    ops.layer_norm(numbers(), numbers(), numbers(), numbers_mut());
    show_float(ops.quantize_i8(numbers(), numbers_mut()));
    show_float(ops.quantize_i12(numbers(), numbers_mut()));
    let w = Packed { w: numbers(), scale: numbers(), bias: numbers() };
    ops.gemm_i8(taps(), numbers(), w, numbers_mut());
    ops.gemm_i12(taps(), numbers(), w, numbers_mut());
    ops.conv_i8(strip(), any_float(), w, numbers_mut(), numbers_mut());
    ops.conv_i12(strip(), any_float(), w, numbers_mut(), numbers_mut());
    let w = Packed4 { w: numbers(), group: numbers(), scale: numbers(), bias: numbers() };
    ops.gemm_i4(taps(), numbers(), w, numbers_mut());
    ops.gemm_f32(taps(), numbers(), numbers(), numbers_mut());
    ops.gemm_f16(taps(), numbers(), numbers(), numbers_mut());
    ops.gelu(numbers_mut());
    ops.add_gated(numbers_mut(), numbers(), numbers());
    let mut scratch = Scratch {
        scores: numbers_mut(),
        probs: numbers_mut(),
        sums: numbers_mut(),
        query: numbers_mut(),
    };
    let heads = Heads { width: any(), dim: any() };
    let kv = [(kv(), any()), (kv(), any())];
    ops.attend(heads, numbers(), kv, &mut scratch, numbers_mut());
    ops.norm_act(numbers_mut(), numbers(), numbers(), any() > 0);
    ops.map_stats(numbers(), numbers_mut(), numbers_mut(), numbers_mut());
    ops.map_squares(numbers(), numbers(), numbers_mut());
    ops.normalize_heads(numbers_mut(), any(), numbers());
    ops.quantize_heads(numbers(), any(), numbers_mut(), numbers_mut());
    ops.widen_f16(numbers(), numbers_mut());
    ops.narrow_f16(numbers_mut(), numbers_mut());
    ops.requantize_i8(numbers(), any_float(), numbers_mut());
    ops.requantize_i12(numbers(), any_float(), numbers_mut());
}

/// What the kernels and the draw are made of.
fn parts() {
    let sampling = varmint_core::Sampling {
        guidance: any_float(),
        top_k: any() as u32,
        top_p: any_float(),
        temperature: any_float(),
    };
    let rng = TokenRng::new(any() as u64, any(), any());
    show_number(draw(numbers(), &sampling, rng, numbers_mut()));
    show_float(threshold(numbers(), &sampling, numbers_mut()));
    show_float(rng.uniform(any()) + rng.gumbel(any()));
    show_float(num::exp(any_float()) + num::gelu(any_float()) + num::rsqrt(any_float()));
    show_float(num::dot(numbers(), numbers()) + num::abs_max(numbers()));
    show_number(num::up4(any()) + num::up32(any()) + scalar::prob_levels(any()) as usize);
    show_float(scalar::softmax(numbers_mut()));
    scalar::l2_normalize(numbers_mut(), any_float());
    show(scalar::pixel(any_float()));
    show_float(scalar::quantize_head(numbers(), numbers_mut()).to_f32());
}
