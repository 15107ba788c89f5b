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
}

/// Whether every listed feature of x86-64 is there: asked at run time, or told to the compiler.
macro_rules! x86_64 {
    (detected $($feature:tt)*) => {{
        #[cfg(target_arch = "x86_64")]
        let found = true $(&& std::arch::is_x86_feature_detected!($feature))*;
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found
    }};
    (built $($feature:tt)*) => {
        cfg!(all(target_arch = "x86_64", $(target_feature = $feature),*))
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
        }
    };
}

impl Isa {
    /// Every instruction set, plainest first.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Vnni];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
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
