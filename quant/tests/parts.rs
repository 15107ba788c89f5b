//! A file of two transformers, two image decoders and tiers that choose: what the core reads back, what
//! the command shows, and what is refused.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::model::{Tensors, only, random, tensors};
use safetensors::tensor::{TensorView, serialize_to_file};
use varmint::ModelFile;
use varmint::plan::Buf;
use varmint::{Engine, Plan, Request};
use varmint_core::tensor::{Dtype, Role};
use varmint_core::{Model, Store};
use varmint_quant::official::{DecoderConfig, Layout, VarConfig};
use varmint_quant::quantize::decode;
use varmint_quant::{Keep, Meta, MoreDecoder, Numbers, Options, convert};

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("parts-{name}"))
}

fn save(name: &str, tensors: &Tensors) -> PathBuf {
    let path = tmp(&format!("{name}.safetensors"));
    let views =
        tensors.iter().map(|(k, (t, s, d))| (k, TensorView::new(*t, s.clone(), d).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    path
}

/// A transformer for the tokens of the golden `dev_a`.
fn trunk(depth: usize, width: usize, heads: usize) -> VarConfig {
    VarConfig {
        layout: Layout::Var,
        positions: None,
        depth,
        width,
        heads,
        head_dim: width / heads,
        mlp_hidden: 2 * width,
        vocab: 96,
        cvae: 8,
        num_scales: 4,
        tokens: 30,
        first: 1,
        tables: vec![("class_emb.weight", 11)],
        shared_aln: false,
        attn_l2_norm: true,
        scales: None,
    }
}

fn decoder(widths: &[usize]) -> DecoderConfig {
    DecoderConfig {
        cvae: 8,
        inner: 8,
        post_side: 3,
        split_qkv: false,
        mid_width: widths[widths.len() - 1],
        mid_attention: true,
        widths: widths.to_vec(),
        blocks: vec![2; widths.len()],
        attention: vec![false; widths.len()],
        out_channels: 3,
    }
}

/// The parts, in files of the test's own, and the options that put them together.
struct Parts {
    drafter: PathBuf,
    refiner: PathBuf,
    vae: PathBuf,
    narrow: PathBuf,
    out: PathBuf,
}

impl Parts {
    fn new(test: &str) -> Self {
        let name = |part: &str| format!("{test}-{part}");
        Self {
            drafter: save(&name("drafter"), &random(&trunk(8, 32, 2).keys(), 1)),
            refiner: save(&name("refiner"), &random(&trunk(2, 16, 1).keys(), 2)),
            vae: save(&name("vae"), &only(&tensors("dev_a"), "vae.", "")),
            narrow: save(&name("narrow"), &random(&decoder(&[32, 32]).keys(), 3)),
            out: tmp(&format!("{test}.vmt")),
        }
    }

    fn options(&self, numbers: Numbers, tiers: &[&str]) -> Options {
        let mut o = Options::new(vec![self.drafter.clone(), self.vae.clone()], numbers);
        o.scales = Some([1, 2, 3, 4].map(|n| (n, n)).to_vec());
        o.refiner = Some(self.refiner.clone());
        o.decoders = vec![MoreDecoder { name: "narrow".into(), file: self.narrow.clone() }];
        o.first_tier = Some("full".into());
        o.tiers = tiers.iter().map(|t| t.parse().unwrap()).collect();
        o
    }

    fn convert(&self, o: &Options) -> Result<ModelFile, String> {
        convert(o, &Meta::default(), &self.out, |_, _| {}).map_err(|e| e.to_string())?;
        Ok(ModelFile::open(&self.out).unwrap())
    }
}

const TIERS: [&str; 3] = [
    "half:blocks=4@1,blocks=2@3",
    "duet:blocks=0+3+7@1,refiner=2,blocks=1@3,cache=f16",
    "micro:blocks=2@2,decoder=narrow,tile=3,strip=2,guided=2,scratch=64",
];

#[test]
fn tiers_choose_trunks_blocks_and_decoders() {
    let parts = Parts::new("tiers");
    let map = parts.convert(&parts.options(Numbers::Int8, &TIERS)).unwrap();
    let m = map.model().unwrap();
    assert_eq!((m.shape.n_trunks(), m.shape.n_decoders(), m.shape.n_tiers()), (2, 2, 4));
    let t = m.shape.trunk(1);
    assert_eq!((t.depth, t.width, t.heads, t.hidden), (2, 16, 1, 32));
    let d = m.shape.decoder(1);
    assert_eq!((d.levels, d.blocks, d.width(0), d.width(1)), (2, 2, 32, 32));
    let row = |name: &str| {
        let t = m.tier(name).unwrap();
        ((0..4).map(|k| (t.trunk(k), t.blocks(k))).collect::<Vec<_>>(), t.decoder, t.cache)
    };
    let all = 0b1111_1111;
    let (four, two) = (0b1001_0101, 0b1000_0001);
    assert_eq!(row("full"), (vec![(0, all); 4], 0, Store::I8));
    assert_eq!(row("half"), (vec![(0, all), (0, four), (0, four), (0, two)], 0, Store::I8));
    let duet = vec![(0, all), (0, 0b1000_1001), (1, 0b11), (1, 0b1)];
    assert_eq!(row("duet"), (duet, 0, Store::F16));
    assert_eq!(row("micro"), (vec![(0, all), (0, all), (0, two), (0, two)], 1, Store::I8));
    let micro = m.tier("micro").unwrap();
    assert_eq!((micro.tile, micro.strip, micro.guided, micro.conv_scratch), (3, 2, 2, 64));
    assert_eq!(m.tier_at(0).unwrap().name(), "full");
    for name in ["full", "half", "duet", "micro"] {
        let mut engine = Engine::new(&m, &m.tier(name).unwrap()).unwrap();
        let image = engine.generate(Request::new(&m)).unwrap();
        assert_eq!((image.width, image.height), (8, 8), "{name}");
    }
}

/// The refiner rebuilds its prefix: with the drafter's weights it goes on as the drafter would have.
#[test]
fn a_refiner_like_the_drafter_changes_nothing() {
    let parts = Parts::new("same");
    for numbers in [Numbers::Int8, Numbers::F32] {
        let mut o = parts.options(numbers, &["b:refiner=1", "c:refiner=3", "d:refiner=2,guided=2"]);
        o.tiers.extend(["e:guided=2", "f:refiner=2,guided=3,tile=2"].map(|t| t.parse().unwrap()));
        o.tiers.push("g:guided=3".parse().unwrap());
        o.refiner = Some(parts.drafter.clone());
        let map = parts.convert(&o).unwrap();
        let m = map.model().unwrap();
        let image = |name: &str| {
            let mut engine = Engine::new(&m, &m.tier(name).unwrap()).unwrap();
            engine.arena().fill(0xAA);
            let mut request = Request::new(&m);
            (request.seed, request.labels[0]) = (5, Some(3));
            engine.generate(request).unwrap()
        };
        for (with, plain) in [("b", "full"), ("c", "full"), ("f", "g")] {
            assert_eq!(image(with), image(plain), "{with}");
        }
        // Without guidance after the hand-over, the row that the refiner does not run changes nothing.
        assert_eq!(image("d"), image("e"));
    }
    // The drafter's caches are gone before the refiner's come: the peak is the larger of the two.
    let map = parts.convert(&parts.options(Numbers::Int8, &["duet:refiner=2"])).unwrap();
    let m = map.model().unwrap();
    let plan = |name: &str| Plan::new(&m.shape, &m.tier(name).unwrap()).unwrap();
    let (full, duet) = (plan("full"), plan("duet"));
    duet.verify().unwrap();
    assert!(duet.bytes() <= full.bytes() && duet.total_macs() < full.total_macs());
    let (drafter, refiner) = (duet.buffer(Buf::Kv(0, 1)), duet.buffer(Buf::Kv(0, 3)));
    assert!(drafter.size > 0 && refiner.size > 0 && drafter.last < refiner.first);
    let mut engine = Engine::new(&m, &m.tier("duet").unwrap()).unwrap();
    let one = engine.generate(Request::new(&m)).unwrap();
    engine.arena().fill(0x55);
    assert_eq!(
        engine.generate(Request::new(&m)).unwrap(),
        one,
        "nothing is read before it is written"
    );
}

/// Single tensors in another format than the rest: the plan has room for the inputs of all of them.
#[test]
fn formats_may_be_mixed() {
    let parts = Parts::new("mixed");
    let run = |numbers, keep: &[&str]| {
        let mut o = parts.options(numbers, &[]);
        o.keep = keep.iter().flat_map(|k| Keep::parse(k).unwrap()).collect();
        let map = parts.convert(&o).unwrap();
        let m = map.model().unwrap();
        let image = Engine::new(&m, &m.tier_at(0).unwrap()).unwrap().generate(Request::new(&m));
        image.unwrap_or_else(|e| panic!("{numbers:?} with {keep:?}: {e}"))
    };
    run(Numbers::Int8, &["f16:head"]);
    run(Numbers::Int8, &["f32:qkv"]);
    run(Numbers::F16, &["i8wide:fc2"]);
    run(Numbers::F32, &["i8:fc1"]);
}

/// Every part is stored as it is when it stands alone, in every number format.
#[test]
fn parts_are_the_given_ones() {
    let parts = Parts::new("given");
    // The refiner as the only transformer, the narrow decoder as that of the VQVAE.
    let mut alone = random(&decoder(&[32, 32]).keys(), 3);
    let vae = only(&tensors("dev_a"), "vae.", "");
    alone.extend(vae.into_iter().filter(|(key, _)| key.starts_with("quantize.")));
    let alone = Parts {
        drafter: parts.refiner.clone(),
        vae: save("given-alone", &alone),
        out: tmp("given-alone.vmt"),
        ..Parts::new("given-2")
    };
    for numbers in [Numbers::F32, Numbers::F16, Numbers::Int8] {
        let mut o = parts.options(numbers, &TIERS);
        o.keep = Keep::parse("f16:conv.2,qkv").unwrap();
        let both = parts.convert(&o).unwrap();
        (o.refiner, o.decoders, o.tiers) = (None, Vec::new(), Vec::new());
        o.inputs = vec![alone.drafter.clone(), alone.vae.clone()];
        let one = alone.convert(&o).unwrap();
        let (both, one) = (both.model().unwrap(), one.model().unwrap());
        type Stored = Vec<(Role, usize, Dtype, Vec<f32>)>;
        let stored = |m: &Model<'_>, set: usize| -> Stored {
            let all = (0..).map_while(|i| m.tensor(i));
            all.filter(|(s, ..)| s.set == set && s.role as u16 >= 16)
                .map(|(s, dtype, w)| (s.role, s.index, dtype, decode(&w)))
                .collect()
        };
        assert!(stored(&both, 1) == stored(&one, 0), "{numbers:?}");
        let kept = stored(&both, 1).iter().filter(|t| t.2 == Dtype::F16).count();
        assert!(kept >= 4, "{numbers:?}: {kept} in f16");
        assert_eq!((both.shape.trunk(1).act, both.shape.decoder(1).act), (4, 4));
    }
    // As given, by hand: [co][ci][tap] against [co][tap][ci].
    let given = random(&decoder(&[32, 32]).keys(), 3);
    let bytes = &given["post_quant_conv.weight"].2;
    let given: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let map = parts.convert(&parts.options(Numbers::F32, &[])).unwrap();
    let m = map.model().unwrap();
    let first = (0..)
        .map_while(|i| m.tensor(i))
        .find(|(s, ..)| (s.role, s.set, s.index) == (Role::ConvWeight, 1, 0));
    for (i, v) in decode(&first.unwrap().2).iter().enumerate() {
        let (co, tap, ci) = (i / 72, i / 8 % 9, i % 8);
        assert_eq!(*v, given[(co * 8 + ci) * 9 + tap]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let parts = Parts::new("refused");
    let refuse = |change: &dyn Fn(&mut Options), words: &[&str]| {
        let mut o = parts.options(Numbers::Int8, &[]);
        change(&mut o);
        let Err(said) = parts.convert(&o) else { panic!("{words:?}: not refused") };
        assert!(words.iter().all(|w| said.contains(w)), "{words:?}: {said}");
        assert!(!parts.out.exists());
    };
    let refiner = |name: &str, change: &dyn Fn(&mut VarConfig), words: &[&str]| {
        let mut config = trunk(2, 16, 1);
        change(&mut config);
        let file = save(&format!("refused-{name}"), &random(&config.keys(), 4));
        let words = [words, &[name, "must be"]].concat();
        refuse(&|o| o.refiner = Some(file.clone()), &words);
    };
    refiner("vocab", &|c| c.vocab = 97, &["vocabulary size", "96, not 97", "drafter"]);
    refiner("cvae", &|c| c.cvae = 16, &["token width", "8, not 16"]);
    refiner("rows", &|c| c.tables[0].1 = 12, &["11 rows of class_emb", "not 12 rows"]);
    let short = VarConfig { num_scales: 3, tokens: 14, ..trunk(2, 16, 1) };
    let short = save("refused-short", &random(&short.keys(), 4));
    refuse(&|o| o.refiner = Some(short.clone()), &["refused-short", "3 scales and 14 tokens"]);

    let other = |name: &str, config: &DecoderConfig, words: &[&str]| {
        let file = save(&format!("refused-{name}"), &random(&config.keys(), 5));
        refuse(&|o| o.decoders[0].file = file.clone(), &[words, &[name]].concat());
    };
    other("odd", &decoder(&[48, 32]), &["decoder.up.0", "a multiple of 32", "found 48"]);
    other("thin", &decoder(&[12, 32]), &["decoder.up.0", "8, 16, 24 or", "found 12"]);
    let latent = DecoderConfig { cvae: 4, inner: 4, ..decoder(&[32, 32]) };
    other("latent", &latent, &["post_quant_conv.weight", "[4, 4, 3, 3]", "[4, 8, 3, 3]"]);
    refuse(
        &|o| o.decoders[0].file = parts.drafter.clone(),
        &["no image decoder", "post_quant_conv.weight"],
    );
    refuse(&|o| o.decoders[0].name = "full".into(), &["image decoder `full`", "another"]);
    let four = |o: &mut Options| {
        let named = |n: &str| MoreDecoder { name: n.into(), file: parts.narrow.clone() };
        o.decoders = ["a", "b", "c", "d"].map(named).to_vec();
    };
    refuse(&four, &["image decoders: 5", "holds 4"]);

    let tier = |text: &str, words: &[&str]| {
        refuse(&|o| o.tiers = vec![text.parse().unwrap()], words);
    };
    tier("a:blocks=4@1,blocks=0+3@2", &["tier `a`", "0+2+4+7", "0+3"]);
    tier("a:decoder=wide", &["`wide`", "full, narrow"]);
    tier("full:tile=2", &["tier `full`", "another"]);
    refuse(
        &|o| (o.refiner, o.tiers) = (None, vec!["a:refiner=2".parse().unwrap()]),
        &["tier `a`", "--refiner FILE"],
    );
    assert!("narrow".parse::<MoreDecoder>().is_err_and(|e| e.to_string().contains("NAME=FILE")));
}

#[test]
fn the_command_shows_them() {
    let parts = Parts::new("command");
    let file = |path: &Path| path.display().to_string();
    let varmint = |args: &[&str]| {
        let o = Command::new(env!("CARGO_BIN_EXE_varmint")).args(args).output().expect("runs");
        let [out, err] = [o.stdout, o.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        (o.status.success(), out, err)
    };
    let (var, vae, refiner, out) =
        (file(&parts.drafter), file(&parts.vae), file(&parts.refiner), file(&parts.out));
    let narrow = format!("narrow={}", file(&parts.narrow));
    let mut args = vec!["convert", "--var", &var, "--vae", &vae, "--scales", "1,2,3,4", "-q"];
    args.extend(["--refiner", &refiner, "--decoder", &narrow, "--first-tier", "full", "-o", &out]);
    args.extend(TIERS.iter().flat_map(|t| ["--tier", t]));
    let (good, said, err) = varmint(&args);
    assert!(
        good && said.contains("image decoder 1") && said.contains("attention 1"),
        "{said}{err}"
    );

    let (_, shown, _) = varmint(&["inspect", &out]);
    for part in [
        "trunk 1   2 blocks, width 16",
        "decoder 1 widths [32, 32]",
        "  micro: cache int8, maps f16, 2 guided scales, decoder 1, tile 3",
        "    trunk        0     0     1     1\n",
        "    blocks       8     3     2     1\n",
        "only 0+3+7 from scale 1 on",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let (_, json, _) = varmint(&["inspect", &out, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["tiers"][1]["blocks"], serde_json::json!([8, 4, 4, 2]));
    assert_eq!(json["tiers"][1]["active"][3], serde_json::json!([0, 7]));
    // A tier that a build cannot run does not hide the others.
    let (_, shown, _) = varmint(&["plan", &out]);
    for part in ["blocks        8 4 4 2\n", "tier micro", "decoder       1 of 2"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let args = ["compare", "--model", &out, "--tier", "micro", "--reference", &out, "--count", "2"];
    let (good, shown, err) = varmint(&args);
    assert!(good && shown.contains("tiers micro and full"), "{shown}{err}");
}

/// Both transformers read rows of their own in place of projections, and every tier draws what it drew.
#[test]
fn both_transformers_are_baked() {
    let parts = Parts::new("baked");
    let plain = parts.convert(&parts.options(Numbers::F32, &TIERS)).unwrap();
    let plain = ModelFile::from_bytes(plain.bytes());
    let baked = Options { bake: true, ..parts.options(Numbers::F32, &TIERS) };
    let baked = parts.convert(&baked).unwrap();
    let (plain, baked) = (plain.model().unwrap(), baked.model().unwrap());
    assert!((0..2).all(|i| baked.shape.trunk(i).aln == varmint_core::Aln::Baked));
    for tier in ["full", "half", "duet", "micro"] {
        let draw = |m: &Model<'_>| {
            let mut request = Request { seed: 3, ..Request::new(m) };
            request.labels[0] = Some(4);
            Engine::new(m, &m.tier(tier).unwrap()).unwrap().generate(request).unwrap()
        };
        assert!(draw(&plain) == draw(&baked), "{tier}");
    }
}
