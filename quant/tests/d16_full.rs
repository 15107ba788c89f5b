//! The official implementation at the real size of VAR-d16. Minutes and gigabytes, so not part of the tests that run by
//! default:
//!
//!     cargo test -p varmint-quant --test d16_full -- --ignored --nocapture

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::fixture;
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use varmint::stage::HEAD_TILE;
use varmint::{
    Buf, Cpu, Generator, Host, Model, ModelFile, Plan, Request, Sampling, Stage, Step, plan,
};
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::{Meta, Numbers, Options, convert};

/// Four times what f32 and f64 differ by in the official run; of the residual stream as of the logits.
const LOGITS: f32 = 4.0 * 6.7e-6;
const IMAGE: f32 = 4.0 * 3.9e-6;
const GUIDANCE: f32 = 4.0;
const LABEL: u32 = 207;

#[derive(serde::Deserialize)]
struct Manifest {
    config: Config,
    tensors: Vec<Recipe>,
}

#[derive(serde::Deserialize)]
struct Config {
    seed: u64,
}

#[derive(serde::Deserialize)]
struct Recipe {
    name: String,
    shape: Vec<usize>,
    center: f32,
    exp: i32,
}

impl Recipe {
    /// The recipe of the README beside the golden.
    fn values(&self, seed: u64) -> Vec<u8> {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let hash = self.name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
        });
        let key = hash ^ seed.wrapping_mul(STEP);
        let n: usize = self.shape.iter().product();
        let unit = 2f32.powi(self.exp);
        let value = |i: usize| {
            let mut z = key.wrapping_add((i as u64 + 1).wrapping_mul(STEP));
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let m: i32 = z.to_le_bytes()[..4].iter().map(|&b| i32::from(b)).sum();
            f16::from_f32(self.center + (m - 510) as f32 * unit)
        };
        let mut all: Vec<f16> = (0..n).map(value).collect();
        let odd = self.name.split('.').nth(2).and_then(|b| b.parse::<u32>().ok());
        if self.name.ends_with("scale_mul_1H11") && odd.is_some_and(|b| b % 2 == 1) {
            all[n - 1] = f16::from_f32(4.75);
        }
        all.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

