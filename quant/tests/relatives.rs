//! Relatives of VAR: their goldens, tensor by tensor and token by token, and what conversion says of them.

mod common;

use std::path::PathBuf;

use common::fixture;
use common::model::Tensors;
use common::procedural::{save, weights};
use varmint::ModelFile;
use varmint::file::{CRC_AT, checksum};
use varmint::{Cpu, Engine, Error, Fault, Model, Plan, Request, Scalar};
use varmint_quant::golden::{Golden, Tolerance};
use varmint_quant::official::Layout;
use varmint_quant::{Meta, Numbers, Options, convert};

/// A name for a test's files.
fn out(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("relatives-{name}.vmt"))
}

fn convert_tensors(
    name: &str,
    tensors: &Tensors,
    change: impl FnOnce(&mut Options),
) -> Result<ModelFile, String> {
    let mut options = Options::new(vec![save(&format!("relatives-{name}"), tensors)], Numbers::F32);
    change(&mut options);
    convert(&options, &Meta::default(), &out(name), |_, _| {}).map_err(|e| e.to_string())?;
    Ok(ModelFile::open(out(name)).unwrap())
}

fn squares(sides: impl IntoIterator<Item = usize>) -> Option<Vec<(usize, usize)>> {
    Some(sides.into_iter().map(|n| (n, n)).collect())
}

/// Converts a golden's weights to f32 and compares all that it holds.
fn golden(name: &str, change: impl FnOnce(&mut Options)) -> ModelFile {
    compare(name, &["scalar", "cpu"], change)
}

/// The same on some kernels only.
fn compare(name: &str, places: &[&str], change: impl FnOnce(&mut Options)) -> ModelFile {
    let path = fixture(&format!("goldens/{name}/golden.safetensors"));
    let golden = Golden::open(&path).unwrap();
    let map = convert_tensors(name, &weights(name), |o| {
        o.scales = squares(golden.config.patch_nums.iter().copied());
        change(o);
    })
    .unwrap();
    let model = map.model().unwrap();
    let tier = model.tier_at(0).unwrap();
    for &place in places {
        let tolerance = Tolerance::beside(&path);
        let report = match place {
            "scalar" => golden.compare(&model, &tier, Scalar, tolerance),
            _ => golden.compare(&model, &tier, Cpu::detect(), tolerance),
        };
        let rows = report.unwrap().rows;
        for row in &rows {
            assert!(row.passes(), "{name}, {place}: {row:?}");
        }
        let file = varmint_quant::checkpoint::Checkpoint::open(&path).unwrap();
        assert_eq!(rows.len(), file.names().count(), "{name}: everything is compared");
    }
    map
}

#[test]
fn mvar_is_its_reference() {
    let map = golden("mvar", |o| o.layout = Some(Layout::Mvar));
    let model = map.model().unwrap();
    let tier = model.tier_at(0).unwrap();
    assert_eq!((tier.keep.window, tier.keep.window_from), (7, 8));
    let plan = Plan::new(&model.shape, &tier).unwrap();
    assert_eq!(
        plan.cache_bytes(),
        100 * 32 * 2 * 4,
        "keys and values of one row of a block at one scale"
    );
    assert_eq!(model.shape.config.sampling.guidance, 1.4);
}

#[test]
fn flexvar_is_its_reference() {
    let map = golden("flexvar", |_| ());
    let model = map.model().unwrap();
    let c = &model.shape.config;
    assert!(c.replaces());
    assert_eq!(model.shape.decoder(0).inner, 16);
    let greedy: Vec<u16> =
        (0..12).map(|k| c.scale(k)).filter(|s| s.greedy()).map(|s| s.h).collect();
    assert_eq!(greedy, [7, 9, 11, 17]);
    assert_eq!((c.scale(10).ramp(), c.scale(11).ramp()), (9, 11));
}

#[test]
fn hmar_is_its_reference() {
    let map = golden("hmar", |_| ());
    let model = map.model().unwrap();
    assert_eq!(model.shape.trunk(0).depth, 3);
    assert_eq!(model.tier_at(0).unwrap().keep.window, 0);
}

/// What conversion answers, for a change of a golden's weights.
fn said(
    name: &str,
    from: &str,
    change: impl FnOnce(&mut Tensors),
    options: impl FnOnce(&mut Options),
) -> String {
    let mut tensors = weights(from);
    change(&mut tensors);
    convert_tensors(name, &tensors, options).map(|_| ()).unwrap_err()
}

