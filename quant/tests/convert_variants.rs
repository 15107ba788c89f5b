//! Conversion of what the goldens do not have, and of what is wrong.

mod common;

use std::path::{Path, PathBuf};

use common::model::{Tensors, only, tensors, with_levels};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use varmint::{Engine, ModelFile};
use varmint_core::model::Ada;
use varmint_core::tensor::{Dtype as Storage, Role};
use varmint_core::{Aln, Request};
use varmint_quant::{Keep, Meta, Numbers, Options, Report, convert};

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Writes weights to a file of their own.
fn save(name: &str, tensors: &Tensors) -> PathBuf {
    let path = tmp(&format!("{name}.safetensors"));
    let views =
        tensors.iter().map(|(k, (t, s, d))| (k, TensorView::new(*t, s.clone(), d).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    path
}

fn a() -> Tensors {
    with_levels(tensors("dev_a"), "var.lvl_1L", &[1, 4, 9, 16])
}

fn put(t: &mut Tensors, key: &str, shape: &[usize], value: impl Fn(usize) -> f32) {
    let n = shape.iter().product();
    let bytes = (0..n).flat_map(|i| value(i).to_le_bytes()).collect();
    t.insert(key.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
}

fn run(
    name: &str,
    t: &Tensors,
    change: impl Fn(&mut Options, &mut Meta),
) -> Result<Report, String> {
    let mut options = Options::new(vec![save(name, t)], Numbers::F32);
    let mut meta = Meta::default();
    change(&mut options, &mut meta);
    convert(&options, &meta, &tmp(&format!("{name}.vmt")), |_, _| {}).map_err(|e| e.to_string())
}

fn good(name: &str, t: &Tensors, change: impl Fn(&mut Options, &mut Meta)) -> ModelFile {
    run(name, t, change).unwrap_or_else(|e| panic!("{name}: {e}"));
    ModelFile::open(tmp(&format!("{name}.vmt"))).unwrap()
}

#[test]
fn the_schedule_in_the_weights_is_enough() {
    let map = good("levels", &a(), |_, _| {});
    let m = map.model().unwrap();
    let c = &m.shape.config;
    let row: Vec<_> = (0..4).map(|k| (c.scale(k).h, c.scale(k).w, c.scale(k).phi)).collect();
    assert_eq!(row, [(1, 1, 0), (2, 2, 1), (3, 3, 2), (4, 4, 3)]);
    assert_eq!(m.licence(), "unknown: see the checkpoint's source");
    let e = run("nolevels", &tensors("dev_a"), |_, _| {}).unwrap_err();
    assert!(e.contains("--scales") && e.contains("30 tokens"), "{e}");
}

#[test]
fn rectangles() {
    let mut t = tensors("dev_a");
    put(&mut t, "var.pos_1LC", &[1, 21, 64], |i| i as f32);
    let sizes = vec![(1, 1), (1, 2), (2, 3), (3, 4)];
    let map = good("rectangles", &t, |o, _| o.scales = Some(sizes.clone()));
    let m = map.model().unwrap();
    assert_eq!((m.shape.config.latent().h, m.shape.config.latent().w), (3, 4));
    let wrong = vec![(1, 1), (1, 2), (2, 3), (4, 4)];
    let e = run("rectangles2", &t, |o, _| o.scales = Some(wrong.clone())).unwrap_err();
    assert!(e.contains("21 tokens"), "{e}");
}

#[test]
fn shared_modulation() {
    let mut t = a();
    t.retain(|k, _| !k.contains(".ada_lin.1") || k.contains("head_nm"));
    put(&mut t, "var.shared_ada_lin.1.weight", &[384, 64], |i| (i % 97) as f32);
    put(&mut t, "var.shared_ada_lin.1.bias", &[384], |i| i as f32);
    for b in 0..3 {
        put(&mut t, &format!("var.blocks.{b}.ada_gss"), &[1, 1, 6, 64], |i| (i + b) as f32);
    }
    let map = good("shared", &t, |_, _| {});
    let m = map.model().unwrap();
    let shared = m.trunk(0).shared_ada.unwrap();
    assert_eq!((shared.w.rows, shared.bias[383]), (384, 383.0));
    let Ada::Offsets(gss) = m.block(0, 2).ada else { panic!("no offsets") };
    assert_eq!((gss.len(), gss[5]), (384, 7.0));
    good("shared8", &t, |o, _| o.numbers = Numbers::Int8);
}

#[test]
fn plain_attention_needs_the_number_of_heads() {
    let mut t = a();
    t.retain(|k, _| !k.contains("scale_mul_1H11"));
    let map = good("plain", &t, |o, _| o.heads = Some(2));
    let m = map.model().unwrap();
    assert!(!m.shape.trunk(0).l2_norm);
    assert_eq!(m.block(0, 1).query_scale, [(0.25 / 32f64.sqrt()) as f32; 2]);
    let map = good("plain64", &t, |_, _| {});
    assert_eq!(map.model().unwrap().shape.trunk(0).heads, 1);
}

#[test]
fn one_decoder_layer_stored_otherwise() {
    let wide = |keep: &str| -> Vec<usize> {
        let keep = Keep::parse(keep).unwrap();
        let map = good("layer", &a(), |o, _| (o.numbers, o.keep) = (Numbers::Int8, keep.clone()));
        let m = map.model().unwrap();
        let tensors = (0..).map_while(|i| m.tensor(i));
        let f16 = tensors.filter(|(s, d, _)| s.role == Role::ConvWeight && *d == Storage::F16);
        f16.map(|(s, ..)| s.index).collect()
    };
    assert_eq!(wide("f16:conv.2"), [2, 2]);
    assert_eq!(wide("f16:conv.2,conv.1"), [1, 2, 2]);
    assert!(Keep::parse("f16:conv.x").is_err());
}

#[test]
fn large_query_scales_are_cut_at_100() {
    let mut t = a();
    put(&mut t, "var.blocks.0.attn.scale_mul_1H11", &[1, 2, 1, 1], |i| 4.0 + i as f32);
    let map = good("cut", &t, |_, _| {});
    let q = map.model().unwrap().block(0, 0).query_scale;
    assert!((q[0] - 54.598_15).abs() < 1e-4 && (q[1] - 100.0).abs() < 1e-4, "{q:?}");
}

#[test]
fn two_tables_with_labels_and_a_preview() {
    let mut t = a();
    put(&mut t, "var.style_emb.weight", &[3, 64], |i| i as f32);
    let meta: Meta = serde_json::from_str(
        r#"{"name": "two", "licence": "MIT", "labels": {"class": ["0","1","2","3","4","5","6","7","8","9"], "style": ["flat", "ÄÖ"]},
            "defaults": {"guidance": 2.5, "top_k": 7}, "scale_sizes": [1, [2, 2], 3, 4],
            "preview": {"weight": [[1,0,0,0,0,0,0,0],[0,1,0,0,0,0,0,0],[0,0,1,0,0,0,0,9]], "bias": [0.1,0.2,0.3]}, "more": 1}"#,
    )
    .unwrap();
    let map = good("two", &t, |o, m| {
        *m = meta.clone();
        o.sampling.top_p = Some(0.5);
    });
    let m = map.model().unwrap();
    assert_eq!(
        (m.name(), m.licence(), m.table_name(0), m.table_name(1)),
        ("two", "MIT", "class", "style")
    );
    assert_eq!(
        (m.find_label(0, "9"), m.find_label(1, "ÄÖ"), m.label(1, 2)),
        (Some(9), Some(1), None)
    );
    let s = m.shape.config.sampling;
    assert_eq!((s.guidance, s.top_k, s.top_p, s.temperature), (2.5, 7, 0.5, 1.0));
    assert_eq!((m.preview().0[23], m.preview().1), (9.0, &[0.1, 0.2, 0.3][..]));

    let e = run("few", &t, |_, m| {
        m.labels.insert("style".into(), vec!["flat".into()]);
    });
    let e = e.unwrap_err();
    assert!(e.contains("style") && e.contains("expected 2") && e.contains("found 1"), "{e}");
    let e = run("picture", &t, |_, m| {
        m.preview = meta.preview.clone();
        m.preview.as_mut().unwrap().bias.pop();
    });
    assert!(e.as_ref().is_err_and(|e| e.contains("preview") && e.contains("2 biases")), "{e:?}");
}

#[test]
fn phi_once_per_scale_and_not_at_all() {
    let phi = "vae.quantize.quant_resi.qresi_ls.";
    let rename = |to: &dyn Fn(&str) -> Option<String>| -> Tensors {
        let all = a().into_iter();
        all.filter_map(|(k, v)| match k.strip_prefix(phi) {
            Some(rest) => Some((to(rest)?, v)),
            None => Some((k, v)),
        })
        .collect()
    };
    let one = rename(&|r| Some(format!("vae.quantize.quant_resi.qresi.{}", r.strip_prefix("0.")?)));
    let map = good("one", &one, |_, _| {});
    let m = map.model().unwrap();
    assert_eq!((m.shape.config.n_phi, m.shape.config.scale(3).phi), (1, 0));
    let each = rename(&|r| Some(format!("vae.quantize.quant_resi.{r}")));
    let map = good("each", &each, |_, _| {});
    let m = map.model().unwrap();
    assert_eq!((0..4).map(|k| m.shape.config.scale(k).phi).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let map = good("none", &rename(&|_| None), |_, _| {});
    let m = map.model().unwrap();
    let w = varmint_quant::quantize::decode(&m.phi(0).w);
    // 8 x 9 x 8: the centre tap of the diagonal, nothing else.
    for (i, v) in w.iter().enumerate() {
        let (row, tap, col) = (i / 72, i / 8 % 9, i % 8);
        assert_eq!(*v, if tap == 4 && row == col { 1.0 } else { 0.0 });
    }
    assert_eq!(m.phi(0).bias, [0.0; 8]);
}

#[test]
fn mistakes_name_the_key_and_what_is_there() {
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Tensors), &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (
            "missing",
            &|t| drop(t.remove("var.blocks.1.ffn.fc1.weight")),
            &["blocks.1.ffn.fc1.weight", "[256, 64]", "missing"],
        ),
        (
            "shape",
            &|t| put(t, "vae.decoder.up.1.block.0.conv1.bias", &[31], |_| 0.0),
            &["decoder.up.1.block.0.conv1.bias", "[32]", "[31]"],
        ),
        (
            "nan",
            &|t| put(t, "var.head.bias", &[96], |i| if i == 5 { f32::NAN } else { 0.0 }),
            &["head.bias", "NaN", "position 5"],
        ),
        (
            "vocab",
            &|t| put(t, "vae.quantize.embedding.weight", &[95, 8], |_| 0.0),
            &["vocabulary", "96", "95"],
        ),
    ];
    for (name, damage, words) in cases {
        let mut t = a();
        damage(&mut t);
        let e = run(name, &t, |_, _| {}).unwrap_err();
        assert!(words.iter().all(|w| e.contains(w)), "{name}: {e}");
        assert!(!tmp(&format!("{name}.vmt")).exists(), "{name}: a file was left");
    }
    let mut t = a();
    put(&mut t, "var.word_embed.weight", &[64, 8], |_| 70_000.0);
    let e = run("large", &t, |o, _| o.numbers = Numbers::F16).unwrap_err();
    assert!(e.contains("word_embed.weight") && e.contains("70000") && e.contains("f16"), "{e}");
    good("large32", &t, |o, _| {
        o.numbers = Numbers::F16;
        o.keep = Keep::parse("f32:word").unwrap();
    });
}

#[test]
fn two_files_and_a_wrong_pair() {
    let var = save("pair-var", &only(&a(), "var.", ""));
    let vae = save("pair-vae", &only(&a(), "vae.", ""));
    let other = save("pair-other", &only(&tensors("dev_b"), "vae.", ""));
    let path = tmp("pair.vmt");
    let pair = |vae: &PathBuf| {
        let options = Options::new(vec![var.clone(), vae.clone()], Numbers::Int8);
        convert(&options, &Meta::default(), &path, |_, _| {})
    };
    pair(&vae).unwrap();
    let before = std::fs::read(&path).unwrap();
    let e = pair(&other).unwrap_err().to_string();
    assert!(e.contains("do not belong together"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "a failure must leave the old file alone");
    let left = std::fs::read_dir(tmp("")).unwrap().flatten();
    assert!(!left.into_iter().any(|f| f.file_name().to_string_lossy().starts_with("pair.vmt.")));
    // The same input gives the same bytes.
    pair(&vae).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn exceptions_from_the_number_format() {
    let keep = |text: &str| Keep::parse(text).map_err(|e| e.to_string());
    assert_eq!(keep("f16:head,Fc2").unwrap().len(), 2);
    for (text, word) in [("f16", "STORAGE:ROLE"), ("f8:head", "i8wide"), ("f16:haed", "headada")] {
        assert!(keep(text).is_err_and(|e| e.contains(word)), "{text}");
    }
    for text in ["i8rows:head", "i8:word", "i8:phi", "i8:codebook"] {
        let e = run("keep", &a(), |o, _| o.keep = keep(text).unwrap()).unwrap_err();
        assert!(e.contains("cannot be stored"), "{text}: {e}");
    }
    let r = run("keep16", &a(), |o, _| {
        o.numbers = Numbers::Int8;
        o.keep = keep("f16:fc2,head").unwrap();
        o.measure = true;
    });
    let find =
        |key: &str| r.as_ref().unwrap().tensors.iter().find(|t| t.key == key).cloned().unwrap();
    assert_eq!(find("head.weight").snr_db, Some(f64::INFINITY));
    let snr = find("blocks.0.ffn.fc1.weight").snr_db.unwrap();
    assert!((30.0..60.0).contains(&snr), "{snr}");
    // One f16 weight makes the widest input of the trunk a float.
    let map = ModelFile::open(tmp("keep16.vmt")).unwrap();
    assert_eq!(map.model().unwrap().shape.trunk(0).act, 4);
}

/// The picture of a class, seed 5.
fn drawn(map: &ModelFile, class: u32) -> Vec<u8> {
    let model = map.model().unwrap();
    let mut engine = Engine::new(&model, &model.tier_at(0).unwrap()).unwrap();
    let request =
        Request { seed: 5, labels: [Some(class), None, None, None], ..Request::new(&model) };
    engine.generate(request).unwrap().rgb
}

#[test]
fn baked_modulation() {
    let map = good("baked", &a(), |o, _| o.bake = true);
    let m = map.model().unwrap();
    let Ada::Rows(table) = m.block(0, 2).ada else { panic!("no rows") };
    assert_eq!((table.rows, table.cols, m.shape.trunk(0).aln), (11, 384, Aln::Baked));
    // The same bits as with the projection, in f32.
    let plain = good("unbaked", &a(), |_, _| {});
    assert_eq!(drawn(&map, 7), drawn(&plain, 7));
    assert_ne!(drawn(&map, 7), drawn(&map, 2));

    let few = good("few", &a(), |o, meta| {
        o.bake = true;
        o.classes = ["7", "c2-c3", "4-5"].map(str::to_owned).to_vec();
        meta.labels.insert("class".to_owned(), (0..10).map(|i| format!("c{i}")).collect());
        meta.labels.get_mut("class").unwrap()[2] = "c2-c3".to_owned();
    });
    let m = few.model().unwrap();
    let names: Vec<_> = (0..4).map(|row| m.label(0, row).unwrap()).collect();
    assert_eq!((names, m.shape.config.table(0).rows), (vec!["c7", "c2-c3", "c4", "c5"], 5));
    assert_eq!(drawn(&few, 0), drawn(&plain, 7));
    assert_eq!(drawn(&few, 1), drawn(&plain, 2));
    // Fewer classes without the tables of modulation.
    let few = good("fewer", &a(), |o, _| o.classes = vec!["9".to_owned()]);
    assert_eq!(drawn(&few, 0), drawn(&plain, 9));

    let mut two = a();
    put(&mut two, "var.style_emb.weight", &[3, 64], |i| i as f32 / 99.0);
    let e = run("baked2", &two, |o, _| o.bake = true).unwrap_err();
    assert!(e.contains("--bake") && e.contains("several tables"), "{e}");
    let e = run("baked3", &a(), |o, _| o.classes = vec!["10".to_owned()]).unwrap_err();
    assert!(e.contains("0 to 9"), "{e}");
}