fn weights(to: &Path) {
    let manifest = std::fs::read(fixture("goldens/d16_full/manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let seed = manifest.config.seed;
    let bytes: BTreeMap<&str, Vec<u8>> =
        manifest.tensors.iter().map(|r| (r.name.as_str(), r.values(seed))).collect();
    let view = |r: &Recipe| TensorView::new(Dtype::F16, r.shape.clone(), &bytes[r.name.as_str()]);
    let views = manifest.tensors.iter().map(|r| (r.name.as_str(), view(r).unwrap()));
    safetensors::serialize_to_file(views, None, to).unwrap();
}

/// What was compared: name, largest difference, its limit; and the error and the size of the raw logits, squared.
#[derive(Default)]
struct Seen {
    rows: Vec<(String, f32, f32)>,
    error: f64,
    size: f64,
    agree: usize,
    draws: usize,
}

impl Seen {
    fn add(&mut self, name: String, ours: &[f32], golden: &[f32], limit: f32) {
        assert_eq!(ours.len(), golden.len(), "{name}");
        let off = ours.iter().zip(golden).map(|(a, b)| (a - b).abs());
        let most = off.fold(0.0, |m: f32, d| if d <= m { m } else { d });
        if name.ends_with("logits_raw") {
            self.error +=
                ours.iter().zip(golden).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            self.size += golden.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        }
        if name.ends_with("logits_cfg") {
            self.agree += usize::from(argmax(ours) == argmax(golden));
            self.draws += 1;
        }
        self.rows.push((name, most, limit));
    }
}

fn argmax(x: &[f32]) -> usize {
    (0..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// `[H, W, C]` as `[C, H, W]`.
fn planes(x: &[f32], c: usize) -> Vec<f32> {
    (0..c).flat_map(|ch| x.iter().skip(ch).step_by(c).copied()).collect()
}

fn compare(model: &Model<'_>) -> Seen {
    let golden = Checkpoint::open(fixture("goldens/d16_full/golden.safetensors")).unwrap();
    let want = |name: &str| golden.read_f32(name).unwrap();
    let whole = |name: &str| golden.read_i64(name).unwrap();
    let idx: Vec<u16> = whole("idx").iter().map(|&t| t as u16).collect();
    let tier = model.tier_at(0).unwrap();
    let plan = Plan::new(&model.shape, &tier).unwrap();
    let mut arena = vec![0u128; plan.bytes().div_ceil(16)];
    let host = Host::new(Cpu::detect(), bytemuck::cast_slice_mut(&mut arena), &plan).unwrap();
    let mut request = Request::new(model);
    request.labels[0] = Some(LABEL);
    request.sampling = Sampling { guidance: GUIDANCE, top_k: 1, top_p: 0.0, temperature: 1.0 };
    request.tokens = Some(&idx);
    let mut g = Generator::new(model, &plan, host, request).unwrap();
    let c = &model.shape.config;
    let (w, v) = (model.shape.trunk(0).width as usize, c.vocab as usize);
    let second = plan::second_row(&model.shape, &tier, 0);
    let (mut seen, mut image) = (Seen::default(), Vec::new());
    loop {
        let stage = g.stage();
        if let Step::Done = g.step().unwrap() {
            break;
        }
        let kept = |k: usize| whole(&format!("s{k}.tokens")).into_iter().map(|t| t as usize);
        // A row of n values of a stored token: the golden's position, and ours in the scale.
        let row = |name: &str, of: usize, n: usize| want(name)[of * n..][..n].to_vec();
        match stage {
            Stage::Begin { scale, .. } => {
                let x = floats(g.view(Buf::X).unwrap());
                let name = format!("s{scale}.x_in.rows");
                let all = kept(scale).count();
                for (i, t) in kept(scale).enumerate() {
                    for r in 0..2 {
                        let ours = &x[(r * second + t) * w..][..w];
                        let what = format!("s{scale}, token {t}, row {r}: x_in");
                        seen.add(what, ours, &row(&name, r * all + i, w), LOGITS);
                    }
                }
            }
            Stage::Mix(tile) if matches!(tile.block, 0 | 15) => {
                let x = floats(g.view(Buf::X).unwrap());
                let (k, b) = (tile.scale, tile.block);
                let name = format!("s{k}.block{b}.out.rows");
                let all = kept(k).count();
                for (i, t) in
                    kept(k).enumerate().filter(|(_, t)| (tile.at..tile.at + tier.tile).contains(t))
                {
                    let ours = &x[(tile.row * second + t) * w..][..w];
                    let what = format!("s{k}, token {t}, row {}: block {b}", tile.row);
                    seen.add(what, ours, &row(&name, tile.row * all + i, w), LOGITS);
                }
            }
            Stage::Head { scale, at } | Stage::Draw { scale, at } => {
                let raw = matches!(stage, Stage::Head { .. });
                let logits = floats(g.view(Buf::Logits).unwrap());
                let (kind, limit) = if raw {
                    ("logits_raw", LOGITS)
                } else {
                    ("logits_cfg", LOGITS * (1.0 + 2.0 * GUIDANCE))
                };
                let name = format!("s{scale}.{kind}.rows");
                let all = kept(scale).count();
                for (i, t) in
                    kept(scale).enumerate().filter(|(_, t)| (at..at + HEAD_TILE).contains(t))
                {
                    for r in 0..if raw { 2 } else { 1 } {
                        let ours = &logits[(r * HEAD_TILE + t - at) * v..][..v];
                        let what = format!("s{scale}, token {t}, row {r}: {kind}");
                        seen.add(what, ours, &row(&name, r * all + i, v), limit);
                    }
                }
            }
            Stage::Fold { scale } if matches!(scale, 4 | 8 | 9) => {
                let n = c.latent().tokens() * c.cvae as usize;
                let ours = planes(&floats(g.view(Buf::FHat).unwrap())[..n], c.cvae as usize);
                let name = if scale == 9 { "f_hat".to_owned() } else { format!("s{scale}.f_hat") };
                seen.add(name.clone(), &ours, &want(&name), LOGITS);
            }
            Stage::Decode { y, .. } => {
                // The last layer's rows, before they become bytes.
                let next = stage.next(&model.shape, &tier);
                let out = matches!(next, Stage::Done) || y + tier.strip < 256;
                let last = matches!(stage, Stage::Decode { layer, .. } if layer + 1 == model.shape.decoder(0).n_layers());
                let first = matches!(stage, Stage::Decode { pass: varmint::Pass::First, .. });
                if out && last && first {
                    let n = tier.strip.min(256 - y) * 256 * 3;
                    image.extend_from_slice(&floats(g.view(Buf::OutRows).unwrap())[..n]);
                }
            }
            _ => {}
        }
    }
    assert_eq!(image.len(), 256 * 256 * 3);
    let all = planes(&image, 3);
    let rows = |y: usize| (0..3).map(move |ch| (ch * 256 + y) * 256);
    let wanted = want("dec.out_preclamp_rows");
    for i in 0..8 {
        let ours: Vec<f32> = rows(32 * i).flat_map(|at| all[at..at + 256].to_vec()).collect();
        let golden: Vec<f32> =
            (0..3).flat_map(|ch| wanted[(ch * 8 + i) * 256..][..256].to_vec()).collect();
        seen.add(format!("row {} before the clamp", 32 * i), &ours, &golden, IMAGE);
    }
    let unit: Vec<f32> = all.iter().map(|v| (v.clamp(-1.0, 1.0) + 1.0) * 0.5).collect();
    let crop: Vec<f32> = (0..3)
        .flat_map(|ch| (96..160).map(move |y| (ch * 256 + y) * 256 + 96))
        .flat_map(|at| unit[at..at + 64].to_vec())
        .collect();
    seen.add("image, crop".to_owned(), &crop, &want("image_crop"), IMAGE);
    seen.add("image".to_owned(), &unit, &want("image_f16"), 3e-4);
    seen
}

#[test]
#[ignore = "minutes and gigabytes"]
fn the_official_implementation_at_full_size() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let from = folder.path().join("weights.safetensors");
    weights(&from);
    for numbers in [Numbers::F32, Numbers::Int8, Numbers::Int4] {
        let to = folder.path().join("d16.vmt");
        let mut options = Options::new(vec![from.clone()], numbers);
        options.scales = Some([1, 2, 3, 4, 5, 6, 8, 10, 13, 16].map(|s| (s, s)).to_vec());
        convert(&options, &Meta::default(), &to, |_, _| {}).unwrap();
        let file = ModelFile::open(&to).unwrap();
        let seen = compare(&file.model().unwrap());
        let relative = (seen.error / seen.size).sqrt();
        let (agree, draws, rows) = (seen.agree, seen.draws, seen.rows.len());
        println!(
            "{}: {rows} comparisons; raw logits {relative:.2e} (relative, rms), greedy tokens {agree} of {draws}",
            numbers.name()
        );
        let mut worst: BTreeMap<&str, (f32, f32)> = BTreeMap::new();
        for (name, off, limit) in &seen.rows {
            let kind = name.rsplit(": ").next().unwrap_or(name);
            let w = worst.entry(kind).or_insert((0.0, *limit));
            w.0 = w.0.max(*off);
        }
        for (kind, (off, limit)) in worst {
            println!("    {kind:28} {off:9.2e}   f32 is held to {limit:.2e}");
        }
        if numbers == Numbers::F32 {
            let wrong: Vec<_> = seen.rows.iter().filter(|r| r.1.is_nan() || r.1 > r.2).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
            assert_eq!(agree, draws);
        } else {
            assert!(relative < if numbers == Numbers::Int8 { 3e-2 } else { 0.2 });
        }
    }
}
