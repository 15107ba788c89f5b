//! The app itself, on the small model: what it takes for which frame, and what it leaves alone.

use clap::Parser;
use varmint::{Error, ModelFile, Plan};

use super::{Args, run};

#[test]
fn a_trace_is_followed() {
    let model_path = "fixtures/emoji-micro.vmt";
    let file = ModelFile::open(model_path).unwrap();
    let model = file.model().unwrap();
    let plans: Vec<Plan> = model.tiers().map(|t| Plan::new(&model.shape, &t).unwrap()).collect();
    let (best, least) = (plans[0].bytes(), plans.iter().map(Plan::bytes).min().unwrap());
    let trace = format!("ram, celsius, drop\n100%, 40, 3\n{least}, 40,\n1KiB, 40,\n1GiB, 90\n");
    let folder = std::env::temp_dir().join(format!("varmint-tiers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (csv, png) = (folder.join("trace.csv"), folder.join("new/tiers.png"));
    let args = ["tiers", "--model", model_path, "--trace", csv.to_str().unwrap()];
    let args = Args::parse_from(args.into_iter().chain(["--out", png.to_str().unwrap()]));

    std::fs::write(&csv, &trace).unwrap();
    let wrong = run(&args).err().unwrap();
    assert!(format!("{wrong:#}").contains("line 5"), "no unit is called GiB: {wrong:#}");

    std::fs::write(&csv, trace.replace("1GiB", "64MiB")).unwrap();
    let all = run(&args).unwrap();
    let made = |i: usize| all[i].made.as_ref().unwrap();
    assert_eq!((made(0).tier, made(0).change), (plans[0].tier, None));
    assert_eq!(Plan::new(&model.shape, &made(1).tier).unwrap().bytes(), least);
    assert!(made(1).change.is_some() && made(1).used <= least);
    let refused = Error::ArenaTooSmall { need: least, got: 1024 };
    assert_eq!(all[2].made.as_ref().err(), Some(&refused));
    // Hot: no tier does half the work, so the one of the least.
    let work = plans.iter().map(Plan::total_macs).min().unwrap();
    assert!(made(3).macs <= made(0).macs / 2 || made(3).macs == work);
    assert!(all.iter().flat_map(|s| &s.made).all(|m| m.used <= best));
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_built_in_trace_is_one() {
    assert_eq!(super::trace::parse(super::trace::BUILT_IN).unwrap().len(), 12);
    for wrong in ["", "# nothing", "70x, 40", "70%, warm", "70%, 40, late", "70%, 40, 1, 2"] {
        assert!(super::trace::parse(wrong).is_err(), "{wrong}");
    }
}

/// Inside an image it goes down only where what comes allows less than the image costs.
#[test]
fn a_drop_is_heeded_where_it_asks_for_less() {
    let folder = std::env::temp_dir().join(format!("varmint-drops-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (csv, png) = (folder.join("trace.csv"), folder.join("tiers.png"));
    let args = ["--trace", csv.to_str().unwrap(), "--out", png.to_str().unwrap()];
    let args = Args::parse_from(["tiers"].into_iter().chain(args));
    // To warm; to no warmer; to hot; at no scale of the model; with nothing to come.
    let trace =
        "100%, 60, 5\n100%, 79, 5\n100%, 75\n100%, 60, 1\n100%, 90\n100%, 60, 77\n100%, 90, 5";
    std::fs::write(&csv, trace).unwrap();
    let all = run(&args).unwrap();
    let hotter = |i: usize| all[i].made.as_ref().unwrap().hotter;
    for (i, at) in [(0, Some(5)), (1, None), (3, Some(1)), (5, None), (6, None)] {
        assert_eq!(hotter(i).map(|h| h.0), at, "frame {i}");
    }
    for i in [0, 3] {
        let made = all[i].made.as_ref().unwrap();
        let whole = Plan::new(&varmint::Model::parse(super::DEFAULT).unwrap().shape, &made.tier);
        assert!(hotter(i).unwrap().2.is_some() && made.macs < whole.unwrap().total_macs());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
