//! The models of `fixtures/small/`: as few bytes as the format allows, as many of its features as fit in a few kilobytes,
//! and those that exclude some of these. Their weights are random numbers.

use std::path::Path;

use varmint_core::tensor::{Class, Dtype, Role, Spec};
use varmint_core::{Aln, Keep, Sampling, Scale, Store, Trunk};
use varmint_quant::description::{DecoderSizes, Description, EncoderSizes, Table, TierRow};
use varmint_quant::quantize::encode;
use varmint_quant::synth::fill;
use varmint_quant::{Error, Numbers};

fn trunk(depth: u32, heads: u32) -> Trunk {
    let (width, hidden) = (8, 8);
    Trunk {
        depth,
        width,
        heads,
        hidden,
        aln: Aln::Own,
        l2_norm: true,
        act: 4,
        wide_heads: [0; varmint_core::config::MAX_DEPTH],
    }
}

fn decoder(levels: usize, attention: u32) -> DecoderSizes {
    DecoderSizes { widths: vec![8; levels], blocks: 1, attention, inner: 0, act: 4 }
}

fn tier(name: &str, scales: &[(u8, u64)]) -> TierRow {
    TierRow {
        name: name.to_owned(),
        scales: scales.to_vec(),
        cache: Store::I8,
        maps: Store::F16,
        guided: scales.len() as u8,
        decoder: 0,
        tile: 4,
        strip: 2,
        conv_scratch: 0,
        together: false,
        keep: Keep::ALL,
    }
}

fn sampling(guidance: f32) -> Sampling {
    Sampling { guidance, top_k: 3, top_p: 0.9, temperature: 1.0 }
}

fn table(name: &str, rows: usize, labels: &[&str]) -> Table {
    let labels = labels.iter().map(|&l| l.to_owned()).collect();
    Table { name: name.to_owned(), rows, labels }
}

/// One trunk of one block, one decoder of one level, one tier.
pub(crate) fn least() -> Description {
    let scale = |n| Scale::new(n, n, 0);
    Description {
        sequence: 1,
        name: "least".to_owned(),
        licence: "random numbers".to_owned(),
        vocab: 2,
        cvae: 1,
        n_phi: 1,
        sampling: sampling(1.5),
        scales: vec![scale(1), scale(2)],
        tables: vec![table("class", 2, &[])],
        trunks: vec![trunk(1, 1)],
        decoders: vec![decoder(1, 0)],
        tiers: vec![tier("all", &[(0, 1); 2])],
    }
}

/// Two trunks, two decoders, two tables, and tiers that use all of it: a drafter and a refiner, caches that keep a part,
/// neighbourhoods, both rows together.
pub(crate) fn mixed() -> Description {
    let mut first = trunk(2, 2);
    first.wide_heads[0] = 1;
    let refiner = Trunk { aln: Aln::Shared, l2_norm: false, ..trunk(1, 1) };
    let mut part = Keep { grid: 2, pool: 3, protect: 1, ..Keep::ALL };
    part.most[0][..3].copy_from_slice(&[1, 2, 3]);
    part.most[1][..3].copy_from_slice(&[1, 3, 5]);
    let near = Keep { window: 3, window_from: 2, ..Keep::ALL };
    let sizes = [(1, 1, 0), (1, 2, 1), (2, 2, 0), (3, 4, 1)];
    Description {
        sequence: 7,
        name: "mixed".to_owned(),
        licence: "random numbers".to_owned(),
        vocab: 19,
        cvae: 3,
        n_phi: 2,
        sampling: sampling(2.0),
        scales: sizes.map(|(h, w, phi)| Scale::new(h, w, phi)).to_vec(),
        tables: vec![table("class", 4, &["heart", "star", "\u{1f600}"]), table("style", 3, &[])],
        trunks: vec![first, refiner],
        decoders: vec![decoder(2, 0b10), decoder(1, 0)],
        tiers: vec![
            TierRow { together: true, ..tier("all", &[(0, 0b11); 4]) },
            TierRow { guided: 3, ..tier("refined", &[(0, 0b11), (0, 0b11), (0, 0b01), (1, 1)]) },
            TierRow { keep: part, cache: Store::F16, ..tier("part", &[(0, 0b11); 4]) },
            TierRow { keep: near, cache: Store::F32, ..tier("near", &[(0, 0b11); 4]) },
            TierRow {
                decoder: 1,
                guided: 0,
                maps: Store::F32,
                tile: 1,
                strip: 1,
                ..tier("lite", &[(0, 0b11), (0, 0b11), (0, 0b01), (0, 0b01)])
            },
        ],
    }
}

