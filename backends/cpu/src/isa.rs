//! Instruction sets, and how one is found.

/// An instruction set that the kernels are written or compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// What the target has as its baseline: the reference, as the compiler made it.
    Baseline,
    /// AVX2 with F16C.
    Avx2,
    /// The former with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The former with VNNI.
    Vnni,
    /// 64-bit Arm: NEON.
    Neon,
    /// The former with the dot product extension.
    Dotprod,
    /// WebAssembly with 128-bit SIMD.
    Simd128,
    /// 32-bit Arm with the DSP extension, as the feature `dsp` says.
    Dsp,
}

/// Whether an architecture is the target's and every listed feature is there: asked at run time, or told
/// to the compiler.
macro_rules! has {
    (detected "x86_64": $($feature:tt)*) => {{
        #[cfg(target_arch = "x86_64")]
        let found = true $(&& std::arch::is_x86_feature_detected!($feature))*;
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found
    }};
    (detected "aarch64": $($feature:tt)*) => {{
        #[cfg(target_arch = "aarch64")]
        let found = true $(&& std::arch::is_aarch64_feature_detected!($feature))*;
        #[cfg(not(target_arch = "aarch64"))]
        let found = false;
        found
    }};
    (built $arch:tt: $($feature:tt)*) => {
        cfg!(all(target_arch = $arch, $(target_feature = $feature),*))
    };
}

/// The features of an instruction set.
macro_rules! features {
    ($how:ident, $isa:expr) => {
        match $isa {
            Self::Baseline => true,
            Self::Avx2 => has!($how "x86_64": "avx2" "f16c"),
            Self::Avx512 => {
                has!($how "x86_64": "avx2" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl")
            }
            Self::Vnni => has!(
                $how "x86_64": "avx2" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"
            ),
            Self::Neon => has!($how "aarch64": "neon"),
            Self::Dotprod => has!($how "aarch64": "neon" "dotprod"),
            // A module that uses it does not load where it is missing.
            Self::Simd128 => has!(built "wasm32": "simd128"),
            Self::Dsp => cfg!(all(target_arch = "arm", feature = "dsp")),
        }
    };
}

impl Isa {
    /// Every instruction set; of one architecture, the plainest first.
    pub const ALL: [Self; 8] = [
        Self::Baseline,
        Self::Avx2,
        Self::Avx512,
        Self::Vnni,
        Self::Neon,
        Self::Dotprod,
        Self::Simd128,
        Self::Dsp,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::Simd128 => "simd128",
            Self::Dsp => "dsp",
        }
    }

    /// Whether this processor has it.
    #[cfg(feature = "std")]
    pub(crate) fn is_detected(self) -> bool {
        features!(detected, self)
    }

    /// Whether the compiler was told that the target has it.
    pub(crate) const fn is_built_in(self) -> bool {
        features!(built, self)
    }
}
