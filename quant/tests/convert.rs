//! Conversion: what is read back through the core equals the source, in every number format.

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fixture;
use common::model::golden;
use varmint::ModelFile;
use varmint_core::model::{Ada, LayerWeights, Linear};
use varmint_core::tensor::{Data, Dtype, Layer, Matrix, Role, Spec};
use varmint_core::{Model, Store};
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::quantize::{decode, encode};
use varmint_quant::{Meta, Numbers, Options, convert};

fn out(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn converted(golden: &str, numbers: Numbers) -> ModelFile {
    // Tests run side by side: each conversion has a file of its own.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = out(&format!("{golden}-{}-{n}.vmt", numbers.name()));
    let weights = fixture(&format!("goldens/{golden}/weights.safetensors"));
    convert(&Options::new(vec![weights], numbers), &Meta::default(), &path, |_, _| {}).unwrap();
    ModelFile::open(&path).unwrap()
}

/// A golden's weights, and how far a stored value may be from them.
struct Source(Checkpoint, Numbers);

impl Source {
    fn get(&self, key: &str) -> Vec<f32> {
        self.0.read_f32(key).unwrap_or_else(|e| panic!("{e}"))
    }

    /// f32 and f16 files hold the values themselves (those of the goldens are all f16 numbers);
    /// int8 is within half a step of each row.
    fn matrix(&self, m: &Matrix<'_>, key: &str, wanted: &[f32]) {
        let got = decode(m);
        assert_eq!((got.len(), m.rows * m.taps * m.cols), (wanted.len(), wanted.len()), "{key}");
        let width = m.taps * m.cols;
        let float = matches!(m.data, Data::F32(_) | Data::F16(_));
        assert!(float || self.1 == Numbers::Int8, "{key}");
        for (r, (w, g)) in wanted.chunks(width).zip(got.chunks(width)).enumerate() {
            let largest = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let step = if float { 0.0 } else { largest / 127.0 * 0.5001 };
            for (a, b) in w.iter().zip(g) {
                assert!((a - b).abs() <= step, "{key} row {r}: {a} became {b}");
            }
        }
    }

    fn linear(&self, l: &Linear<'_>, key: &str) {
        self.matrix(&l.w, key, &self.get(&format!("{key}.weight")));
        assert_eq!(l.bias, self.get(&format!("{key}.bias")), "{key}");
    }

    /// PyTorch's [co][ci][tap] against our [co][tap][ci], by plain indexing.
    fn conv(&self, l: &Linear<'_>, key: &str) {
        let (w, m) = (self.get(&format!("{key}.weight")), l.w);
        let mut wanted = Vec::new();
        for co in 0..m.rows {
            for tap in 0..m.taps {
                for ci in 0..m.cols {
                    wanted.push(w[(co * m.cols + ci) * m.taps + tap]);
                }
            }
        }
        self.matrix(&m, key, &wanted);
        assert_eq!(l.bias, self.get(&format!("{key}.bias")), "{key}");
    }

    fn norm(&self, n: &[f32], key: &str) {
        let wanted = [self.get(&format!("{key}.weight")), self.get(&format!("{key}.bias"))];
        assert_eq!(n, wanted.concat(), "{key}");
    }
}

fn check_trunk(s: &Source, m: &Model<'_>) {
    let (c, t) = (&m.shape.config, m.shape.trunk(0));
    let w = m.trunk(0);
    s.linear(&w.word, "var.word_embed");
    s.linear(&w.head, "var.head");
    s.linear(&w.head_ada, "var.head_nm.ada_lin.1");
    s.matrix(&w.pos_start, "pos_start", &s.get("var.pos_start"));
    s.matrix(&m.table(0, 0), "class_emb", &s.get("var.class_emb.weight"));
    assert!(w.head_gain.iter().all(|g| *g == 1.0) && w.shared_ada.is_none());
    let (levels, mut wanted) = (s.get("var.lvl_embed.weight"), s.get("var.pos_1LC"));
    let width = t.width as usize;
    for k in 0..c.n_scales() {
        for token in c.tokens_before(k)..c.tokens_before(k) + c.scale(k).tokens() {
            for i in 0..width {
                wanted[token * width + i] += levels[k * width + i];
            }
        }
    }
    if s.1 == Numbers::F32 {
        s.matrix(&w.lvl_pos, "lvl_pos", &wanted);
    } else {
        let f16 = |v: &f32| half::f16::from_f32(*v).to_f32();
        s.matrix(&w.lvl_pos, "lvl_pos", &wanted.iter().map(f16).collect::<Vec<_>>());
    }
    for b in 0..t.depth as usize {
        let (w, key) = (m.block(0, b), format!("var.blocks.{b}"));
        s.matrix(&w.qkv.w, &key, &s.get(&format!("{key}.attn.mat_qkv.weight")));
        let (q, v) = (format!("{key}.attn.q_bias"), format!("{key}.attn.v_bias"));
        assert_eq!(w.qkv.bias, [s.get(&q), vec![0.0; width], s.get(&v)].concat());
        s.linear(&w.proj, &format!("{key}.attn.proj"));
        s.linear(&w.fc1, &format!("{key}.ffn.fc1"));
        s.linear(&w.fc2, &format!("{key}.ffn.fc2"));
        let Ada::Own(ada) = w.ada else { panic!("{key}: no ada_lin") };
        s.linear(&ada, &format!("{key}.ada_lin.1"));
        assert_eq!(w.gain, vec![1.0; 2 * width]);
        let logs = s.get(&format!("{key}.attn.scale_mul_1H11"));
        assert_eq!(w.query_scale.len(), t.heads as usize);
        for (got, log) in w.query_scale.iter().zip(logs) {
            let wanted = log.min(100f32.ln()).exp();
            assert!((got - wanted).abs() <= 2e-7 * wanted, "{key}: {got} for {wanted}");
        }
    }
}

fn check_decoder(s: &Source, m: &Model<'_>) {
    let d = m.shape.decoder(0);
    let mut keys = vec!["vae.post_quant_conv".to_owned(), "vae.decoder.conv_in".to_owned()];
    for name in ["mid.block_1", "mid.attn_1", "mid.block_2"] {
        keys.push(format!("vae.decoder.{name}"));
    }
    for i in (0..d.levels).rev() {
        for j in 0..d.blocks {
            keys.push(format!("vae.decoder.up.{i}.block.{j}"));
            if d.attention >> i & 1 == 1 {
                keys.push(format!("vae.decoder.up.{i}.attn.{j}"));
            }
        }
        if i > 0 {
            keys.push(format!("vae.decoder.up.{i}.upsample.conv"));
        }
    }
    keys.push("vae.decoder".to_owned());
    assert_eq!(keys.len(), d.n_layers());
    for (at, key) in keys.iter().enumerate() {
        match m.layer(0, at) {
            (Layer::Conv { .. } | Layer::Up { .. }, _, LayerWeights::Conv(l)) => s.conv(&l, key),
            (_, _, LayerWeights::Res { norm1, conv1, norm2, conv2, shortcut }) => {
                s.norm(norm1, &format!("{key}.norm1"));
                s.conv(&conv1, &format!("{key}.conv1"));
                s.norm(norm2, &format!("{key}.norm2"));
                s.conv(&conv2, &format!("{key}.conv2"));
                let stored = s.0.contains(&format!("{key}.nin_shortcut.weight"));
                assert_eq!(shortcut.is_some(), stored, "{key}");
                if let Some(l) = shortcut {
                    s.conv(&l, &format!("{key}.nin_shortcut"));
                }
            }
            (_, _, LayerWeights::Attention { norm, qkv, proj }) => {
                s.norm(norm, &format!("{key}.norm"));
                s.conv(&qkv, &format!("{key}.qkv"));
                s.conv(&proj, &format!("{key}.proj_out"));
            }
            (_, _, LayerWeights::Out { norm, conv }) => {
                s.norm(norm, &format!("{key}.norm_out"));
                s.conv(&conv, &format!("{key}.conv_out"));
            }
            (layer, ..) => panic!("{key}: {layer:?} with the weights of another layer"),
        }
    }
}

#[test]
fn goldens_come_back_in_every_format() {
    for name in ["dev_a", "dev_b"] {
        for numbers in [Numbers::F32, Numbers::F16, Numbers::Int8] {
            let map = converted(name, numbers);
            let model = map.model().unwrap();
            let s = Source(golden(name), numbers);
            s.matrix(&model.codebook(), "codebook", &s.get("vae.quantize.embedding.weight"));
            for j in 0..model.shape.config.n_phi as usize {
                s.conv(&model.phi(j), &format!("vae.quantize.quant_resi.qresi_ls.{j}"));
            }
            let (weight, bias) = model.preview();
            assert!(weight.iter().all(|v| *v == 0.0) && bias == [0.5; 3]);
            check_trunk(&s, &model);
            check_decoder(&s, &model);
        }
    }
}

#[test]
fn storage_and_tier_follow_the_number_format() {
    let map = converted("dev_a", Numbers::Int8);
    let m = map.model().unwrap();
    let mut seen = Vec::new();
    for i in 0.. {
        let Some((spec, dtype, _)) = m.tensor(i) else { break };
        seen.push((spec.role, spec.index, dtype));
    }
    let all = |role, wanted| seen.iter().filter(|s| s.0 == role).all(|s| s.2 == wanted);
    for role in [Role::QkvWeight, Role::ProjWeight, Role::Fc1Weight] {
        assert!(all(role, Dtype::I8), "{role:?}");
    }
    let wide = [Role::Fc2Weight, Role::AdaWeight, Role::HeadAdaWeight, Role::HeadWeight];
    assert!(wide.into_iter().all(|role| all(role, Dtype::I8Wide)));
    let half = [Role::WordWeight, Role::PhiWeight, Role::Codebook, Role::LvlPos, Role::CondTable];
    assert!(half.into_iter().all(|role| all(role, Dtype::F16)), "11 classes: too few for int8");
    let last = m.shape.decoder(0).n_layers() - 1;
    for (role, index, dtype) in &seen {
        if *role == Role::ConvWeight {
            let edge = [0, 1, last - 1, last].contains(index);
            assert_eq!(*dtype, if edge { Dtype::I8Wide } else { Dtype::I8 }, "layer {index}");
        }
    }
    assert_eq!((m.shape.trunk(0).act, m.shape.decoder(0).act), (2, 2));
    let t = m.tier("int8").unwrap();
    assert_eq!((t.cache, t.maps, t.guided, t.tile, t.strip), (Store::I8, Store::F16, 4, 16, 8));
    assert_eq!((0..4).map(|k| t.blocks(k)).collect::<Vec<_>>(), [7; 4]);
    let map = converted("dev_a", Numbers::F16);
    let m = map.model().unwrap();
    assert_eq!((m.shape.trunk(0).act, m.shape.decoder(0).act), (4, 4));
    let t = m.tier("f16").unwrap();
    assert_eq!((t.cache, t.maps), (Store::F16, Store::F16));
}

/// The packed layout, written down as the order of the bytes rather than as a formula.
#[test]
fn packed_bytes_are_in_the_order_that_kernels_read() {
    let (rows, taps, cols) = (11, 9, 6);
    let spec = Spec {
        role: Role::ConvWeight,
        set: 0,
        index: 0,
        rows,
        cols,
        taps,
        class: varmint_core::tensor::Class::Weight,
    };
    // Every row has a 127, so that its scale is 1 and values are stored as they are.
    let value = |r: usize, tap: usize, c: usize| match (tap, c) {
        (0, 0) => 127.0,
        _ => ((r * 31 + tap * 17 + c * 5) % 255) as f32 - 127.0,
    };
    let mut values = Vec::new();
    for r in 0..rows {
        for tap in 0..taps {
            values.extend((0..cols).map(|c| value(r, tap, c)));
        }
    }
    let e = encode(&spec, Dtype::I8, &values, "test").unwrap();
    let mut bytes = e.data.iter();
    for group in 0..2 {
        for tap in 0..taps {
            for four in 0..2 {
                for lane in 0..8 {
                    for i in 0..4 {
                        let (r, c) = (group * 8 + lane, four * 4 + i);
                        let wanted = if r < rows && c < cols { value(r, tap, c) } else { 0.0 };
                        let got = i8::from_le_bytes([*bytes.next().unwrap()]);
                        assert_eq!(f32::from(got), wanted, "row {r} tap {tap} input {c}");
                    }
                }
            }
        }
    }
    assert_eq!(bytes.next(), None);
    assert_eq!(e.scales[..rows], [1.0; 11]);
    assert_eq!(e.scales[rows..], [0.0; 5]);
}

#[test]
fn int8_rounds_half_to_even_and_never_gives_minus_128() {
    let spec = |rows, cols| Spec {
        role: Role::CondTable,
        set: 0,
        index: 0,
        rows,
        cols,
        taps: 1,
        class: varmint_core::tensor::Class::Table,
    };
    let row = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5];
    let e = encode(&spec(1, 8), Dtype::I8Rows, &row, "test").unwrap();
    let got: Vec<i8> = e.data.iter().map(|b| i8::from_le_bytes([*b])).collect();
    assert_eq!(got, [127, 0, 2, 2, 0, -2, -127, 126]);
    // Denormal scales: the quotient may exceed 127. A row of zeros has scale 0.
    let tiny = [1e-45f32, -2e-43, 0.0, 0.0];
    let e = encode(&spec(2, 2), Dtype::I8Rows, &tiny, "test").unwrap();
    assert!(e.data.iter().all(|b| *b != 0x80));
    assert_eq!(e.scales[1], 0.0);
    assert_eq!(e.data[2..], [0, 0]);
}
