//! What the reference gives, as checksums: on a processor without kernels of its own there is nothing else to compare
//! the reference with.

use alloc::string::String;
use core::cell::Cell;
use core::fmt::Write;

use crc::{CRC_32_ISO_HDLC, Crc};
use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::rng::TokenRng;

use crate::{Mismatch, Report, brief};

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// What an output is made of.
trait Value: Copy {
    /// Its bits, and zeros.
    fn word(self) -> u32;
}

macro_rules! value {
    ($($ty:ty: $word:expr;)*) => {$(
        impl Value for $ty {
            fn word(self) -> u32 {
                let word: fn(Self) -> u32 = $word;
                word(self)
            }
        }
    )*};
}

value! {
    i8: |v| v as u32;
    i16: |v| v as u32;
    f32: f32::to_bits;
    f16: |v| v.to_bits() as u32;
}

/// The checksum of what came before, going on with `values`.
fn go_on<T: Value>(sum: &Cell<u32>, values: &[T]) {
    let mut digest = CRC.digest();
    digest.update(&sum.get().to_le_bytes());
    for value in values {
        digest.update(&value.word().to_le_bytes());
    }
    sum.set(digest.finalize());
}

/// Hands operations on, and keeps a checksum of what each gives. Those that are not here are the reference's.
macro_rules! recorder {
    (@method $name:ident($($arg:ident: $ty:ty),*) [$($out:expr),+]) => {
        fn $name(&self, $($arg: $ty),*) {
            self.ops.$name($($arg),*);
            $(go_on(&self.sums.$name, $out);)+
        }
    };
    (@method $name:ident($($arg:ident: $ty:ty),*) -> $ret:ident [$($out:expr),+]) => {
        fn $name(&self, $($arg: $ty),*) -> $ret {
            let given = self.ops.$name($($arg),*);
            $(go_on(&self.sums.$name, $out);)+
            go_on(&self.sums.$name, &[given]);
            given
        }
    };
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ident)? [$($out:expr),+] = $pinned:literal;)*) => {
        /// A checksum of what each operation that is listed below gave.
        #[derive(Default)]
        struct Sums {
            $($name: Cell<u32>,)*
            gumbel: Cell<u32>,
        }

        struct Recorder<'a> {
            ops: &'a dyn Ops,
            sums: Sums,
        }

        impl Ops for Recorder<'_> {
            fn name(&self) -> &'static str {
                self.ops.name()
            }

            $(recorder! { @method $name($($arg: $ty),*) $(-> $ret)? [$($out),+] })*
        }

        /// Name, checksum, and what it was when it was pinned.
        fn operations(sums: &Sums) -> impl Iterator<Item = (&'static str, u32, u32)> {
            [
                $((stringify!($name), sums.$name.get(), $pinned),)*
                ("gumbel", sums.gumbel.get(), GUMBEL),
            ]
            .into_iter()
        }
    };
}

/// Of draws; not an operation, but floats of a library.
const GUMBEL: u32 = 0xb378_6d48;

recorder! {
    layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]) [out] = 0x7e85_a1f6;
    quantize_i8(x: &[f32], out: &mut [i8]) -> f32 [out] = 0x1262_f776;
    quantize_i12(x: &[f32], out: &mut [i16]) -> f32 [out] = 0x51f1_93fe;
    gemm_i8(x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) [out] = 0x0a4e_f57b;
    gemm_i12(
        x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]
    ) [out] = 0x20c9_afd9;
    gelu(x: &mut [f32]) [x] = 0x9165_ac67;
    add_gated(x: &mut [f32], gain: &[f32], y: &[f32]) [x] = 0x4c59_4f32;
    attend(
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32]
    ) [out] = 0x1085_b0d1;
    norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool) [x] = 0x5aee_f76d;
    map_stats(
        x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]
    ) [sum, min, max] = 0x6821_ac23;
    map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]) [sum] = 0x21ab_d013;
    normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]) [x] = 0x0bd8_f417;
    quantize_heads(
        x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]
    ) [out, scales] = 0xc857_f5d9;
    widen_f16(x: &[f16], out: &mut [f32]) [out] = 0x9d0a_e523;
    narrow_f16(x: &mut [f32], out: &mut [f16]) [x, out] = 0x6e88_8eb0;
    requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]) [out] = 0x555f_b184;
    requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]) [out] = 0x6ad3_5bba;
}

/// [`brief`], and the checksums of what the operations of its cases give, which are the same on every processor; those of
/// draws, too. Products of 4-bit and of float weights are not among them. Fails alone where [`Scalar`](varmint_core::Scalar)
/// itself gives something else: other kernels fail in [`brief`].
///
/// # Errors
/// The first output that is not the reference's, or every operation that gives something else here than elsewhere.
pub fn pinned(ops: &dyn Ops) -> Result<Report, Mismatch> {
    let recorder = Recorder { ops, sums: Sums::default() };
    let report = brief(&recorder)?;
    for token in 0..64 {
        let rng = TokenRng::new(1, 2, token);
        go_on(&recorder.sums.gumbel, &[0, 1, 2, 3].map(|entry| rng.gumbel(entry)));
    }
    let mut wrong = String::new();
    for (name, got, want) in operations(&recorder.sums) {
        if got != want {
            let _ = write!(wrong, "; {name}: {got:#010x}, should be {want:#010x}");
        }
    }
    if wrong.is_empty() {
        return Ok(report);
    }
    Err(Mismatch(alloc::format!("{}: checksums of outputs{wrong}", ops.name())))
}
