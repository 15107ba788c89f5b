//! Compares a model with goldens of the official implementation: every intermediate, tensor by tensor.
//!
//! A golden is a safetensors file whose metadata key `config` says what was run (labels, guidance, scale
//! sides); its README says how far the official f32 run is from f64, and four times that is the tolerance.

use std::collections::BTreeMap;
use std::path::Path;

use varmint_core::config::MAX_TABLES;
use varmint_core::plan::{level_maps, second_row};
use varmint_core::tensor::Layer;
use varmint_core::{
    Aln, Buf, Generator, Host, Model, Ops, Pass, Plan, Request, Sampling, Stage, Store, Tier,
};

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// What a golden was made with.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Config {
    /// Sides of the scales.
    pub patch_nums: Vec<usize>,
    /// A class per image.
    pub labels: Vec<u32>,
    /// Guidance.
    pub cfg: f32,
    /// Attention heads.
    #[serde(default)]
    pub heads: Option<usize>,
}

/// Largest differences that pass.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Of the residual stream and the logits.
    pub logits: f32,
    /// Of the latent.
    pub f_hat: f32,
    /// Of decoder stages, relative to their largest value where that is above 1.
    pub image: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { logits: 2e-5, f_hat: 4e-6, image: 4e-5 }
    }
}

impl Tolerance {
    /// Four times the `f32_vs_f64_*` values of the README beside a golden, where there is one.
    pub fn beside(golden: &Path) -> Self {
        let text = std::fs::read_to_string(golden.with_file_name("README.md")).unwrap_or_default();
        let find = |key: &str| -> Option<f32> {
            let (_, rest) = text.split_once(&format!("\"f32_vs_f64_{key}\":"))?;
            rest.split([',', '\n', '}']).next()?.trim().parse::<f32>().ok().map(|v| 4.0 * v)
        };
        let d = Self::default();
        Self {
            logits: find("logits_raw").unwrap_or(d.logits),
            f_hat: find("f_hat").unwrap_or(d.f_hat),
            image: find("image").unwrap_or(d.image),
        }
    }
}

/// How far one tensor is from its golden.
#[derive(Clone, Debug)]
pub struct Row {
    /// The golden's name.
    pub name: String,
    /// Values compared.
    pub count: usize,
    /// Largest absolute difference.
    pub max_abs: f32,
    /// Root mean square of the difference over that of the golden.
    pub relative: f64,
    /// What passes. Tokens: 0.
    pub tolerance: f32,
}

impl Row {
    /// Whether the tensor is within its tolerance.
    pub fn passes(&self) -> bool {
        self.max_abs <= self.tolerance
    }
}

/// The outcome.
#[derive(Clone, Debug)]
pub struct Report {
    /// One row per tensor, in the order of execution.
    pub rows: Vec<Row>,
    /// Share of tokens whose greedy choice, from the golden's own inputs, is the golden's.
    pub token_agreement: f64,
    /// Relative error of the teacher-forced logits.
    pub logit_error: f64,
}

/// A golden file.
pub struct Golden {
    file: Checkpoint,
    /// What it was made with.
    pub config: Config,
}