#[test]
fn mistakes_are_told_in_the_words_of_the_file() {
    let layout = |text: &str| Some(text.parse::<Layout>().unwrap());
    assert!("vra".parse::<Layout>().unwrap_err().contains("var, mvar, flexvar, hmar"));
    for (from, asked, words) in [
        ("flexvar", "var", ["those of the layout flexvar", "not of var"]),
        ("flexvar", "mvar", ["those of the layout flexvar", "not of mvar"]),
        ("hmar", "flexvar", ["those of the layout hmar", "not of flexvar"]),
        ("mvar", "hmar", ["those of the layout var", "not of hmar"]),
    ] {
        let text = said("asked", from, |_| (), |o| o.layout = layout(asked));
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);
    let gone: [Case<'_>; 5] = [
        (
            "hmar",
            "ns_blocks.1.ffn.fc1.weight",
            "remove",
            &["`ns_blocks.1.ffn.fc1.weight` is missing", "[128, 32]"],
        ),
        ("hmar", "word_embed_bias", "remove", &["`word_embed_bias` is missing", "[32]"]),
        (
            "flexvar",
            "model.decoder.mid.1.k.weight",
            "remove",
            &["`decoder.mid.1.k.weight` is missing", "[64, 64, 1, 1]"],
        ),
        (
            "flexvar",
            "model.decoder.conv_blocks.1.res.0.nin_shortcut.bias",
            "cut",
            &["`decoder.conv_blocks.1.res.0.nin_shortcut.bias` has shape [31]", "[32]"],
        ),
        (
            "flexvar",
            "trainer.var_wo_ddp.head.bias",
            "cut",
            &["(`trainer.var_wo_ddp.`)", "`head.bias` has shape [39]", "[40]"],
        ),
    ];
    for (from, key, how, words) in gone {
        let change = |t: &mut Tensors| {
            let (dtype, shape, mut bytes) = t.remove(key).unwrap();
            if how == "cut" {
                bytes.truncate(bytes.len() - 4);
                t.insert(key.to_owned(), (dtype, vec![shape[0] - 1], bytes));
            }
        };
        let text = said("gone", from, change, |o| o.scales = squares(1..=6));
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
    // Whole parts of others.
    let mixed = |t: &mut Tensors| {
        t.retain(|k, _| k.starts_with("trainer."));
        t.extend(weights("mvar").into_iter().filter(|(k, _)| {
            k.starts_with("quantize.")
                || k.starts_with("decoder.")
                || k.starts_with("post_quant_conv.")
        }));
        let (_, shape, bytes) = t.get_mut("quantize.embedding.weight").unwrap();
        shape[0] = 40;
        bytes.truncate(4 * 40 * 8);
    };
    let text = said("pair", "flexvar", mixed, |_| ());
    assert!(
        text.contains("number of phi convolutions is 0 in the transformer, 4 in the VQVAE"),
        "{text}"
    );
    let text = said(
        "keep",
        "hmar",
        |_| (),
        |o| {
            o.scales = squares(1..=6);
            o.tiers = vec!["few:keep=50%".parse().unwrap()];
        },
    );
    assert!(text.contains("tier `few`: keep=") && text.contains("layout hmar"), "{text}");
    let text = said("first", "flexvar", |_| (), |o| o.scales = squares([2, 4]));
    assert!(text.contains("do not fit") && text.contains("1 in the first"), "{text}");
}

#[test]
fn flexvar_runs_on_any_schedule() {
    for (name, scales) in [
        ("six", squares([1, 2, 4, 6, 10, 16])),
        ("default", None),
        ("oblong", Some(vec![(1, 1), (2, 3), (4, 6)])),
        ("one", squares([1])),
    ] {
        let map = convert_tensors(name, &weights("flexvar"), |o| {
            o.scales = scales.clone();
            o.numbers = Numbers::Int8;
        })
        .unwrap();
        let model = map.model().unwrap();
        let c = &model.shape.config;
        let wanted = scales.unwrap_or_else(|| squares([1, 2, 3, 4, 5, 6, 8, 10, 13, 16]).unwrap());
        assert_eq!(
            (0..c.n_scales())
                .map(|k| (c.scale(k).h.into(), c.scale(k).w.into()))
                .collect::<Vec<_>>(),
            wanted
        );
        let image = Engine::new(&model, &model.tier_at(0).unwrap())
            .unwrap()
            .generate(Request::new(&model))
            .unwrap();
        let (h, w) = wanted[wanted.len() - 1];
        assert_eq!((image.height, image.width), (2 * h, 2 * w), "{name}");
        let plain = wanted.iter().all(|&(h, w)| h == w) && wanted.len() <= 10;
        assert_eq!((0..c.n_scales()).all(|k| !c.scale(k).greedy()), plain, "{name}");
    }
}

/// Neighbourhoods belong to the model; a tier may have others, but nothing crosses scales.
#[test]
fn tiers_of_an_mvar() {
    let map = convert_tensors("tiers", &weights("mvar"), |o| {
        o.layout = Some(Layout::Mvar);
        o.scales = squares(1..=10);
        o.tiers = ["small:tile=4", "near:window=3@5", "single:guided=8"]
            .map(|t| t.parse().unwrap())
            .to_vec();
    })
    .unwrap();
    let model = map.model().unwrap();
    let first = model.tier_at(0).unwrap().keep;
    assert_eq!(model.tier("small").unwrap().keep, first);
    assert_eq!(model.tier("single").unwrap().keep, first);
    let near = model.tier("near").unwrap().keep;
    assert_eq!(near, varmint::Keep { window: 3, window_from: 5, ..first });
    assert_eq!(first.most[0][..9], [0; 9]);
}

/// New fields that lie are refused.
#[test]
fn lies_about_the_new_fields() {
    let map = convert_tensors("lies", &weights("flexvar"), |o| {
        (o.numbers, o.scales) = (Numbers::Int8, squares([1, 2, 3]));
    })
    .unwrap();
    let section = |i: usize| {
        let at = 64 + 24 * i + 8;
        u64::from_le_bytes(map.bytes()[at..at + 8].try_into().unwrap()) as usize
    };
    let (config, decoder) = (section(0), section(2));
    for (at, value, fault) in [
        (config + 12, 17, Fault::Config),
        (config + 12, 1, Fault::Tensor), // the tensors are those of none
        (config + 64 + 4, 1, Fault::Schedule),
        (config + 64 + 6, 1, Fault::Schedule),
        (config + 64 + 8 * 3 + 5, 1, Fault::Schedule),
        (config + 64 + 8 * 3 + 7, 1, Fault::Schedule),
        (decoder + 11, 0x11, Fault::Config),
        (decoder + 10, 17, Fault::Tensor), // another shape than the tensors have
    ] {
        let mut room = vec![0u8; map.bytes().len() + 64];
        let shift = room.as_ptr().align_offset(64);
        let bytes = &mut room[shift..shift + map.bytes().len()];
        bytes.copy_from_slice(map.bytes());
        assert_ne!(bytes[at], value);
        bytes[at] = value;
        let crc = checksum(bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        match Model::parse(bytes) {
            Err(Error::File { fault: found, .. }) => assert_eq!(found, fault, "byte {at}"),
            other => panic!("byte {at} = {value}: {:?}", other.map(|_| ())),
        }
    }
}

/// The layout of VAR-d36-s, as its training script writes it.
#[test]
fn shared_modulation_is_its_reference() {
    let map = golden("shared", |_| ());
    assert_eq!(map.model().unwrap().shape.trunk(0).aln, varmint_core::Aln::Shared);
}

/// The transformer of VAR-d36-s at its width and its ten scales, with two of its blocks. Apart from the tests that run by
/// default: `cargo test -p varmint-quant --test relatives -- --ignored`.
#[test]
#[ignore = "minutes and gigabytes"]
fn d36s_is_its_reference() {
    let map = compare("d36s", &["cpu"], |_| ());
    let model = map.model().unwrap();
    let (t, c) = (model.shape.trunk(0), &model.shape.config);
    assert_eq!((t.aln, t.width, t.heads, c.tokens()), (varmint_core::Aln::Shared, 2304, 36, 2240));
    // Gigabytes.
    for end in ["vmt", "safetensors"] {
        std::fs::remove_file(out("d36s").with_extension(end)).unwrap();
    }
}

/// In int8 the first scale's logits, which no token has changed yet, are close.
#[test]
fn int8_is_close() {
    for (name, layout) in [("mvar", Some(Layout::Mvar)), ("flexvar", None), ("hmar", None)] {
        let path = fixture(&format!("goldens/{name}/golden.safetensors"));
        let golden = Golden::open(&path).unwrap();
        let map = convert_tensors(&format!("{name}-int8"), &weights(name), |o| {
            (o.numbers, o.layout) = (Numbers::Int8, layout);
            o.scales = squares(golden.config.patch_nums.iter().copied());
        })
        .unwrap();
        let model = map.model().unwrap();
        let tier = model.tier_at(0).unwrap();
        let rows = golden.compare(&model, &tier, Cpu::detect(), Tolerance::default()).unwrap().rows;
        let first = rows.iter().find(|r| r.name == "s0.logits_cfg").unwrap();
        assert!(first.relative > 0.0 && first.relative < 0.05, "{name}: {first:?}");
    }
}
