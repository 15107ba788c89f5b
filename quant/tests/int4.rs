//! 4-bit weights end to end: bytes, error, a whole model on every instruction set, and lies in a file.

mod common;

use common::fixture;
use varmint::ModelFile;
use varmint::{Cpu, Host, Isa, Plan, Request, Scalar};
use varmint_core::file::{CRC_AT, checksum};
use varmint_core::ops::{Packed4, Taps};
use varmint_core::rng::philox;
use varmint_core::tensor::{Class, Data, Dtype, MAX_I4, Role, Spec};
use varmint_core::{Aln, Error, Fault, Generator, Model, Ops, Sampling, Scale, Step, Store, Trunk};
use varmint_quant::description::{DecoderSizes, Description, Table, TierRow};
use varmint_quant::quantize::{decode, encode, snr_db, view};
use varmint_quant::write::write;
use varmint_quant::{Keep, Meta, Numbers, Options, convert};

fn spec(rows: usize, cols: usize) -> Spec {
    let (role, class) = (Role::Fc1Weight, Class::Weight);
    Spec { role, set: 0, index: 0, rows, cols, taps: 1, class }
}

/// Reproducible, bell-shaped.
fn noise(n: usize, key: u32) -> Vec<f32> {
    let one = |i: usize| {
        let words = philox([i as u32, key, 0, 0], [4, 0]);
        words.into_iter().map(|w| w as f32 / u32::MAX as f32 - 0.5).sum()
    };
    (0..n).map(one).collect()
}

/// The layout, written down as the order of the bytes rather than as a formula. Every value is an
/// integer that the search must find: each group has a -8 and a 7, and the scales are 127 and 1.
#[test]
fn bytes_are_in_the_order_that_kernels_read() {
    let (rows, cols) = (11, 70);
    let q = |r: usize, k: usize| match k % 32 {
        _ if k >= cols || r >= rows => 0,
        0 => -8,
        1 => 7,
        i => ((r * 5 + k * 3 + i) % 16) as i32 - 8,
    };
    let g = |r: usize, k: usize| if (k / 32 + r).is_multiple_of(2) { 127 } else { 1 + r as i32 };
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| (q(i / cols, i % cols) * g(i / cols, i % cols)) as f32 * 0.5)
        .collect();
    let spec = spec(rows, cols);
    let e = encode(&spec, Dtype::I4, &values, "test").unwrap();
    let mut bytes = e.data.iter();
    for group in 0..2 {
        for block in 0..3 {
            for eight in 0..4 {
                for lane in 0..8 {
                    for i in 0..4 {
                        let (r, k) = (group * 8 + lane, block * 32 + eight * 8 + i);
                        let wanted = (q(r, k) + 8) | (q(r, k + 4) + 8) << 4;
                        assert_eq!(i32::from(*bytes.next().unwrap()), wanted, "row {r}, input {k}");
                    }
                }
            }
        }
    }
    for group in 0..2 {
        for block in 0..3 {
            for lane in 0..8 {
                let r = group * 8 + lane;
                let wanted = if r < rows { g(r, block * 32) } else { 0 };
                assert_eq!(i32::from(*bytes.next().unwrap() as i8), wanted, "row {r}, {block}");
            }
        }
    }
    assert_eq!(bytes.next(), None);
    assert_eq!(e.scales[..rows], [0.5; 11]);
    assert_eq!(e.scales[rows..], [0.0; 5]);
    assert_eq!(decode(&view(&spec, Dtype::I4, &e, &mut Vec::new())), values);
}

