//! Where state dicts are found, and what happens to files with a key too few, a key too many or a wrong shape.

mod common;

use common::model::{Tensors, build, find, golden, only, renamed, tensors};
use safetensors::tensor::Dtype;
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::official::{Hints, Official, OfficialError};

#[test]
fn state_dicts_are_found_wherever_they_are() {
    let base = tensors("dev_a");
    let places = [
        ("", ""),
        ("var.", "vae."),
        ("trainer.var_wo_ddp.", "trainer.vae_local."),
        ("trainer.var_wo_ddp._orig_mod.", "trainer.vae_local._orig_mod."),
        ("state_dict.module.", "model.vae."),
        ("_orig_mod.", "module._orig_mod."),
    ];
    let want = find(&[golden("dev_a")]).unwrap();
    for (var, vae) in places {
        let (var_part, vae_part) = (only(&base, "var.", var), only(&base, "vae.", vae));
        let mut both = var_part.clone();
        both.extend(vae_part.clone());
        assert_eq!(find(&[build("both", &both)]), Ok(want.clone()), "{var} {vae}");
        assert_eq!(
            find(&[build("vae", &vae_part), build("var", &var_part)]),
            Ok(want.clone()),
            "{var} {vae}"
        );
    }
    // Inside names too.
    let inner = renamed(&base, |k| Some(k.replace("var.blocks.", "var.blocks._orig_mod.")));
    assert_eq!(find(&[build("inner", &inner)]), Ok(want));
}

#[test]
fn of_several_the_averaged_then_the_least_nested_is_taken() {
    let base = tensors("dev_a");
    let (var, vae) = (|new| only(&base, "var.", new), only(&base, "vae.", "vae."));
    let join = |parts: &[Tensors]| build("file", &parts.iter().flat_map(Clone::clone).collect());
    let prefix = |file: &Checkpoint, hints: &Hints| match Official::find(
        std::slice::from_ref(file),
        hints,
    ) {
        Ok(found) => found.var.place(),
        Err(e) => e.to_string(),
    };
    let training = join(&[var("model."), var("ema."), vae.clone()]);
    assert_eq!(prefix(&training, &Hints::default()), "file (`ema.`)");
    let hints = Hints { var_prefix: Some("model.".into()), ..Hints::default() };
    assert_eq!(prefix(&training, &hints), "file (`model.`)");
    let hints = Hints { var_prefix: Some("else.".into()), ..Hints::default() };
    assert!(prefix(&training, &hints).contains("no VAR transformer"));
    let nested = join(&[var("a.b.c."), var("x."), vae.clone()]);
    assert_eq!(prefix(&nested, &Hints::default()), "file (`x.`)");
    let equal = join(&[var("x."), var("y."), vae]);
    let text = prefix(&equal, &Hints::default());
    assert!(text.contains("more than one VAR transformer: file: `x.`, file: `y.`"), "{text}");
    let collide = join(&[var("var."), var("var._orig_mod."), only(&base, "vae.", "vae.")]);
    assert!(prefix(&collide, &Hints::default()).contains("are the same key"));
}

#[test]
fn every_missing_key_and_every_wrong_shape_is_named() {
    let base = tensors("dev_b");
    for key in base.keys() {
        let mut less = base.clone();
        less.remove(key);
        let official = key.split_once('.').unwrap().1;
        match find(&[build("less", &less)]) {
            Err(text) => {
                assert!(text.contains("missing") || text.contains("no V"), "{key}: {text}")
            }
            Ok(_) => panic!("{key} is not missed"),
        }
        let mut odd = base.clone();
        let tensor = odd.get_mut(key).unwrap();
        tensor.1.push(1);
        let text = find(&[build("odd", &odd)]).unwrap_err();
        assert!(
            text.contains(&format!("`{official}` has shape {:?}", odd[key].1)),
            "{key}: {text}"
        );
    }
    for key in [
        "var.blocks.0.attn.k_norm.weight",
        "vae.decoder.up.1.block.1.nin_shortcut.weight",
        "vae.decoder.mid.x",
    ] {
        let mut more = base.clone();
        more.insert(key.into(), (Dtype::F32, vec![1], vec![0; 4]));
        let text = find(&[build("more", &more)]).unwrap_err();
        assert!(text.contains(&format!("`{}` does not belong", &key[4..])), "{text}");
    }
    let mut short = base.clone();
    short.insert("var.head.bias".into(), (Dtype::F32, vec![63], vec![0; 63 * 4]));
    let text = find(&[build("short", &short)]).unwrap_err();
    assert!(text.contains("short (`var.`): `head.bias` has shape [63]; expected [64]"), "{text}");
}

#[test]
fn halves_that_do_not_belong_together_are_refused() {
    let var = only(&tensors("dev_a"), "var.", "");
    let vae = only(&tensors("dev_b"), "vae.", "");
    let files = [build("var", &var), build("vae", &vae)];
    let error = Official::find(&files, &Hints::default()).unwrap_err();
    assert!(
        matches!(error, OfficialError::Pairing { what: "vocabulary size", var: 96, vae: 64 }),
        "{error}"
    );
}
