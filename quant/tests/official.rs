//! The official layout: the configuration of both goldens, of a published-style file, of the released models and of variants.

mod common;

use common::fixture;
use common::model::{Tensors, build, find, golden, renamed, tensors, with_levels};
use safetensors::tensor::Dtype;
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::official::var::parse_scales;
use varmint_quant::official::{
    DecoderConfig, Hints, Layout, Official, Phi, StateDict, VaeConfig, VarConfig,
};

#[test]
fn both_goldens_are_understood() {
    let hints = |text| Hints { scales: Some(parse_scales(text).unwrap()), ..Hints::default() };
    let files = [golden("dev_a")];
    let a = Official::find(&files, &hints("1,2,3,4")).unwrap();
    let want = VarConfig {
        layout: Layout::Var,
        positions: None,
        depth: 3,
        width: 64,
        heads: 2,
        head_dim: 32,
        mlp_hidden: 256,
        vocab: 96,
        cvae: 8,
        num_scales: 4,
        tokens: 30,
        first: 1,
        tables: vec![("class_emb.weight", 11)],
        shared_aln: false,
        attn_l2_norm: true,
        scales: Some(vec![(1, 1), (2, 2), (3, 3), (4, 4)]),
    };
    assert_eq!(a.var_config, want);
    let want = VaeConfig {
        vocab: 96,
        cvae: 8,
        phi: Phi::Shared,
        num_phi: 4,
        decoder: DecoderConfig {
            cvae: 8,
            inner: 8,
            post_side: 3,
            split_qkv: false,
            mid_width: 32,
            mid_attention: true,
            widths: vec![64, 32],
            blocks: vec![3, 3],
            attention: vec![false, true],
            out_channels: 3,
        },
        has_encoder: false,
    };
    assert_eq!(a.vae_config, want);

    let files = [golden("dev_b")];
    let b = Official::find(&files, &hints("1,2,3,4,5")).unwrap();
    let c = &b.var_config;
    assert_eq!((c.depth, c.width, c.heads, c.vocab, c.cvae, c.tokens), (2, 64, 1, 64, 16, 55));
    assert_eq!(c.tables, [("class_emb.weight", 7)]);
    let v = &b.vae_config;
    let d = &v.decoder;
    assert_eq!(
        (&d.widths[..], &d.blocks[..], &d.attention[..]),
        (&[32, 64, 32][..], &[3; 3][..], &[false, false, true][..])
    );
    // The keys are exactly those of the file: nothing is forgotten, nothing invented.
    let mut keys: Vec<_> = c.keys().into_iter().map(|(k, _)| format!("var.{k}")).collect();
    keys.extend(v.keys().into_iter().map(|(k, _)| format!("vae.{k}")));
    keys.sort();
    assert_eq!(keys, files[0].names().collect::<Vec<_>>());
    for (key, shape) in c.keys() {
        assert_eq!(b.var.need(&key, &shape).unwrap().len(), shape.iter().product::<usize>());
    }
    assert_eq!(
        b.var.need("pos_start", &[1, 1, 64]).unwrap(),
        files[0].read_f32("var.pos_start").unwrap()
    );
}

