//! The encoder and editing: latents and tokens of the goldens, the memory of the plan, files that lie, what stays of a
//! picture and what does not.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::fixture;
use safetensors::tensor::{Dtype as StDtype, TensorView, serialize_to_file};
use varmint::{
    Cpu, Encoded, Encoder, Encoding, Engine, Error, Fault, Generator, Host, Image, Isa, Model,
    ModelFile, Ops, Plan, Request, Scalar, Store, Tier, edit, encode,
};
use varmint_core::encoder::SIZES_AT;
use varmint_core::file::{CRC_AT, checksum};
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::golden::Golden;
use varmint_quant::picture::read_png;
use varmint_quant::{Meta, Numbers, Options, convert, convert_encoder};

/// What train/golden_encoder.py wrote.
#[derive(serde::Deserialize)]
struct Config {
    seed: u64,
    f32_vs_f64: f32,
    tensors: Vec<Recipe>,
}

#[derive(serde::Deserialize)]
struct Recipe {
    name: String,
    shape: Vec<usize>,
    center: f32,
    exp: i32,
}

/// The procedural weights of the goldens: `m(i)`, -510 to 510.
fn mixed(name: &str, i: u64, seed: u64) -> i32 {
    let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3);
    let golden = 0x9E37_79B9_7F4A_7C15u64;
    let key = name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv) ^ seed.wrapping_mul(golden);
    let mut z = key.wrapping_add((i + 1).wrapping_mul(golden));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    z.to_le_bytes()[..4].iter().map(|&b| i32::from(b)).sum::<i32>() - 510
}

fn values(t: &Recipe, seed: u64) -> Vec<u8> {
    let name = format!("vae.{}", t.name);
    let value = |i| {
        let v = t.center + mixed(&name, i, seed) as f32 * (t.exp as f32).exp2();
        if t.center == 0.0 { v } else { half::f16::from_f32(v).to_f32() }
    };
    (0..t.shape.iter().product::<usize>() as u64).flat_map(|i| value(i).to_le_bytes()).collect()
}

/// A golden, its model and its encoder, in one number format.
struct Case {
    golden: Checkpoint,
    config: Config,
    model: ModelFile,
    encoder: ModelFile,
}

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("encoder-{name}"))
}

fn case(test: &str, name: &str, numbers: Numbers) -> Case {
    let path = fixture(&format!("goldens/{name}/encoder.safetensors"));
    let bytes = std::fs::read(&path).unwrap();
    let (_, head) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let text = &head.metadata().as_ref().unwrap()["config"];
    let config: Config = serde_json::from_str(text).unwrap();
    let named = |end: &str| tmp(&format!("{test}-{name}-{}.{end}", numbers.name()));
    let data: Vec<_> = config.tensors.iter().map(|t| values(t, config.seed)).collect();
    let tensors =
        config.tensors.iter().zip(&data).map(|(t, data)| {
            (&t.name, TensorView::new(StDtype::F32, t.shape.clone(), data).unwrap())
        });
    serialize_to_file(tensors, None, &named("safetensors")).unwrap();

    let weights = fixture(&format!("goldens/{name}/weights.safetensors"));
    let mut o = Options::new(vec![weights], numbers);
    let sides = Golden::open(&fixture(&format!("goldens/{name}/golden.safetensors"))).unwrap();
    o.scales = Some(sides.config.patch_nums.iter().map(|&side| (side, side)).collect());
    convert(&o, &Meta::default(), &named("vmt"), |_, _| {}).unwrap();
    let file = ModelFile::open(named("vmt")).unwrap();
    let model = file.model().unwrap();
    convert_encoder(&named("safetensors"), &model, numbers, &named("vme")).unwrap();
    let encoder = ModelFile::open(named("vme")).unwrap();
    Case { golden: Checkpoint::open(&path).unwrap(), config, model: file, encoder }
}