#[test]
fn the_error_is_that_of_4_bits_and_zeros_stay_zeros() {
    let (rows, cols) = (24, 1000);
    let mut values = noise(rows * cols, 1);
    values[..cols].fill(0.0);
    values[cols..2 * cols].fill(1e-44); // no scale could hold it
    values[2 * cols..][..64].fill(0.0);
    values[2 * cols + 64] = -300.0; // an outlier costs its own group, and the others' scales a little
    let spec = spec(rows, cols);
    let e = encode(&spec, Dtype::I4, &values, "test").unwrap();
    let got = decode(&view(&spec, Dtype::I4, &e, &mut Vec::new()));
    assert!(got[..2 * cols + 64].iter().all(|v| *v == 0.0));
    assert!((got[2 * cols + 64] + 300.0).abs() < 1.0);
    let (values, got) = (&values[3 * cols..], &got[3 * cols..]);
    // Rounding to -7..=7 with a float scale per group.
    let plain = |v: &[f32]| -> Vec<f32> {
        let step = v.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 7.0;
        v.iter().map(|v| (v / step).round() * step).collect()
    };
    let plain: Vec<f32> =
        values.chunks(cols).flat_map(|row| row.chunks(32)).flat_map(plain).collect();
    let (snr, plain) = (snr_db(values, got), snr_db(values, &plain));
    assert!(snr > plain + 1.0 && snr > 21.0, "{snr} dB; without a search {plain} dB");
}

/// The scalar reference against a product of the decoded numbers in f64; padded rows and inputs.
#[test]
fn the_reference_is_a_product_of_the_decoded_numbers() {
    let (m, k, n) = (3, 40, 13);
    let spec = spec(n, k);
    let values = noise(n * k, 2);
    let e = encode(&spec, Dtype::I4, &values, "test").unwrap();
    let mut room = Vec::new();
    let matrix = view(&spec, Dtype::I4, &e, &mut room);
    let w = decode(&matrix);
    let Data::I4 { w: bytes, group, scale } = matrix.data else { panic!("not 4 bits") };
    let bias = noise(n, 3);
    let mut x = vec![0i8; m * 64];
    for (i, x) in x.iter_mut().enumerate().filter(|(i, _)| i % 64 < k) {
        *x = (i * 37 % 255) as i8;
    }
    let rows = [0.5, 0.25, 0.125];
    let mut out = vec![f32::NAN; m * n];
    let packed = Packed4 { w: bytes, group, scale, bias: &bias };
    Scalar.gemm_i4(Taps::matrix(&x, m, 64), &rows, packed, &mut out);
    for (i, got) in out.iter().enumerate() {
        let (r, c) = (i / n, i % n);
        let dot: f64 = (0..k).map(|j| f64::from(x[r * 64 + j]) * f64::from(w[c * k + j])).sum();
        let wanted = dot * f64::from(rows[r]) + f64::from(bias[c]);
        assert!((f64::from(*got) - wanted).abs() < 1e-4, "row {r}, channel {c}: {got}, {wanted}");
    }
    // A part of the channels is a matrix of its own.
    let tail = matrix.rows_from(8, 5);
    assert_eq!(decode(&tail), w[8 * k..]);
}

/// A picture, and its tokens.
fn picture(model: &Model<'_>, ops: impl Ops) -> Vec<u8> {
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    plan.verify().unwrap();
    let mut ram = vec![0u8; plan.bytes() + 64];
    let start = ram.as_ptr().align_offset(64);
    let host = Host::new(ops, &mut ram[start..], &plan).unwrap();
    let mut request = Request::new(model);
    request.seed = 5;
    let mut g = Generator::new(model, &plan, host, request).unwrap();
    let mut out = Vec::new();
    loop {
        match g.step().unwrap() {
            Step::Rows(rows) => out.extend_from_slice(rows.rgb),
            Step::Done => return out,
            _ => {}
        }
    }
}

fn same_everywhere(model: &Model<'_>) {
    let wanted = picture(model, Scalar);
    for cpu in Isa::ALL.into_iter().filter_map(Cpu::with) {
        assert!(picture(model, cpu) == wanted, "{:?}", cpu.isa());
    }
}

