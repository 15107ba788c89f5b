//! What one core can do at most: loops that live in registers, and a read of memory no cache holds.
//!
//! Every step is an `asm!` block, so that what runs is what is written: with intrinsics the compiler
//! hoists products of loop-invariant operands and takes `vpdpwssd` apart.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use std::time::Instant;

/// Bytes read to measure memory: far beyond the last cache.
const MEMORY: usize = 256 << 20;

/// A loop and what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ceiling {
    /// `vfmadd231ps`, 8 lanes.
    Fma,
    /// `vmulps`, `vaddps`, 8 lanes: the order of docs/arithmetic.md leaves no fused products.
    MulAdd,
    /// `vpmaddwd`, `vpaddd`: 16-bit operands, exact.
    Maddwd,
    /// `vpsignb`, `vpmaddubsw`, `vpmaddwd`, `vpaddd`, with `vpabsb` hoisted: 8-bit operands, exact.
    Sign,
    /// Eight steps of `vpmaddubsw`, `vpaddw`, then `vpmaddwd`, `vpaddd`: a group of 32 4-bit weights.
    Group,
    /// `vpdpbusd`, 16 lanes.
    Dpbusd,
    /// `vpdpwssd`, 16 lanes.
    Dpwssd,
    /// Eight steps of `vpdpbusd`, then `vpdpwssd`: a group of 32 4-bit weights.
    GroupVnni,
}

impl Ceiling {
    /// Those that this processor can run.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            use Ceiling::*;
            let mut all = Vec::new();
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.extend([Fma, MulAdd, Maddwd, Sign, Group]);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                all.extend([Dpbusd, Dpwssd, GroupVnni]);
            }
            all
        }
        #[cfg(not(target_arch = "x86_64"))]
        Vec::new()
    }

    /// Its instructions, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fma => "f32: vfmadd231ps",
            Self::MulAdd => "f32: vmulps + vaddps",
            Self::Maddwd => "8 and 12 bits: vpmaddwd + vpaddd",
            Self::Sign => "8 bits: vpsignb + vpmaddubsw + vpmaddwd + vpaddd",
            Self::Group => "4 bits: 8 (vpmaddubsw + vpaddw) + vpmaddwd + vpaddd",
            Self::Dpbusd => "8 bits: vpdpbusd (zmm)",
            Self::Dpwssd => "12 bits: vpdpwssd (zmm)",
            Self::GroupVnni => "4 bits: 8 vpdpbusd + vpdpwssd (zmm)",
        }
    }

    /// GMAC/s of this moment, the best of four tries of 1 ms: a ceiling, so what interrupts is left out.
    pub(crate) fn measure(self) -> f64 {
        #[cfg(target_arch = "x86_64")]
        {
            const TURNS: u64 = 2_000;
            let mut best = 0.0f64;
            for _ in 0..4 {
                let (start, mut macs) = (Instant::now(), 0);
                while start.elapsed().as_secs_f64() < 1e-3 {
                    // SAFETY: `all` hands out only what the processor has.
                    macs += unsafe {
                        match self {
                            Self::Fma => x86_64::fma(TURNS),
                            Self::MulAdd => x86_64::mul_add(TURNS),
                            Self::Maddwd => x86_64::maddwd(TURNS),
                            Self::Sign => x86_64::sign(TURNS),
                            Self::Group => x86_64::group(TURNS / 4),
                            Self::Dpbusd => x86_64::dpbusd(TURNS),
                            Self::Dpwssd => x86_64::dpwssd(TURNS),
                            Self::GroupVnni => x86_64::group_vnni(TURNS / 4),
                        }
                    };
                }
                best = best.max(macs as f64 / start.elapsed().as_secs_f64() / 1e9);
            }
            best
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("`all` is empty here")
    }
}