impl Golden {
    /// Opens a golden.
    ///
    /// # Errors
    /// A file that cannot be read, or without `config` in its metadata.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let bad = |why: String| Error::Option(format!("{}: {why}", path.display()));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|e| bad(format!("not a safetensors file: {e}")))?;
        let config = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get("config"))
            .ok_or_else(|| bad("no `config` in the metadata: not a golden".into()))?;
        let config =
            serde_json::from_str(config).map_err(|e| bad(format!("metadata `config`: {e}")))?;
        let file = Checkpoint::open(path).map_err(|e| bad(e.to_string()))?;
        Ok(Self { file, config })
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.file.contains(name).then(|| self.file.read_f32(name).ok()).flatten()
    }

    fn tokens(&self, name: &str) -> Option<Vec<u16>> {
        let all = self.file.read_i64(name).ok()?;
        Some(all.into_iter().map(|t| u16::try_from(t).unwrap_or(u16::MAX)).collect())
    }

    /// Runs the model with `ops` and compares everything that the golden holds.
    ///
    /// # Errors
    /// A model that does not fit the golden, or a run that fails.
    pub fn compare<O: Ops + Copy>(
        &self,
        model: &Model<'_>,
        tier: &Tier,
        ops: O,
        tolerance: Tolerance,
    ) -> Result<Report, Error> {
        let failed = |e: varmint_core::Error| Error::Option(e.to_string());
        let plan = Plan::new(&model.shape, tier).map_err(failed)?;
        let mut arena = vec![0u128; plan.bytes().div_ceil(16)];
        let mut tally = Tally { golden: self, tolerance, rows: BTreeMap::new(), order: Vec::new() };
        let batch = self.config.labels.len();
        let (mut agree, mut tokens) = (0usize, 0usize);
        for (image, &label) in self.config.labels.iter().enumerate() {
            let of_image = |all: &[u16]| -> Vec<u16> {
                let l = all.len() / batch;
                all.get(image * l..(image + 1) * l).unwrap_or(&[]).to_vec()
            };
            let mut labels = [None; MAX_TABLES];
            labels[0] = Some(label);
            let sampling =
                Sampling { guidance: self.config.cfg, top_k: 1, top_p: 0.0, temperature: 1.0 };
            // Greedy; then the tokens of the sampled run, for its image; then the forced ones.
            for run in ["", "smp", "tf"] {
                let forced = match run {
                    "" => None,
                    _ => match self.tokens(&format!("{run}.idx")) {
                        Some(all) => Some(of_image(&all)),
                        None => continue,
                    },
                };
                let request = Request { labels, seed: 0, sampling, tokens: forced.as_deref() };
                let ram: &mut [u8] = bytemuck::cast_slice_mut(&mut arena);
                let host = Host::new(ops, ram, &plan).map_err(failed)?;
                let mut g = Generator::new(model, &plan, host, request).map_err(failed)?;
                let mut watch = Watch { model, plan: &plan, image, batch, run };
                while g.stage() != Stage::Done {
                    let stage = g.stage();
                    g.step().map_err(failed)?;
                    let (a, n) = watch.see(&mut g, stage, &mut tally).map_err(failed)?;
                    agree += a;
                    tokens += n;
                }
            }
        }
        let logit_error = ["tf.logits_cond", "tf.logits_uncond"]
            .iter()
            .filter_map(|n| tally.rows.get(*n))
            .map(|d| d.relative())
            .fold(0.0, f64::max);
        let rows = tally
            .order
            .iter()
            .filter_map(|name| tally.rows.get(name).map(|d| d.row(name)))
            .collect();
        Ok(Report { rows, token_agreement: agree as f64 / tokens.max(1) as f64, logit_error })
    }
}

#[derive(Default)]
struct Difference {
    count: usize,
    max_abs: f32,
    max_golden: f32,
    error: f64,
    golden: f64,
    tolerance: f32,
    scaled: bool,
}

impl Difference {
    fn relative(&self) -> f64 {
        (self.error / self.golden.max(1e-30)).sqrt()
    }

    fn row(&self, name: &str) -> Row {
        let scale = if self.scaled { self.max_golden.max(1.0) } else { 1.0 };
        Row {
            name: name.to_owned(),
            count: self.count,
            max_abs: self.max_abs,
            relative: self.relative(),
            tolerance: self.tolerance * scale,
        }
    }
}

struct Tally<'g> {
    golden: &'g Golden,
    tolerance: Tolerance,
    rows: BTreeMap<String, Difference>,
    order: Vec<String>,
}