impl Case {
    fn model(&self) -> Model<'_> {
        self.model.model().unwrap()
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::parse(self.encoder.bytes()).unwrap()
    }

    /// Pictures of the golden, with their latents and tokens.
    fn pictures(&self) -> Vec<(Vec<u8>, Vec<f32>, Vec<u16>)> {
        let whole = |name: &str| self.golden.read_i64(name).unwrap();
        let n = self.golden.shape("image").unwrap()[0];
        let rgb: Vec<u8> = whole("image").into_iter().map(|v| v as u8).collect();
        let tokens: Vec<u16> = whole("tokens").into_iter().map(|v| v as u16).collect();
        let latent = self.golden.read_f32("latent").unwrap();
        let part = |i: usize, len: usize| i * len / n..(i + 1) * len / n;
        let one = |i| {
            let (a, b, c) = (rgb.len(), latent.len(), tokens.len());
            (rgb[part(i, a)].to_vec(), latent[part(i, b)].to_vec(), tokens[part(i, c)].to_vec())
        };
        (0..n).map(one).collect()
    }
}

/// Memory at an address that arenas accept.
fn ram(bytes: usize) -> Vec<u128> {
    vec![u128::MAX / 2; bytes.div_ceil(16)]
}

/// The latent, with the sign it has outside, and the tokens.
fn run<O: Ops>(case: &Case, tier: &Tier, ops: O, rgb: &[u8]) -> (Vec<f32>, Vec<u16>) {
    let (model, encoder) = (case.model(), case.encoder());
    let plan = encoder.plan(&model.shape, tier).unwrap();
    plan.verify().unwrap();
    let mut memory = ram(plan.bytes());
    let host = Host::new(ops, bytemuck::cast_slice_mut(&mut memory), &plan).unwrap();
    let mut encoding = Encoding::new(&model, &encoder, &plan, host, rgb).unwrap();
    let (mut latent, mut done) = (Vec::new(), 0);
    while let Some(progress) = encoding.step().unwrap() {
        assert!(
            progress.done - done <= plan.max_step_macs() && progress.total == plan.total_macs()
        );
        done = progress.done;
        if let Some(f) = encoding.latent().unwrap() {
            latent = f.to_vec();
        }
    }
    assert_eq!(done, plan.total_macs());
    (latent, encoding.tokens().unwrap().to_vec())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

/// Root mean square of the difference over that of the golden.
fn relative(got: &[f32], golden: &[f32]) -> f32 {
    let square = |sum: f32, v: f32| sum + v * v;
    let far = got.iter().zip(golden).map(|(a, b)| a - b).fold(0.0, square);
    (far / golden.iter().copied().fold(0.0, square)).sqrt()
}

fn bits(latent: &[f32]) -> Vec<u32> {
    latent.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn f32_is_as_near_as_the_official_run_and_has_its_tokens() {
    for name in ["dev_a", "dev_b"] {
        let case = case("f32", name, Numbers::F32);
        let tier = case.model().tier_at(0).unwrap();
        for (rgb, latent, tokens) in case.pictures() {
            let (got, found) = run(&case, &tier, Scalar, &rgb);
            let far = difference(&got, &latent);
            assert!(far <= 4.0 * case.config.f32_vs_f64, "{name}: {far}");
            assert_eq!(found, tokens, "{name}");
            assert_eq!(bits(&run(&case, &tier, Cpu::detect(), &rgb).0), bits(&got), "{name}");
        }
    }
}

#[test]
fn every_backend_strip_and_format_is_close_and_the_same_bits() {
    // In PyTorch, int8 weights alone make 0.079 of dev_a's latent and 0.036 of dev_b's.
    for (numbers, limit) in [(Numbers::F16, 0.005), (Numbers::Int8, 0.09)] {
        for name in ["dev_a", "dev_b"] {
            let case = case("formats", name, numbers);
            let tier = case.model().tier_at(0).unwrap();
            for (rgb, latent, _) in case.pictures() {
                let (got, tokens) = run(&case, &tier, Scalar, &rgb);
                let far = relative(&got, &latent);
                assert!(far < limit, "{name} {numbers:?}: {far}");
                for strip in [1, 3, 64] {
                    let mut tier = tier;
                    tier.strip = strip;
                    assert_eq!(run(&case, &tier, Scalar, &rgb), (got.clone(), tokens.clone()));
                }
                for isa in Isa::ALL {
                    if let Some(cpu) = Cpu::with(isa) {
                        let again = run(&case, &tier, cpu, &rgb);
                        assert_eq!((bits(&again.0), again.1), (bits(&got), tokens.clone()));
                    }
                }
                let mut exact = tier;
                exact.maps = Store::F32;
                assert!(relative(&run(&case, &exact, Scalar, &rgb).0, &latent) < limit);
            }
        }
    }
}

#[test]
fn masks_shrink_as_the_official_code_shrinks_them() {
    for name in ["dev_a", "dev_b"] {
        let case = case("masks", name, Numbers::F32);
        let model = case.model();
        let config = &model.shape.config;
        let read = |name: &str| -> Vec<bool> {
            case.golden.read_i64(name).unwrap().into_iter().map(|v| v != 0).collect()
        };
        let (masks, wanted) = (read("mask"), read("keep"));
        let cells = config.latent().tokens();
        assert!(masks.len() >= 20 * cells);
        for (mask, wanted) in masks.chunks(cells).zip(wanted.chunks(config.tokens())) {
            let mut tokens = vec![7; config.tokens()];
            let drawn = edit::keep(config, mask, &mut tokens).unwrap();
            let stays: Vec<bool> = tokens.iter().map(|&t| t == 7).collect();
            assert_eq!(stays, wanted, "{name}: {mask:?}");
            assert_eq!(drawn, tokens.iter().filter(|&&t| t == edit::DRAW).count());
        }
        let mut tokens = vec![7; config.tokens()];
        let short = edit::keep(config, &masks[..cells - 1], &mut tokens);
        assert_eq!(short, Err(Error::BadImage { need: cells, got: cells - 1 }));
        let few = edit::keep(config, &masks[..cells], &mut tokens[1..]);
        assert_eq!(few, Err(Error::BadTokens { need: config.tokens(), got: config.tokens() - 1 }));
    }
}

/// One case for the tests that need any: dev_a in int8.
fn dev_a() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| case("any", "dev_a", Numbers::Int8))
}