#[test]
fn unknown_schedules_stay_open_and_wrong_ones_are_refused() {
    let files = [golden("dev_a")];
    assert_eq!(find(&files).unwrap().0.scales, None);
    for wrong in ["1,2,3", "1,2,3,5", "2,2,3,4", "1,2,3,4,1", "4,3,2,1"] {
        let hints = Hints { scales: Some(parse_scales(wrong).unwrap()), ..Hints::default() };
        let text = Official::find(&files, &hints).unwrap_err().to_string();
        assert!(text.contains("do not fit: the weights have 4 scales and 30 tokens"), "{text}");
    }
    assert_eq!(parse_scales("1x1, 2x3,4"), Ok(vec![(1, 1), (2, 3), (4, 4)]));
    for wrong in ["", "1,,2", "0", "257", "2x", "a", "1x2x3", "-1"] {
        assert!(parse_scales(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_schedule_comes_from_lvl_1l() {
    let base = tensors("dev_a");
    let file = [build("a", &with_levels(base.clone(), "var.lvl_1L", &[1, 4, 9, 16]))];
    assert_eq!(find(&file).unwrap().0.scales, Some(vec![(1, 1), (2, 2), (3, 3), (4, 4)]));
    let oblong = [build("a", &with_levels(base.clone(), "var.lvl_1L", &[1, 6, 9, 14]))];
    assert!(find(&oblong).unwrap_err().contains("a scale of 6 tokens is not square"));
    let hints = Hints { scales: Some(parse_scales("1,2x3,3,2x7").unwrap()), ..Hints::default() };
    assert_eq!(Official::find(&oblong, &hints).unwrap().var_config.scales, hints.scales);
    let hints = Hints { scales: Some(parse_scales("1,2,3,4").unwrap()), ..Hints::default() };
    assert!(
        Official::find(&oblong, &hints)
            .unwrap_err()
            .to_string()
            .contains("of [1, 6, 9, 14] tokens each")
    );
    let short = [build("a", &with_levels(base.clone(), "var.lvl_1L", &[1, 4, 9]))];
    assert!(find(&short).unwrap_err().contains("`lvl_1L` has shape [1, 14]"));
    let mut backwards = with_levels(base, "var.lvl_1L", &[1, 4, 9, 16]);
    backwards.get_mut("var.lvl_1L").unwrap().2[0] = 3;
    assert!(find(&[build("a", &backwards)]).unwrap_err().contains("does not count the scales"));
}

#[test]
fn a_published_style_file_is_understood() {
    let file = Checkpoint::open(fixture("pth/var_tiny.pth")).unwrap();
    let dict = StateDict::new(&file, "").unwrap();
    let config = VarConfig::infer(&dict, None, None).unwrap();
    assert_eq!((config.depth, config.width, config.heads, config.mlp_hidden), (1, 32, 1, 128));
    assert!(config.shared_aln && config.attn_l2_norm);
    assert_eq!(config.scales, Some(vec![(1, 1), (2, 2), (3, 3)]));
    assert_eq!(config.tables, [("class_emb.weight", 4)]);
    let files = [file];
    let text = find(&files).unwrap_err();
    assert!(text.contains("no VQVAE in") && text.contains("quantize.embedding.weight"), "{text}");
}

#[test]
fn the_other_layouts_are_understood() {
    let base = tensors("dev_a");
    // A second condition table.
    let mut styled = base.clone();
    styled.insert("var.style_emb.weight".into(), (Dtype::F32, vec![9, 64], vec![0; 9 * 64 * 4]));
    let (config, _) = find(&[build("styled", &styled)]).unwrap();
    assert_eq!(config.tables, [("class_emb.weight", 11), ("style_emb.weight", 9)]);
    // No attention scale: 64 channels per head.
    let plain = renamed(&base, |k| (!k.ends_with("scale_mul_1H11")).then(|| k.to_owned()));
    let (config, _) = find(&[build("plain", &plain)]).unwrap();
    assert_eq!((config.attn_l2_norm, config.heads, config.head_dim), (false, 1, 64));
    // Phi convolutions: none, one, one per scale.
    let none = renamed(&base, |k| (!k.contains("quant_resi")).then(|| k.to_owned()));
    let phi = |t: &Tensors| find(&[build("phi", t)]).map(|(_, v)| (v.phi, v.num_phi, v.phi_key(0)));
    assert_eq!(phi(&none).unwrap().0, Phi::None);
    let one = renamed(&base, |k| match k.split_once("qresi_ls.") {
        Some((head, tail)) => tail.strip_prefix("0.").map(|tail| format!("{head}qresi.{tail}")),
        None => Some(k.to_owned()),
    });
    assert_eq!(phi(&one).unwrap(), (Phi::One, 1, "quantize.quant_resi.qresi".into()));
    let each = renamed(&base, |k| Some(k.replace("qresi_ls.", "")));
    assert_eq!(phi(&each).unwrap(), (Phi::PerScale, 4, "quantize.quant_resi.0".into()));
    let fewer = renamed(&each, |k| (!k.contains("quant_resi.3.")).then(|| k.to_owned()));
    assert!(
        phi(&fewer)
            .unwrap_err()
            .contains("number of scales is 4 in the transformer, 3 in the VQVAE")
    );
}

#[test]
fn released_models_have_the_keys_of_their_published_files() {
    let count = |keys: Vec<(String, Vec<usize>)>| {
        (keys.len(), keys.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>())
    };
    for (depth, tokens, shared_aln, params) in [
        (16, 680, false, 310_283_520),
        (20, 680, false, 600_917_136),
        (24, 680, false, 1_033_399_360),
        (30, 680, false, 2_010_020_356_usize),
        (36, 2240, true, 2_353_893_904),
    ] {
        let width = 64 * depth;
        let config = VarConfig {
            layout: Layout::Var,
            positions: None,
            depth,
            width,
            heads: depth,
            head_dim: 64,
            mlp_hidden: 4 * width,
            vocab: 4096,
            cvae: 32,
            num_scales: 10,
            tokens,
            first: 1,
            tables: vec![("class_emb.weight", 1001)],
            shared_aln,
            attn_l2_norm: true,
            scales: None,
        };
        assert_eq!(count(config.keys()).1, params, "d{depth}");
    }
    let vae = VaeConfig {
        vocab: 4096,
        cvae: 32,
        phi: Phi::Shared,
        num_phi: 4,
        decoder: DecoderConfig {
            cvae: 32,
            inner: 32,
            post_side: 3,
            split_qkv: false,
            mid_width: 640,
            mid_attention: true,
            widths: vec![160, 160, 320, 320, 640],
            blocks: vec![3; 5],
            attention: vec![false, false, false, false, true],
            out_channels: 3,
        },
        has_encoder: true,
    };
    assert_eq!(count(vae.keys()), (189, 64_653_923 + 168_064 + 9_248));
}
