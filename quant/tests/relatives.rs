//! Relatives of VAR: their goldens, tensor by tensor and token by token, and what conversion says of them.

mod common;

use std::path::PathBuf;

use common::fixture;
use common::model::Tensors;
use common::procedural::{save, weights};
use varmint::{Cpu, Model, Plan, Scalar};
use varmint_quant::golden::{Golden, Tolerance};
use varmint_quant::official::Layout;
use varmint_quant::{Mapped, Meta, Numbers, Options, convert};

/// A name for a test's files.
fn out(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("relatives-{name}.vmt"))
}

fn convert_tensors(
    name: &str,
    tensors: &Tensors,
    change: impl FnOnce(&mut Options),
) -> Result<Mapped, String> {
    let mut options = Options::new(vec![save(&format!("relatives-{name}"), tensors)], Numbers::F32);
    change(&mut options);
    convert(&options, &Meta::default(), &out(name), |_, _| {}).map_err(|e| e.to_string())?;
    Ok(Mapped::open(&out(name)).unwrap())
}

fn squares(sides: impl IntoIterator<Item = usize>) -> Option<Vec<(usize, usize)>> {
    Some(sides.into_iter().map(|n| (n, n)).collect())
}

/// Converts a golden's weights to f32 and compares all that it holds.
fn golden(name: &str, change: impl FnOnce(&mut Options)) -> Mapped {
    let path = fixture(&format!("goldens/{name}/golden.safetensors"));
    let golden = Golden::open(&path).unwrap();
    let map = convert_tensors(name, &weights(name), |o| {
        o.scales = squares(golden.config.patch_nums.iter().copied());
        change(o);
    })
    .unwrap();
    let model = Model::parse(&map).unwrap();
    let tier = model.tier_at(0).unwrap();
    for (place, ops) in [("scalar", None), ("cpu", Some(Cpu::detect()))] {
        let tolerance = Tolerance::beside(&path);
        let report = match ops {
            None => golden.compare(&model, &tier, Scalar, tolerance),
            Some(ops) => golden.compare(&model, &tier, ops, tolerance),
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
    let model = Model::parse(&map).unwrap();
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
    let model = Model::parse(&map).unwrap();
    let c = &model.shape.config;
    assert!(c.replace && c.n_phi == 0);
    assert_eq!(model.shape.decoder(0).inner, 16);
    let greedy: Vec<u16> = (0..12).map(|k| c.scale(k)).filter(|s| s.greedy).map(|s| s.h).collect();
    assert_eq!(greedy, [7, 9, 11, 17]);
    assert_eq!((c.scale(10).share, c.scale(11).share), ([10, 9], [1, 1]));
}

#[test]
fn hmar_is_its_reference() {
    let map = golden("hmar", |_| ());
    let model = Model::parse(&map).unwrap();
    assert_eq!(model.shape.trunk(0).depth, 3);
    assert_eq!(model.tier_at(0).unwrap().keep.window, 0);
}