#[test]
fn the_plan_is_exact_and_the_arena_is_shared_with_the_generator() {
    const CANARY: usize = 4096;
    let case = dev_a();
    let (model, encoder) = (case.model(), case.encoder());
    let tier = model.tier_at(0).unwrap();
    let plan = encoder.plan(&model.shape, &tier).unwrap();
    let (rgb, _, _) = case.pictures().remove(0);
    let want = run(case, &tier, Scalar, &rgb).1;

    let draws = Plan::new(&model.shape, &tier).unwrap();
    let room = plan.bytes().max(draws.bytes());
    let mut memory = vec![0xA5A5_A5A5_A5A5_A5A5_A5A5_A5A5_A5A5_A5A5u128; (room + 2 * CANARY) / 16];
    let tokens = {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let host = Host::new(Scalar, &mut all[CANARY..], &plan).unwrap();
        let mut encoding = Encoding::new(&model, &encoder, &plan, host, &rgb).unwrap();
        while encoding.step().unwrap().is_some() {}
        encoding.tokens().unwrap().to_vec()
    };
    assert_eq!(tokens, want);
    let all: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    assert!(all[..CANARY].iter().all(|&b| b == 0xA5));
    assert!(all[CANARY + plan.bytes()..].iter().all(|&b| b == 0xA5));
    // No padding: it is the lower bound, and the last buffer is used. (That is the statistics, whose last row has two
    // values of as many as there are channels.)
    assert_eq!(plan.bytes(), plan.floor());
    let used = all[CANARY..CANARY + plan.bytes()].iter().rposition(|&b| b != 0xA5).unwrap() + 1;
    assert!(plan.bytes() - used < 4 * 64, "{used} of {}", plan.bytes());

    // The generator takes the arena over.
    let request = Request { tokens: Some(&tokens), ..Request::new(&model) };
    let host = Host::new(Scalar, &mut all[CANARY..], &draws).unwrap();
    let mut g = Generator::new(&model, &draws, host, request).unwrap();
    while !matches!(g.step().unwrap(), varmint::Step::Done) {}

    let mut small = ram(plan.bytes());
    let short = &mut bytemuck::cast_slice_mut::<_, u8>(&mut small)[..plan.bytes() - 1];
    let error = Host::new(Scalar, short, &plan).unwrap_err();
    assert_eq!(error, Error::ArenaTooSmall { need: plan.bytes(), got: plan.bytes() - 1 });
}