fn path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn small(name: &str, keep: &str) -> ModelFile {
    let weights = fixture("goldens/dev_a/weights.safetensors");
    let mut options = Options::new(vec![weights], Numbers::Int4);
    options.keep = if keep.is_empty() { Vec::new() } else { Keep::parse(keep).unwrap() };
    convert(&options, &Meta::default(), &path(name), |_, _| {}).unwrap();
    ModelFile::open(path(name)).unwrap()
}

#[test]
fn a_model_of_4_bits_has_one_picture_everywhere() {
    let map = small("int4.vmt", "");
    let model = map.model().unwrap();
    assert_eq!(model.tier_at(0).unwrap().name(), "int4");
    for i in 0.. {
        let Some((spec, dtype, _)) = model.tensor(i) else { break };
        let four = [Role::QkvWeight, Role::ProjWeight, Role::Fc1Weight, Role::AdaWeight];
        assert_eq!(dtype == Dtype::I4, four.contains(&spec.role), "{:?}", spec.role);
    }
    same_everywhere(&model);
    // Every matrix of the trunk.
    let map = small("int4-all.vmt", "i4:qkv,proj,fc1,fc2,head,headada,ada");
    let model = map.model().unwrap();
    assert_eq!(model.shape.trunk(0).act, 1);
    same_everywhere(&model);
}

/// Widths that are no multiples of 32: rows are padded in the file and in the plan.
#[test]
fn widths_are_padded() {
    let depth = 2;
    let description = Description {
        sequence: 0,
        name: "narrow".into(),
        licence: "none".into(),
        vocab: 20,
        cvae: 8,
        n_phi: 1,
        sampling: Sampling { guidance: 1.5, top_k: 0, top_p: 0.0, temperature: 1.0 },
        scales: [1, 2, 3].map(|side| Scale::new(side, side, 0)).to_vec(),
        tables: vec![Table { name: "class".into(), rows: 4, labels: Vec::new() }],
        trunks: vec![Trunk {
            depth,
            width: 40,
            heads: 5,
            hidden: 72,
            aln: Aln::Shared,
            l2_norm: true,
            act: 1,
            wide_heads: [0; varmint_core::config::MAX_DEPTH],
        }],
        decoders: vec![DecoderSizes {
            widths: vec![32],
            blocks: 1,
            attention: 0,
            inner: 0,
            act: 1,
        }],
        tiers: vec![TierRow {
            name: "int4".into(),
            scales: vec![(0, 3); 3],
            cache: Store::I8,
            maps: Store::F16,
            guided: 3,
            decoder: 0,
            tile: 16,
            strip: 8,
            conv_scratch: 0,
            together: false,
            keep: varmint_core::Keep::ALL,
        }],
    };
    let storage = |s: &Spec| {
        let all = [Dtype::I4, Dtype::I8, Dtype::F16, Dtype::F32];
        Ok(all.into_iter().find(|d| s.allows(*d)).unwrap())
    };
    let file = path("narrow.vmt");
    write(&file, &description, storage, |i, s, dtype| {
        let values: Vec<f32> =
            noise(s.rows * s.taps * s.cols, i as u32).iter().map(|v| 0.3 * v).collect();
        encode(s, dtype, &values, "test")
    })
    .unwrap();
    let map = ModelFile::open(&file).unwrap();
    let model = map.model().unwrap();
    assert_eq!(model.shape.trunk(0).act, 1);
    same_everywhere(&model);
}