impl Tally<'_> {
    /// Compares `ours` with the golden's values from `at` on; does nothing where it has no such tensor.
    fn add(&mut self, name: &str, at: usize, ours: &[f32], tolerance: f32, scaled: bool) {
        let Some(all) = self.golden.floats(name) else { return };
        self.add_values(name, all.get(at..at + ours.len()), ours, tolerance, scaled);
    }

    /// As `add` for our `[H, W, C]` against image `i` of the golden's `[B, C, H, W]`.
    fn add_map(
        &mut self,
        name: &str,
        i: usize,
        c: usize,
        ours: &[f32],
        tolerance: f32,
        scaled: bool,
    ) {
        let n = ours.len() / c.max(1);
        let mut turned = vec![0.0; ours.len()];
        for (p, px) in ours.chunks_exact(c).enumerate() {
            for (ch, &v) in px.iter().enumerate() {
                turned[ch * n + p] = v;
            }
        }
        self.add(name, i * ours.len(), &turned, tolerance, scaled);
    }

    fn add_values(
        &mut self,
        name: &str,
        golden: Option<&[f32]>,
        ours: &[f32],
        tolerance: f32,
        scaled: bool,
    ) {
        if !self.rows.contains_key(name) {
            self.order.push(name.to_owned());
        }
        let d = self.rows.entry(name.to_owned()).or_default();
        d.tolerance = tolerance;
        d.scaled = scaled;
        d.count += ours.len();
        let Some(golden) = golden else {
            d.max_abs = f32::INFINITY; // the shapes differ
            return;
        };
        for (&a, &b) in ours.iter().zip(golden) {
            let e = (a - b).abs();
            d.max_abs = if e <= d.max_abs { d.max_abs } else { e };
            d.max_golden = d.max_golden.max(b.abs());
            d.error += f64::from(e) * f64::from(e);
            d.golden += f64::from(b) * f64::from(b);
        }
    }
}

