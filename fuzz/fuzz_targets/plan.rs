//! Plans of any shape, from the sections that a plan needs: of every tier, and of every way down from one to another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use varmint::file::{Container, Kind};
use varmint_fuzz::{file_of, plan, sealed};

fuzz_target!(|bytes: &[u8]| {
    let whole = sealed(bytes);
    let Ok(container) = Container::parse(whole.bytes()) else { return };
    let Ok(shape) = container.shape() else { return };
    let kinds = [Kind::Config, Kind::Trunks, Kind::Decoders, Kind::Tiers];
    let file = file_of(&kinds.map(|k| container.section(k).0));
    let plans: Vec<_> = (0..shape.n_tiers()).filter_map(|i| plan(file.bytes(), i)).collect();
    for first in &plans {
        for scale in 0..=shape.config.n_scales() {
            for to in &plans {
                if let Ok(lower) = first.lowered(&shape, &to.tier, scale) {
                    lower.verify().unwrap();
                    assert_eq!(lower.bytes(), first.bytes());
                }
            }
        }
    }
});