#[test]
fn plans_and_pictures_that_do_not_fit_are_refused() {
    let case = dev_a();
    let (model, encoder) = (case.model(), case.encoder());
    let tier = model.tier_at(0).unwrap();
    let plan = encoder.plan(&model.shape, &tier).unwrap();
    let draws = Plan::new(&model.shape, &tier).unwrap();
    let mut memory = ram(plan.bytes().max(draws.bytes()));
    let rgb = vec![0; 8 * 8 * 3];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let short =
        Encoding::new(&model, &encoder, &plan, Host::new(Scalar, bytes, &plan).unwrap(), &rgb[1..]);
    assert_eq!(short.unwrap_err(), Error::BadImage { need: 192, got: 191 });
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let foreign = Host::new(Scalar, bytes, &draws).unwrap();
    let error = Encoding::new(&model, &encoder, &draws, foreign, &rgb).unwrap_err();
    assert_eq!(error, Error::PlanMismatch);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let host = Host::new(Scalar, bytes, &plan).unwrap();
    let error = Generator::new(&model, &plan, host, Request::new(&model)).unwrap_err();
    assert_eq!(error, Error::NotLower);

    // An encoder of another model: other channels, or the same sizes and another codebook.
    let other = self::case("other", "dev_b", Numbers::Int8);
    assert_eq!(other.encoder().belongs_to(&model), Err(Error::WrongEncoder));
    assert_eq!(other.encoder().plan(&model.shape, &tier), Err(Error::WrongEncoder));
    let mut lie = case.encoder.bytes().to_vec();
    lie[28] ^= 1;
    let lie = sealed(lie);
    assert_eq!(Encoder::parse(lie.bytes()).unwrap().belongs_to(&model), Err(Error::WrongEncoder));
}

fn sealed(mut bytes: Vec<u8>) -> ModelFile {
    let crc = checksum(&bytes).to_le_bytes();
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    ModelFile::from_bytes(&bytes)
}

fn refusal(bytes: Vec<u8>) -> Error {
    Encoder::parse(sealed(bytes).bytes()).unwrap_err()
}