#[test]
fn what_may_be_4_bits() {
    let may = |spec: Spec| spec.allows(Dtype::I4);
    assert!(may(spec(8, MAX_I4)) && !may(spec(8, MAX_I4 + 1)));
    // The largest sum of all.
    assert!(i32::try_from(MAX_I4 / 32 * 127 * 32 * 8 * 127).is_ok());
    assert!(i32::try_from((MAX_I4 / 32 + 1) * 127 * 32 * 8 * 127).is_err());
    for role in [Role::ConvWeight, Role::PhiWeight, Role::WordWeight] {
        assert!(!may(Spec { role, ..spec(8, 32) }), "{role:?}");
    }
    assert!(!may(Spec { class: Class::Table, ..spec(8, 32) }));
    let weights = fixture("goldens/dev_a/weights.safetensors");
    let mut options = Options::new(vec![weights], Numbers::Int4);
    options.keep = Keep::parse("i4:conv").unwrap();
    let e = convert(&options, &Meta::default(), &path("refused.vmt"), |_, _| {}).unwrap_err();
    assert!(e.to_string().contains("i4"), "{e}");
}

/// A file's bytes, for lies: aligned, with a checksum that is made right again.
struct Lie(Vec<u64>, usize);

impl Lie {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len() / 8 + 16];
        let start = words.as_ptr().align_offset(64);
        bytemuck::cast_slice_mut::<_, u8>(&mut words)[8 * start..][..bytes.len()]
            .copy_from_slice(bytes);
        Self(words, bytes.len())
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(64);
        &mut bytemuck::cast_slice_mut(&mut self.0)[8 * start..][..self.1]
    }

    fn seal(&mut self) -> Result<Model<'_>, Error> {
        let bytes = self.bytes();
        let crc = checksum(bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
        Model::parse(bytes)
    }
}

/// A byte is changed and the checksum made right again: refused, or run to the end.
#[test]
fn lies_about_4_bits_never_panic() {
    let map = small("lies.vmt", "");
    let mut lie = Lie::new(map.bytes());
    // The directory's records start where a record of the codebook is: role 1, storage f16.
    let directory =
        u64::from_le_bytes(map.bytes()[64 + 5 * 24 + 8..][..8].try_into().unwrap()) as usize;
    let (mut refused, mut ran) = (0, 0);
    for i in 0.. {
        let at = directory + 32 * i;
        let model = map.model().unwrap();
        let Some((spec, dtype, _)) = model.tensor(i) else { break };
        if dtype != Dtype::I4 && (spec.class != Class::Weight || spec.index > 1) {
            continue;
        }
        let data = u64::from_le_bytes(map.bytes()[at + 16..][..8].try_into().unwrap()) as usize;
        let groups = data + spec.nibble_bytes() as usize;
        let mut change = |at: usize, to: u8| {
            let old = std::mem::replace(&mut lie.bytes()[at], to);
            let fault = match lie.seal() {
                Err(Error::File { fault, .. }) => Some(fault),
                Err(e) => panic!("{e}"),
                Ok(model) => {
                    picture(&model, Scalar);
                    None
                }
            };
            lie.bytes()[at] = old;
            if fault.is_some() {
                refused += 1
            } else {
                ran += 1
            }
            fault
        };
        // Another storage has another length, so the next place is wrong; but the two int8 are alike.
        for storage in (0..=6).filter(|s| *s != dtype as u8) {
            let fault = change(at + 2, storage);
            let alike = matches!((dtype as u8, storage), (3, 4) | (4, 3));
            assert_eq!(fault, (!alike).then_some(Fault::Tensor), "{:?} {storage}", spec.role);
        }
        if dtype == Dtype::I4 && spec.index == 0 {
            for to in [0x00, 0x80, 0xFF] {
                assert_eq!(change(data + 7, to), None, "any pair of halves is good");
            }
            assert_eq!(change(groups, 0x80), Some(Fault::Weight));
            assert_eq!(change(groups + 3, 0x81), None);
            let scale =
                u64::from_le_bytes(map.bytes()[at + 24..][..8].try_into().unwrap()) as usize;
            assert_eq!(change(scale + 3, 0xFF), Some(Fault::Scale));
        }
        for field in 16..32 {
            assert!(change(at + field, 0x5A).is_some(), "{field}");
        }
    }
    assert!(refused > 100 && ran > 10, "{refused} refused, {ran} ran");
}
