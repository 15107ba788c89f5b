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
    /// NEON, of AArch64.
    Neon,
    /// The former with `sdot`.
    Dotprod,
}

/// Whether every listed feature of an architecture is there: asked at run time, or told to the compiler.
macro_rules! has {
    (detected $arch:literal $detected:ident $($feature:tt)*) => {{
        #[cfg(target_arch = $arch)]
        let found = true $(&& std::arch::$detected!($feature))*;
        #[cfg(not(target_arch = $arch))]
        let found = false;
        found
    }};
    (built $arch:literal $detected:ident $($feature:tt)*) => {
        cfg!(all(target_arch = $arch, $(target_feature = $feature),*))
    };
}

macro_rules! x86_64 {
    ($how:ident $($feature:tt)*) => {
        has!($how "x86_64" is_x86_feature_detected $($feature)*)
    };
}

macro_rules! aarch64 {
    ($how:ident $($feature:tt)*) => {
        has!($how "aarch64" is_aarch64_feature_detected $($feature)*)
    };
}

/// The features of an instruction set.
macro_rules! features {
    ($how:ident, $isa:expr) => {
        match $isa {
            Self::Baseline => true,
            Self::Avx2 => x86_64!($how "avx2" "f16c"),
            Self::Avx512 => {
                x86_64!($how "avx2" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl")
            }
            Self::Vnni => x86_64!(
                $how "avx2" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"
            ),
            Self::Neon => aarch64!($how "neon"),
            Self::Dotprod => aarch64!($how "neon" "dotprod"),
        }
    };
}

impl Isa {
    /// Every instruction set, an architecture's plainest first.
    pub const ALL: [Self; 6] =
        [Self::Baseline, Self::Avx2, Self::Avx512, Self::Vnni, Self::Neon, Self::Dotprod];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
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
