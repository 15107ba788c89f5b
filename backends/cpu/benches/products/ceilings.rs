//! What one core multiplies at most, by instruction: loops over registers only, GMAC/s.

use std::time::Instant;

/// An instruction sequence, the instruction set that has it, and its limit.
pub(crate) struct Ceiling {
    /// The instructions of a step.
    pub(crate) name: &'static str,
    /// GMAC/s.
    pub(crate) gmacs: f64,
}

/// Ten independent sums, `$body` naming the sum `{}`, `$macs` multiplications in each.
#[cfg(target_arch = "x86_64")]
macro_rules! ceiling {
    ($list:ident, $name:literal, $macs:literal, $($part:literal),+) => {{
        const STEPS: u64 = 200_000;
        let mut best = f64::MAX;
        for _ in 0..15 {
            let start = Instant::now();
            // SAFETY: the caller has found the instructions; only registers change, all of them named.
            unsafe {
                std::arch::asm!(
                    "2:",
                    ceiling!(@ten $($part),+),
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) STEPS => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                    out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                );
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let gmacs = (STEPS * 10 * $macs) as f64 / best / 1e9;
        $list.push(Ceiling { name: $name, gmacs });
    }};
    (@ten $($part:literal),+) => {
        concat!(
            ceiling!(@one "0", $($part),+), ceiling!(@one "1", $($part),+),
            ceiling!(@one "2", $($part),+), ceiling!(@one "3", $($part),+),
            ceiling!(@one "4", $($part),+), ceiling!(@one "5", $($part),+),
            ceiling!(@one "6", $($part),+), ceiling!(@one "7", $($part),+),
            ceiling!(@one "8", $($part),+), ceiling!(@one "9", $($part),+)
        )
    };
    // The first and the last part embrace the sum's register; those between are instructions of their own.
    (@one $i:literal, $before:literal, $middle:literal, $after:literal) => {
        concat!($before, $middle, $i, ", ", $after, "\n")
    };
    (@one $i:literal, $before:literal, $a:literal, $b:literal, $after:literal) => {
        concat!($before, $a, $i, $b, $i, $after, "\n")
    };
}

/// The limits of this core.
#[cfg(target_arch = "x86_64")]
pub(crate) fn measure() -> Vec<Ceiling> {
    let mut list = Vec::new();
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        ceiling!(list, "f32 vfmadd231ps", 8, "", "vfmadd231ps ymm", "ymm14, ymm15");
        ceiling!(
            list,
            "f32 vmulps, vaddps",
            8,
            "vmulps ymm13, ymm14, ymm15\n",
            "vaddps ymm",
            ", ymm",
            ", ymm13"
        );
        ceiling!(
            list,
            "i16 vpmaddwd, vpaddd",
            16,
            "vpmaddwd ymm13, ymm14, ymm15\n",
            "vpaddd ymm",
            ", ymm",
            ", ymm13"
        );
        ceiling!(
            list,
            "i8 vpsignb, vpmaddubsw, vpmaddwd, vpaddd",
            32,
            "vpsignb ymm12, ymm14, ymm15\nvpmaddubsw ymm13, ymm15, ymm12\nvpmaddwd ymm13, ymm13, ymm11\n",
            "vpaddd ymm",
            ", ymm",
            ", ymm13"
        );
        ceiling!(
            list,
            "i4 vpmaddubsw, vpaddw",
            32,
            "vpmaddubsw ymm13, ymm14, ymm15\n",
            "vpaddw ymm",
            ", ymm",
            ", ymm13"
        );
    }
    if std::is_x86_feature_detected!("avx512vnni") {
        ceiling!(list, "i8 vpdpbusd zmm", 64, "", "vpdpbusd zmm", "zmm14, zmm15");
        ceiling!(list, "i16 vpdpwssd zmm", 32, "", "vpdpwssd zmm", "zmm14, zmm15");
    }
    list
}

/// Nothing is known of other processors yet.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn measure() -> Vec<Ceiling> {
    let _ = Instant::now();
    Vec::new()
}