/// Scales that replace the latent, with shares of guidance and greedy draws, one smaller than the one before it; more
/// channels after the decoder's first convolution; scales that see themselves only; modulation that was multiplied out.
pub(crate) fn replaced() -> Description {
    let scale = |h, w, rule| Scale::new(h, w, 0).with_rule(rule);
    let own = Keep { most: [[0; 16]; 2], ..Keep::ALL };
    let own = Keep {
        most: own.most.map(|m| std::array::from_fn(|k| if k < 3 { m[k] } else { u16::MAX })),
        ..own
    };
    Description {
        sequence: 2,
        name: "replaced".to_owned(),
        vocab: 19,
        cvae: 3,
        n_phi: 0,
        sampling: sampling(2.0),
        scales: vec![scale(1, 1, 0), scale(3, 2, 0x85), scale(2, 3, 2), scale(3, 4, 0x80)],
        tables: vec![table("class", 4, &[])],
        trunks: vec![Trunk { aln: Aln::Baked, ..trunk(2, 2) }],
        decoders: vec![DecoderSizes { inner: 5, ..decoder(2, 0b10) }],
        tiers: vec![
            tier("all", &[(0, 0b11); 4]),
            TierRow { keep: own, together: true, ..tier("own", &[(0, 0b11); 4]) },
        ],
        ..least()
    }
}

/// Every storage that its class allows, somewhere.
fn any_dtype(spec: &Spec) -> Result<Dtype, Error> {
    let weights = [Dtype::I8, Dtype::I8Wide, Dtype::I4, Dtype::F16, Dtype::F32];
    let tables = [Dtype::I8Rows, Dtype::F16, Dtype::F32];
    let n = spec.role as usize + spec.index;
    let wanted = match spec.class {
        Class::Vector => Dtype::F32,
        Class::Table => tables[n % tables.len()],
        Class::Weight => weights[n % weights.len()],
    };
    let instead = if spec.role == Role::ConvWeight { Dtype::I8 } else { Dtype::F32 };
    Ok(if spec.allows(wanted) { wanted } else { instead })
}

/// Writes an encoder for `mixed`.
pub(crate) fn write_encoder(path: &Path) -> Result<u64, Error> {
    let sizes = EncoderSizes { levels: decoder(2, 0b01), stem: 8, cvae: 3 };
    let dtype = |s: &Spec| any_dtype(s).unwrap_or(Dtype::F32);
    varmint_quant::write::write_encoder(path, &sizes, 0, dtype, |_, spec, dtype| {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 16;
        let value = |i| (noise(i) % 201) as f32 / 400.0 - 0.25;
        let all: Vec<f32> = (0..spec.rows * spec.taps * spec.cols).map(value).collect();
        encode(spec, dtype, &all, "random")
    })
}

/// Writes one of them, by its name.
pub(crate) fn write(path: &Path, name: &str) -> Result<u64, Error> {
    match name {
        "least" => {
            fill(path, &least(), |s| varmint_quant::numbers::choose(Numbers::Int8, &[], s, false))
        }
        "replaced" => fill(path, &replaced(), any_dtype),
        _ => fill(path, &mixed(), any_dtype),
    }
}
