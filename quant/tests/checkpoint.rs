//! Checkpoints as PyTorch writes them: every tensor of the fixtures, by every way of asking.

mod common;

use common::{Entry, Pickle, exercise, fixture, pth, write_zip, zip};
use varmint_quant::checkpoint::{Checkpoint, Dtype};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(fixture(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn every_tensor_of_the_fixtures_is_read() {
    let expected = open("pth/expected.safetensors");
    let files = [("var_tiny", ""), ("wrapped_odd", "trainer.var_wo_ddp.")];
    let mut compared = 0;
    for (stem, nest) in files {
        let file = open(&format!("pth/{stem}.pth"));
        let prefix = format!("{stem}/");
        for key in expected.sub(&prefix).names() {
            let name = format!("{nest}{key}");
            let want = expected.read_f32(&format!("{stem}/{key}")).unwrap();
            let got = match file.dtype(&name) {
                Some(Dtype::I64) => {
                    file.read_i64(&name).unwrap().iter().map(|&v| v as f32).collect()
                }
                _ => file.read_f32(&name).unwrap(),
            };
            assert_eq!(file.shape(&name), expected.shape(&format!("{stem}/{key}")), "{name}");
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, expected.names().count());
    assert_eq!(compared, 33);
}

#[test]
fn nested_dictionaries_become_dotted_names() {
    let file = open("pth/wrapped_odd.pth");
    let names: Vec<_> = file.names().collect();
    let inner = ["bf16", "empty", "f16", "i64", "offset", "scalar", "shared", "transposed"];
    let mut want: Vec<_> = inner.iter().map(|n| format!("trainer.var_wo_ddp.{n}")).collect();
    want.push("trainer.vae_local.p".into());
    want.sort();
    assert_eq!(names, want);
    let sub = file.sub("trainer.var_wo_ddp.");
    assert_eq!(sub.names().collect::<Vec<_>>(), inner);
    assert!(sub.contains("scalar") && !sub.contains("p"));
    assert_eq!(sub.shape("scalar"), Some(&[][..]));
    assert_eq!(sub.shape("empty"), Some(&[0, 3][..]));
    assert_eq!(sub.read_f32("empty").unwrap(), [0.0; 0]);
    assert_eq!(file.read_f32("trainer.vae_local.p").unwrap().len(), 2);
    assert_eq!(file.dtype("trainer.var_wo_ddp.bf16"), Some(Dtype::BF16));
}

#[test]
fn a_training_checkpoint_is_read_and_what_is_no_tensor_is_skipped() {
    let (file, want) = (open("pth/training.pth"), open("pth/training.safetensors"));
    assert_eq!(file.names().collect::<Vec<_>>(), want.names().collect::<Vec<_>>());
    assert!(
        file.contains("model._orig_mod.0.weight") && file.contains("optimizer.state.0.exp_avg")
    );
    for name in file.names() {
        assert_eq!(file.shape(name), want.shape(name), "{name}");
        if want.dtype(name) == Some(Dtype::I64) {
            assert_eq!(file.read_i64(name).unwrap(), want.read_i64(name).unwrap(), "{name}");
        } else {
            assert_eq!(file.read_f32(name).unwrap(), want.read_f32(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn buffers_of_a_published_file_are_read() {
    let file = open("pth/var_tiny.pth");
    let levels = file.read_i64("lvl_1L").unwrap();
    assert_eq!(levels, [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    let mask = file.read_f32("attn_bias_for_masking").unwrap();
    assert!(mask.iter().all(|&v| v == 0.0 || v == f32::NEG_INFINITY));
    assert!(mask.contains(&f32::NEG_INFINITY));
}

#[test]
fn the_kind_of_a_file_is_seen_from_its_bytes() {
    let dir = tempdir("kind");
    for (from, to) in [("pth/var_tiny.pth", "a.safetensors"), ("pth/expected.safetensors", "b.pth")]
    {
        let path = dir.join(to);
        std::fs::copy(fixture(from), &path).unwrap();
        assert!(Checkpoint::open(&path).unwrap().names().count() > 20);
    }
}

#[test]
fn messages_name_the_file_and_the_tensor() {
    let file = open("pth/var_tiny.pth");
    let text = file.read_f32("lvl_1L").unwrap_err().to_string();
    assert!(text.contains("var_tiny.pth") && text.contains("`lvl_1L` holds I64"), "{text}");
    let text = file.read_i64("pos_start").unwrap_err().to_string();
    assert!(text.contains("`pos_start` holds F32"), "{text}");
    let text = file.read_f32("nothing").unwrap_err().to_string();
    assert!(text.contains("no tensor `nothing`"), "{text}");
    let text = Checkpoint::open(fixture("pth/absent.pth")).unwrap_err().to_string();
    assert!(text.contains("absent.pth: cannot read the file"), "{text}");
}

#[test]
fn views_are_gathered_in_c_order() {
    let data = le(&[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]);
    /// Offset, shape, strides, the numbers.
    type Case<'a> = (i64, &'a [i64], &'a [i64], &'a [f32]);
    let cases: [Case<'_>; 7] = [
        (0, &[3, 4], &[4, 1], &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]),
        (0, &[4, 3], &[1, 4], &[0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]),
        (5, &[2, 2], &[4, 1], &[5., 6., 9., 10.]),
        (1, &[2, 3], &[0, 2], &[1., 3., 5., 1., 3., 5.]),
        (11, &[], &[], &[11.]),
        (0, &[2, 1, 3], &[6, 999, 2], &[0., 2., 4., 6., 8., 10.]),
        (7, &[2, 0], &[1, 1], &[]),
    ];
    for (offset, shape, strides, want) in cases {
        let file = pth(&Pickle::one_f32(12, offset, shape, strides), &[&data]);
        let file = Checkpoint::from_bytes("view", file).unwrap();
        assert_eq!(file.read_f32("t").unwrap(), want, "{shape:?} {strides:?}");
    }
}

#[test]
fn every_number_type_is_converted() {
    let cases: [(&str, &[u8], i64); 6] = [
        ("LongStorage", &(-5i64).to_le_bytes(), -5),
        ("IntStorage", &(-5i32).to_le_bytes(), -5),
        ("ShortStorage", &(-5i16).to_le_bytes(), -5),
        ("CharStorage", &[0xfb], -5),
        ("ByteStorage", &[0xfb], 251),
        ("BoolStorage", &[7], 1),
    ];
    for (class, data, want) in cases {
        let pickle = Pickle::new().op(b"}").text("t").tensor(class, "0", 1, 0, &[1], &[1]).op(b"s");
        let file = Checkpoint::from_bytes(class, pth(&pickle, &[data])).unwrap();
        assert_eq!(file.read_i64("t").unwrap(), [want], "{class}");
    }
    let pickle =
        Pickle::new().op(b"}").text("t").tensor("DoubleStorage", "0", 1, 0, &[1], &[1]).op(b"s");
    let file = Checkpoint::from_bytes("f64", pth(&pickle, &[&0.1f64.to_le_bytes()])).unwrap();
    assert_eq!(file.read_f32("t").unwrap(), [0.1]);
    let pickle = Pickle::new()
        .op(b"}")
        .text("t")
        .tensor("ComplexFloatStorage", "0", 1, 0, &[1], &[1])
        .op(b"s");
    let file = Checkpoint::from_bytes("c64", pth(&pickle, &[&[0; 8]])).unwrap();
    assert!(file.read_f32("t").unwrap_err().to_string().contains("complex64"));
}

/// Entries beyond 4 GiB, as in the files of the two largest models; the file is almost all hole.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn files_beyond_four_gigabytes_are_read() {
    let path = tempdir("large").join("large.pth");
    let pickle = Pickle::new().op(b"}(").text("a").tensor("FloatStorage", "0", 2, 0, &[2], &[1]);
    let pickle = pickle.text("b").tensor("FloatStorage", "1", 2, 0, &[2], &[1]).op(b"u");
    let mut late = Entry::new("m/data/1", le(&[3.0, 4.0]));
    late.at = Some((5 << 30) + 192);
    let entries =
        [Entry::new("m/data.pkl", pickle.stop()), Entry::new("m/data/0", le(&[1.0, 2.0])), late];
    let mut out = std::fs::File::create(&path).unwrap();
    write_zip(&mut out, &entries).unwrap();
    drop(out);
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(file.read_f32("a").unwrap(), [1.0, 2.0]);
    assert_eq!(file.read_f32("b").unwrap(), [3.0, 4.0]);
    drop(file);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_shrinks_is_noticed() {
    let path = tempdir("shrink").join("a.safetensors");
    std::fs::copy(fixture("pth/expected.safetensors"), &path).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let text = file.read_f32("var_tiny/pos_start").unwrap_err().to_string();
    assert!(text.contains("length changed"), "{text}");
}

#[test]
fn the_folder_and_unknown_entries_do_not_matter() {
    let pickle = Pickle::one_f32(2, 0, &[2], &[1]).stop();
    for folder in ["", "archive/", "some name/deep/"] {
        let entry = |name: &str, data: &[u8]| Entry::new(&format!("{folder}{name}"), data);
        let file = zip(&[
            entry("data.pkl", &pickle),
            entry(".format_version", b"1"),
            entry("data/0", &le(&[1.0, 2.0])),
            entry(".data/serialization_id", b"0"),
        ]);
        assert_eq!(exercise(&file), Ok(1), "{folder}");
    }
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("checkpoint-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