/// The core's clock in GHz, from a chain of `imul`, 3 cycles each on every x86-64 of this decade.
pub(crate) fn clock() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        const TURNS: u64 = 50_000;
        let (start, mut x) = (Instant::now(), 3u64);
        for _ in 0..TURNS {
            // SAFETY: multiplies a register.
            unsafe {
                core::arch::asm!(
                    ".rept 16", "imul {x}, {x}", ".endr",
                    x = inout(reg) x, options(nomem, nostack)
                );
            }
        }
        std::hint::black_box(x);
        Some((TURNS * 16 * 3) as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Memory that no cache holds.
pub(crate) struct Memory(Vec<u64>);

impl Memory {
    pub(crate) fn new() -> Self {
        // Not zeros: the pages must exist.
        Self(vec![1; MEMORY / 8])
    }

    /// GB/s of one pass.
    pub(crate) fn read(&self) -> f64 {
        let start = Instant::now();
        let sum = self.0.chunks_exact(32).fold([0u64; 32], |mut sum, x| {
            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            sum
        });
        std::hint::black_box(sum);
        MEMORY as f64 / start.elapsed().as_secs_f64() / 1e9
    }
}

/// The loops. Each returns the multiply-accumulates that it did. Ten sums (sixteen of 512 bits) hide the
/// latency of 4 to 5 cycles at two instructions a cycle and leave registers for the operands.
#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;
    use core::arch::x86_64::*;

    /// A loop of `$turns` over `$sums` accumulators `$acc`, started at `$zero`.
    macro_rules! turns {
        ($turns:ident, $sums:literal, $zero:expr, $macs:literal, |$acc:ident| $step:block) => {{
            let mut sums = [$zero; $sums];
            for _ in 0..$turns {
                for $acc in &mut sums $step
            }
            std::hint::black_box(&sums);
            $turns * $sums * $macs
        }};
    }

    /// # Safety
    /// AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn fma(turns: u64) -> u64 {
        let (a, b) = (_mm256_set1_ps(0.5), _mm256_set1_ps(0.25));
        turns!(turns, 10, _mm256_setzero_ps(), 8, |acc| {
            // SAFETY: registers, and features of this function.
            unsafe {
                asm!(
                    "vfmadd231ps {acc}, {a}, {b}",
                    acc = inout(ymm_reg) *acc, a = in(ymm_reg) a, b = in(ymm_reg) b,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn mul_add(turns: u64) -> u64 {
        let (a, b) = (_mm256_set1_ps(0.5), _mm256_set1_ps(0.25));
        turns!(turns, 10, _mm256_setzero_ps(), 8, |acc| {
            // SAFETY: as in `fma`.
            unsafe {
                asm!(
                    "vmulps {t}, {a}, {b}",
                    "vaddps {acc}, {acc}, {t}",
                    acc = inout(ymm_reg) *acc, a = in(ymm_reg) a, b = in(ymm_reg) b,
                    t = out(ymm_reg) _,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn maddwd(turns: u64) -> u64 {
        let (a, b) = (_mm256_set1_epi16(3), _mm256_set1_epi16(-5));
        turns!(turns, 10, _mm256_setzero_si256(), 16, |acc| {
            // SAFETY: as in `fma`.
            unsafe {
                asm!(
                    "vpmaddwd {t}, {a}, {b}",
                    "vpaddd {acc}, {acc}, {t}",
                    acc = inout(ymm_reg) *acc, a = in(ymm_reg) a, b = in(ymm_reg) b,
                    t = out(ymm_reg) _,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sign(turns: u64) -> u64 {
        let (a, w) = (_mm256_set1_epi8(-3), _mm256_set1_epi8(5));
        let (abs, ones) = (_mm256_abs_epi8(w), _mm256_set1_epi16(1));
        turns!(turns, 10, _mm256_setzero_si256(), 32, |acc| {
            // SAFETY: as in `fma`.
            unsafe {
                asm!(
                    "vpsignb {t}, {a}, {w}",
                    "vpmaddubsw {t}, {abs}, {t}",
                    "vpmaddwd {t}, {t}, {ones}",
                    "vpaddd {acc}, {acc}, {t}",
                    acc = inout(ymm_reg) *acc, a = in(ymm_reg) a, w = in(ymm_reg) w,
                    abs = in(ymm_reg) abs, ones = in(ymm_reg) ones, t = out(ymm_reg) _,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn group(turns: u64) -> u64 {
        let (a, w, scale) = (_mm256_set1_epi8(-3), _mm256_set1_epi8(5), _mm256_set1_epi16(7));
        let mut shorts = [_mm256_setzero_si256(); 4];
        let mut sums = shorts;
        for _ in 0..turns {
            for _ in 0..8 {
                for short in &mut shorts {
                    // SAFETY: as in `fma`.
                    unsafe {
                        asm!(
                            "vpmaddubsw {t}, {w}, {a}",
                            "vpaddw {short}, {short}, {t}",
                            short = inout(ymm_reg) *short, a = in(ymm_reg) a, w = in(ymm_reg) w,
                            t = out(ymm_reg) _,
                            options(nomem, nostack, preserves_flags)
                        );
                    }
                }
            }
            for (acc, short) in sums.iter_mut().zip(&mut shorts) {
                // SAFETY: as in `fma`.
                unsafe {
                    asm!(
                        "vpmaddwd {t}, {short}, {scale}",
                        "vpaddd {acc}, {acc}, {t}",
                        acc = inout(ymm_reg) *acc, short = in(ymm_reg) *short,
                        scale = in(ymm_reg) scale, t = out(ymm_reg) _,
                        options(nomem, nostack, preserves_flags)
                    );
                }
                // The next group starts from a register, as a kernel's does from its table.
                *short = a;
            }
        }
        std::hint::black_box(&sums);
        turns * 4 * 8 * 32
    }

    /// # Safety
    /// AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn dpbusd(turns: u64) -> u64 {
        let (w, a) = (_mm512_set1_epi8(5), _mm512_set1_epi8(-3));
        turns!(turns, 16, _mm512_setzero_si512(), 64, |acc| {
            // SAFETY: as in `fma`.
            unsafe {
                asm!(
                    "vpdpbusd {acc}, {w}, {a}",
                    acc = inout(zmm_reg) *acc, w = in(zmm_reg) w, a = in(zmm_reg) a,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn dpwssd(turns: u64) -> u64 {
        let (w, a) = (_mm512_set1_epi16(5), _mm512_set1_epi16(-3));
        turns!(turns, 16, _mm512_setzero_si512(), 32, |acc| {
            // SAFETY: as in `fma`.
            unsafe {
                asm!(
                    "vpdpwssd {acc}, {w}, {a}",
                    acc = inout(zmm_reg) *acc, w = in(zmm_reg) w, a = in(zmm_reg) a,
                    options(nomem, nostack, preserves_flags)
                );
            }
        })
    }

    /// # Safety
    /// AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn group_vnni(turns: u64) -> u64 {
        let (w, a, scale) = (_mm512_set1_epi8(5), _mm512_set1_epi8(-3), _mm512_set1_epi16(7));
        let mut groups = [_mm512_setzero_si512(); 12];
        let mut sums = groups;
        for _ in 0..turns {
            for _ in 0..8 {
                for group in &mut groups {
                    // SAFETY: as in `fma`.
                    unsafe {
                        asm!(
                            "vpdpbusd {group}, {w}, {a}",
                            group = inout(zmm_reg) *group, w = in(zmm_reg) w, a = in(zmm_reg) a,
                            options(nomem, nostack, preserves_flags)
                        );
                    }
                }
            }
            for (acc, group) in sums.iter_mut().zip(&mut groups) {
                // SAFETY: as in `fma`.
                unsafe {
                    asm!(
                        "vpdpwssd {acc}, {group}, {scale}",
                        acc = inout(zmm_reg) *acc, group = in(zmm_reg) *group,
                        scale = in(zmm_reg) scale,
                        options(nomem, nostack, preserves_flags)
                    );
                }
                // As in `group`.
                *group = a;
            }
        }
        std::hint::black_box(&sums);
        turns * 12 * 8 * 64
    }
}