/// Looks into the arena after each stage.
struct Watch<'a> {
    model: &'a Model<'a>,
    plan: &'a Plan,
    image: usize,
    batch: usize,
    run: &'static str,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn argmax(x: &[f32]) -> usize {
    (0..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

impl Watch<'_> {
    fn map(&self, bytes: &[u8], store: Store, n: usize) -> Vec<f32> {
        match store {
            Store::F32 => floats(bytes).into_iter().take(n).collect(),
            _ => bytes
                .chunks_exact(2)
                .take(n)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
        }
    }

    /// Returns how many greedy tokens agree with the golden, of how many (forced run only).
    fn see<B: varmint_core::Backend>(
        &mut self,
        g: &mut Generator<'_, B>,
        stage: Stage,
        tally: &mut Tally<'_>,
    ) -> Result<(usize, usize), varmint_core::Error> {
        let shape = &self.model.shape;
        let c = &shape.config;
        let (w, v, z) = (shape.trunk(0).width as usize, c.vocab as usize, c.cvae as usize);
        let t = tally.tolerance;
        let greedy = self.run.is_empty();
        // Conditional rows come first, then the unconditional ones.
        let row_of = |row: usize| row * self.batch + self.image;
        match stage {
            Stage::Setup { .. } if greedy => {
                let cond = floats(g.view(Buf::Cond)?);
                let mut names = vec!["class_emb_rows"];
                if shape.trunk(0).aln != Aln::Shared {
                    names.push("cond_block");
                }
                for row in 0..2 {
                    for name in &names {
                        tally.add(name, row_of(row) * w, &cond[row * w..][..w], t.logits, false);
                    }
                }
                let table = self.model.trunk(0).lvl_pos;
                let mut lvl_pos = vec![0.0; c.tokens() * w];
                for (token, row) in lvl_pos.chunks_exact_mut(w).enumerate() {
                    table.add_row(token, row);
                }
                tally.add("lvl_pos", 0, &lvl_pos, t.logits, false);
            }
            Stage::Ada { row, .. } if greedy && shape.trunk(0).aln == Aln::Shared => {
                let ada = floats(g.view(Buf::Ada)?);
                tally.add(
                    "cond_block",
                    row_of(row) * 6 * w,
                    &ada[row * 6 * w..][..6 * w],
                    t.logits,
                    false,
                );
            }
            Stage::Begin { scale, .. } if greedy => {
                let l = c.scale(scale).tokens();
                let x = floats(g.view(Buf::X)?);
                for row in 0..2 {
                    let second = second_row(shape, &self.plan.tier, 0);
                    let ours = &x[row * second * w..][..l * w];
                    tally.add(
                        &format!("s{scale}.x_in"),
                        row_of(row) * l * w,
                        ours,
                        t.logits,
                        false,
                    );
                }
            }
            Stage::Mix(tile) if greedy => {
                let l = c.scale(tile.scale).tokens();
                if tile.at + self.plan.tier.tile >= l {
                    let x = floats(g.view(Buf::X)?);
                    let second = second_row(shape, &self.plan.tier, 0);
                    let ours = &x[tile.row * second * w..][..l * w];
                    let name = format!("s{}.block{}.out", tile.scale, tile.block);
                    tally.add(&name, row_of(tile.row) * l * w, ours, t.logits, false);
                }
            }
            Stage::Head { scale, at } => {
                let l = c.scale(scale).tokens();
                let n = (l - at).min(varmint_core::stage::HEAD_TILE);
                let all = floats(g.view(Buf::Logits)?);
                let mut agree = 0;
                for row in 0..2 {
                    let ours = &all[row * varmint_core::stage::HEAD_TILE * v..][..n * v];
                    if greedy {
                        let from = (row_of(row) * l + at) * v;
                        tally.add(&format!("s{scale}.logits_raw"), from, ours, t.logits, false);
                    } else if self.run == "tf" {
                        let name = if row == 0 { "tf.logits_cond" } else { "tf.logits_uncond" };
                        let from = (self.image * c.tokens() + c.tokens_before(scale) + at) * v;
                        tally.add(name, from, ours, t.logits, false);
                        if row == 0 {
                            let golden = tally.golden.floats(name).unwrap_or_default();
                            let golden = golden.get(from..from + n * v).unwrap_or(&[]);
                            let pairs = ours.chunks_exact(v).zip(golden.chunks_exact(v));
                            agree = pairs.filter(|(a, b)| argmax(a) == argmax(b)).count();
                        }
                    }
                }
                return Ok(if self.run == "tf" { (agree, n) } else { (0, 0) });
            }
            Stage::Draw { scale, at } if greedy => {
                let l = c.scale(scale).tokens();
                let n = (l - at).min(varmint_core::stage::HEAD_TILE);
                let all = floats(g.view(Buf::Logits)?);
                let from = (self.image * l + at) * v;
                tally.add(
                    &format!("s{scale}.logits_cfg"),
                    from,
                    &all[..n * v],
                    t.logits * (1.0 + 2.0 * tally.golden.config.cfg),
                    false,
                );
                let name = format!("s{scale}.idx");
                if let Some(golden) = tally.golden.tokens(&name) {
                    let first = self.image * l + at;
                    let golden: Vec<f32> =
                        golden.iter().skip(first).take(n).map(|&t| f32::from(t)).collect();
                    let ours = g.tokens()?[c.tokens_before(scale) + at..][..n].to_vec();
                    let ours: Vec<f32> = ours.into_iter().map(f32::from).collect();
                    tally.add_values(&name, Some(&golden), &ours, 0.0, false);
                }
            }
            Stage::Fold { scale } => {
                let n = c.latent().tokens() * z;
                let f_hat = floats(g.view(Buf::FHat)?);
                let last = scale + 1 == c.n_scales();
                if greedy {
                    tally.add_map(
                        &format!("s{scale}.f_hat"),
                        self.image,
                        z,
                        &f_hat[..n],
                        t.f_hat,
                        false,
                    );
                } else if last {
                    tally.add_map(
                        &format!("{}.f_hat", self.run),
                        self.image,
                        z,
                        &f_hat[..n],
                        t.f_hat,
                        false,
                    );
                }
                if !last {
                    let l = c.scale(scale + 1).tokens();
                    let next = floats(g.view(Buf::Next)?);
                    if greedy {
                        tally.add_map(
                            &format!("s{scale}.next"),
                            self.image,
                            z,
                            &next[..l * z],
                            t.f_hat,
                            false,
                        );
                    } else {
                        let first = c.scale(0).tokens();
                        let per = c.tokens() - first;
                        let from = (self.image * per + c.tokens_before(scale + 1) - first) * z;
                        tally.add(
                            &format!("{}.x_BLCv", self.run),
                            from,
                            &next[..l * z],
                            t.f_hat,
                            false,
                        );
                    }
                }
            }
            Stage::Decode { layer, pass, y } => self.see_decoder(g, (layer, pass, y), tally)?,
            _ => {}
        }
        Ok((0, 0))
    }

    fn see_decoder<B: varmint_core::Backend>(
        &self,
        g: &mut Generator<'_, B>,
        (at, pass, y): (usize, Pass, usize),
        tally: &mut Tally<'_>,
    ) -> Result<(), varmint_core::Error> {
        let (shape, tier) = (&self.model.shape, &self.plan.tier);
        let d = shape.decoder(tier.decoder);
        let z = shape.config.cvae as usize;
        let (layer, level) = d.layer(z, at);
        let (image_h, image_w) = g.size();
        let t = tally.tolerance.image;
        let (c, last) = match layer {
            Layer::Conv { cout, .. } => (cout, Pass::First),
            Layer::Res { cout, .. } => (cout, Pass::Second),
            Layer::Attention { c } => (c, Pass::Second),
            Layer::Up { c } => (c, Pass::First),
            Layer::Out { .. } => (3, Pass::First),
        };
        let out_level = if matches!(layer, Layer::Up { .. }) { level - 1 } else { level };
        let (h, w) = (image_h >> out_level, image_w >> out_level);
        if pass != last {
            return Ok(());
        }
        if matches!(layer, Layer::Out { .. }) {
            let n = tier.strip.min(h - y) * w;
            let raw = floats(g.view(Buf::OutRows)?);
            let clamped = |v: &f32| v.clamp(-1.0, 1.0);
            let names: &[(&str, bool)] = match self.run {
                "" => &[("dec.out_preclamp", false), ("image", true)],
                "smp" => &[("smp.image", true)],
                _ => &[("tf.image_pm1", false)],
            };
            for (name, unit) in names {
                for ch in 0..3 {
                    let ours: Vec<f32> = raw[..n * 3]
                        .iter()
                        .skip(ch)
                        .step_by(3)
                        .map(|v| match (*name, unit) {
                            ("dec.out_preclamp", _) => *v,
                            (_, true) => (clamped(v) + 1.0) * 0.5,
                            _ => clamped(v),
                        })
                        .collect();
                    let from = ((self.image * 3 + ch) * h + y) * w;
                    tally.add(name, from, &ours, t, true);
                }
            }
            return Ok(());
        }
        if !self.run.is_empty() || y + tier.strip < h {
            return Ok(());
        }
        let bytes = g.view(level_maps(shape, tier, at).1)?;
        let ours = self.map(bytes, tier.maps, h * w * c);
        tally.add_map(&layer_name(shape, tier, at), self.image, c, &ours, t, true);
        Ok(())
    }
}

/// The golden's name of a decoder layer.
fn layer_name(shape: &varmint_core::Shape, tier: &Tier, at: usize) -> String {
    let d = shape.decoder(tier.decoder);
    let z = shape.config.cvae as usize;
    if let Some(name) =
        ["post_quant_conv", "conv_in", "mid.block_1", "mid.attn_1", "mid.block_2"].get(at)
    {
        return format!("dec.{name}");
    }
    let (layer, level) = d.layer(z, at);
    let same = |l: Layer| std::mem::discriminant(&l) == std::mem::discriminant(&layer);
    let before = (5..at).map(|i| d.layer(z, i)).filter(|&(l, lv)| lv == level && same(l)).count();
    match layer {
        Layer::Res { .. } => format!("dec.up.{level}.block.{before}"),
        Layer::Attention { .. } => format!("dec.up.{level}.attn.{before}"),
        _ => format!("dec.up.{level}.upsample"),
    }
}