#[test]
fn files_that_lie_are_refused() {
    let file = dev_a().encoder.bytes().to_vec();
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let lie = |at: usize, bytes: &[u8]| {
        let mut all = file.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(all)
    };
    let at = |fault, at: usize| Error::File { fault, at: at as u64 };
    let len = file.len();
    assert_eq!(lie(0, b"VARMINT\0"), at(Fault::Magic, 0));
    assert_eq!(lie(8, &[2]), at(Fault::Version, 8));
    assert_eq!(lie(16, &(len as u64 + 1).to_le_bytes()), at(Fault::Truncated, len));
    assert_eq!(lie(16, &(len as u64 - 1).to_le_bytes()), at(Fault::Trailing, len - 1));
    assert_eq!(lie(24, &[33]), at(Fault::Config, 24)); // a width that no norm can divide
    assert_eq!(lie(24, &[0, 0]), at(Fault::Config, 24));
    assert_eq!(lie(26, &[0, 0]), at(Fault::Config, 26));
    assert_eq!(lie(26, &[1, 1]), at(Fault::Config, 26));
    assert_eq!(lie(SIZES_AT, &[0]), at(Fault::Config, SIZES_AT));
    assert_eq!(lie(SIZES_AT, &[9]), at(Fault::Config, SIZES_AT));
    assert_eq!(lie(SIZES_AT + 4, &[17]), at(Fault::Config, SIZES_AT + 4));
    assert_eq!(lie(SIZES_AT + 12, &[3]), at(Fault::Config, SIZES_AT + 12));
    // More of everything than the bytes hold.
    assert!(matches!(lie(SIZES_AT, &[8, 0, 0, 0, 16]), Error::File { .. }));
    assert_eq!(lie(SIZES_AT + 12, &[1]), at(Fault::Tensor, 64 + 2)); // inputs wider than stated
    assert_eq!(lie(64, &[81]), at(Fault::Tensor, 64));
    assert_eq!(lie(64 + 2, &[5]), at(Fault::Tensor, 64 + 2));
    assert_eq!(lie(64 + 3, &[1]), at(Fault::Tensor, 64 + 3));
    assert_eq!(lie(64 + 8, &[255; 4]), at(Fault::Tensor, 64 + 8));
    assert_eq!(lie(64 + 16, &(u64::MAX - 15).to_le_bytes()), at(Fault::Tensor, 64 + 16));
    assert_eq!(lie(64 + 24, &[0; 8]), at(Fault::Tensor, 64 + 24));
    assert_eq!(lie(number(64 + 16), &[0x80]), at(Fault::Weight, number(64 + 16)));
    let scale = number(64 + 24);
    assert_eq!(lie(scale, &f32::NAN.to_le_bytes()), at(Fault::Scale, scale));

    // Every truncation, with the right length and checksum; every flipped bit of the head, without.
    let step = |n: usize| if n < 8192 { 1 } else { 997 };
    let mut n = 0;
    while n < len {
        let mut cut = file[..n].to_vec();
        if n >= 64 {
            cut[16..24].copy_from_slice(&(n as u64).to_le_bytes());
            refusal(cut);
        } else {
            assert_eq!(
                Encoder::parse(ModelFile::from_bytes(&cut).bytes()).unwrap_err(),
                at(Fault::Truncated, n)
            );
        }
        n += step(n);
    }
    for bit in 0..8 * 64 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = Encoder::parse(ModelFile::from_bytes(&flipped).bytes()).map(|_| ());
        assert!(found.is_err(), "bit {bit}");
    }
    // A model is no encoder, and an encoder no model.
    assert_eq!(refusal(dev_a().model.bytes().to_vec()), at(Fault::Magic, 0));
    assert!(ModelFile::from_bytes(&file).model().is_err());
}

fn drawn(model: &Model<'_>, tier: &Tier, tokens: Option<&[u16]>, seed: u64) -> Image {
    let mut request = Request { tokens, seed, ..Request::new(model) };
    request.labels[0] = Some(3);
    request.sampling.top_k = 0;
    Engine::new(model, tier).unwrap().generate(request).unwrap()
}

/// The latent that tokens make.
fn latent_of(model: &Model<'_>, tier: &Tier, tokens: &[u16]) -> Vec<f32> {
    let plan = Plan::new(&model.shape, tier).unwrap();
    let mut arena = vec![0u128; plan.bytes() / 16];
    let host = Host::new(Cpu::detect(), bytemuck::cast_slice_mut(&mut arena), &plan).unwrap();
    let request = Request { tokens: Some(tokens), ..Request::new(model) };
    let mut g = Generator::new(model, &plan, host, request).unwrap();
    let last = model.shape.config.n_scales() - 1;
    while !matches!(g.step().unwrap(), varmint::Step::Scale(s) if s.scale == last) {}
    let n = model.shape.config.latent().tokens() * model.shape.config.cvae as usize;
    bytemuck::cast_slice::<_, f32>(g.view(varmint::Buf::FHat).unwrap())[..n].to_vec()
}

#[test]
fn what_is_kept_stays_and_the_rest_is_drawn() {
    let case = dev_a();
    let (model, encoder) = (case.model(), case.encoder());
    let tier = model.tier_at(0).unwrap();
    let config = &model.shape.config;
    let (rgb, _, _) = case.pictures().remove(0);
    let found = encode(&model, &encoder, &tier, &rgb).unwrap();
    let tokens = found.tokens.clone();
    let (plain, again) = (drawn(&model, &tier, None, 5), drawn(&model, &tier, Some(&tokens), 5));
    assert_ne!(plain, again);
    assert_eq!(again.tokens, tokens);
    assert_eq!(drawn(&model, &tier, Some(&vec![edit::DRAW; config.tokens()]), 5), plain);

    // The right half anew.
    let latent = config.latent();
    let mask: Vec<bool> =
        (0..latent.tokens()).map(|i| i % latent.w as usize * 2 < latent.w as usize).collect();
    let mut kept = tokens.clone();
    let anew = edit::keep(config, &mask, &mut kept).unwrap();
    assert!(anew > 0 && anew < kept.len());
    let edited = drawn(&model, &tier, Some(&kept), 5);
    for (i, (&kept, &token)) in kept.iter().zip(&tokens).enumerate() {
        assert!(kept == edit::DRAW || (kept, edited.tokens[i]) == (token, token), "token {i}");
    }
    assert_ne!(edited.tokens, tokens);
    // Drawn tokens are those of a seed, not leftovers.
    let all: Vec<_> = (0..4).map(|seed| drawn(&model, &tier, Some(&kept), seed).tokens).collect();
    assert!(all.iter().any(|t| *t != all[0]));

    // What stays is looked for again beside what is drawn, which comes nearer to the picture; where nothing was drawn yet,
    // and where everything stays, that finds the same.
    let mut engine = Engine::new(&model, &tier).unwrap();
    let mut request = Request { seed: 5, ..Request::new(&model) };
    request.labels[0] = Some(3);
    request.sampling.top_k = 0;
    assert_eq!(engine.edit(request, &found).unwrap(), again);
    let part = Encoded { tokens: kept.clone(), ..found.clone() };
    let followed = engine.edit(request, &part).unwrap();
    let first = config.tokens_before(1);
    assert_eq!(followed.tokens[..first], edited.tokens[..first]);
    assert_ne!(followed, edited);
    let far = |tokens: &[u16]| {
        let latent = latent_of(&model, &tier, tokens);
        let cells =
            latent.chunks(config.cvae as usize).zip(found.latent.chunks(config.cvae as usize));
        let stays = cells.zip(&mask).filter(|(_, stays)| **stays);
        stays.flat_map(|((a, b), _)| a.iter().zip(b)).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let (open, closed) = (far(&edited.tokens), far(&followed.tokens));
    assert!(closed < open, "{closed}, {open} without");

    // Before anything is drawn, it finds what the encoder found; and sizes that are wrong are refused.
    let (zeros, mut room) = (vec![0.0; found.latent.len()], vec![0.0; edit::follow_room(config)]);
    let mut of = |k: usize, wanted: &[f32], tokens: &mut [u16], less: usize| {
        let room = &mut room[less..];
        edit::follow(&model, k, (wanted, &zeros), tokens, room)
    };
    let mut one = [0];
    assert_eq!(of(0, &found.latent, &mut one, 0), Ok(()));
    assert_eq!(one[..], tokens[..1]);
    let n = found.latent.len();
    assert_eq!(
        of(0, &found.latent[1..], &mut one, 0),
        Err(Error::BadImage { need: n, got: n - 1 })
    );
    let need = edit::follow_room(config);
    assert_eq!(of(0, &found.latent, &mut one, 1), Err(Error::BadImage { need, got: need - 1 }));
    assert_eq!(of(1, &found.latent, &mut one, 0), Err(Error::BadTokens { need: 4, got: 1 }));
    assert!(of(99, &found.latent, &mut one, 0).is_err());

    // All cells stay: nothing changes. And what is no token and no wish is refused.
    let mut same = tokens.clone();
    assert_eq!(edit::keep(config, &vec![true; latent.tokens()], &mut same), Ok(0));
    assert_eq!(same, tokens);
    same[3] = 96;
    let request = Request { tokens: Some(&same), ..Request::new(&model) };
    let error = Engine::new(&model, &tier).unwrap().generate(request).unwrap_err();
    assert_eq!(error, Error::BadTokens { need: config.tokens(), got: 3 });
}

fn varmint(args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_varmint")).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_command_edits_the_default_model_and_says_what_is_wrong() {
    let path = |name: &str| fixture(name).display().to_string();
    let (model, image) = (path("emoji-64.vmt"), path("face.png"));
    let out = |name: &str| tmp(name).display().to_string();
    let edit = |more: &[&str], to: &str| {
        varmint(&[&["edit", "--model", &model, "--image", &image, "--out", to], more].concat())
    };
    let picture = |path: &str| read_png(Path::new(path)).unwrap();

    // Nothing to draw: the tokenizer's picture, as near to the original as it was trained to be.
    let (ok, text) = edit(&[], &out("same.png"));
    assert!(ok && text.contains("0 of 167 tokens drawn anew, tier full"), "{text}");
    let (face, same) = (read_png(&fixture("face.png")).unwrap(), picture(&out("same.png")));
    let squares =
        face.rgb.iter().zip(&same.rgb).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let psnr = 10.0 * (255.0 * 255.0 * face.rgb.len() as f64 / squares.sum::<f64>()).log10();
    assert!(psnr > 20.0, "{psnr:.2} dB");

    // A box, and the same as a mask: the same picture; other pixels only below it.
    let area = ["--class", "face with tongue", "--box", "0,32,64,32"];
    assert!(edit(&area, &out("box.png")).0);
    let inside = |i: usize| if i >= 64 * 32 { 255 } else { 0 };
    let rgb = (0..64 * 64).flat_map(|i| [inside(i); 3]).collect();
    let mask = Image { width: 64, height: 64, rgb, tokens: Vec::new() };
    mask.write_png(std::fs::File::create(tmp("mask.png")).unwrap()).unwrap();
    let white = out("mask.png");
    let (ok, text) = edit(&["--class", "face with tongue", "--mask", &white], &out("mask-out.png"));
    assert!(ok && text.contains("87 of 167"), "{text}");
    let (boxed, masked) = (picture(&out("box.png")), picture(&out("mask-out.png")));
    assert_eq!(boxed, masked);
    assert_ne!(boxed, same);
    // And outside of the other half.
    assert!(edit(&[&area[..2], &["--box", "0,0,64,32", "--outside"]].concat(), &out("out.png")).0);
    assert_eq!(picture(&out("out.png")), boxed);

    let said = |more: &[&str], words: &str| {
        let (ok, text) = edit(more, &out("never.png"));
        assert!(!ok && text.contains(words), "{more:?}: {text}");
    };
    said(&["--outside"], "outside of what? give --mask or --box");
    said(&["--box", "64,0,8,8"], "it begins at 64,0; the picture has 64 x 64 pixels");
    said(&["--box", "1,2,3"], "four whole numbers");
    said(&["--class", "grinning fase"], "--class");
    said(&["--encoder", &model], "E102");
    said(&["--encoder", &image], "E10");
    said(&["--mask", &model], "not a PNG picture that can be read");
    let small = Image { width: 2, height: 2, rgb: vec![0; 12], tokens: Vec::new() };
    small.write_png(std::fs::File::create(tmp("small.png")).unwrap()).unwrap();
    said(&["--mask", &out("small.png")], "2 x 2 pixels; the picture has 64 x 64");
    let (ok, text) = varmint(&[
        "edit",
        "--model",
        &path("tiny.vmt"),
        "--image",
        &image,
        "--out",
        &out("never.png"),
    ]);
    assert!(!ok && text.contains("editing needs the model's encoder"), "{text}");
    let other = path("emoji-64.vme");
    let (ok, text) = varmint(&[
        "edit",
        "--model",
        &path("tiny.vmt"),
        "--encoder",
        &other,
        "--image",
        &image,
        "--out",
        &out("never.png"),
    ]);
    assert!(!ok && text.contains("E208: the encoder belongs to another model"), "{text}");
    let (ok, text) = varmint(&[
        "encoder",
        "--vae",
        &path("pth/expected.safetensors"),
        "--model",
        &model,
        "-o",
        &out("never.vme"),
    ]);
    assert!(!ok && text.contains("no image encoder in"), "{text}");
}
