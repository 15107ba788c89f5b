//! What can go wrong before a run, with the numbers that help.

use std::fmt;

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// There is no NVIDIA driver.
    NoDriver,
    /// The driver's library lacks functions that every supported one has.
    BrokenDriver,
    /// The driver is too old: CUDA versions, major and minor.
    OldDriver {
        /// Needed.
        need: (u32, u32),
        /// Found.
        got: (u32, u32),
    },
    /// There is a driver, but no device.
    NoDevice,
    /// The device is too old: compute capabilities.
    OldDevice {
        /// Needed.
        need: (u32, u32),
        /// Found.
        got: (u32, u32),
    },
    /// Too little memory on the device, in bytes.
    Memory {
        /// Asked for.
        need: usize,
        /// Free.
        got: usize,
    },
    /// The tier or the model asks for what the kernels do not do.
    Unsupported(&'static str),
    /// A kernel's text is not what it should be: a defect of the build.
    Ptx,
    /// The driver's own error.
    Driver {
        /// Its number.
        code: u32,
        /// Its text.
        text: String,
    },
    /// An error of the core.
    Core(varmint_core::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("no NVIDIA driver (libcuda) is installed"),
            Self::BrokenDriver => {
                f.write_str("the NVIDIA driver's library lacks functions: reinstall the driver")
            }
            Self::OldDriver { need, got } => write!(
                f,
                "the NVIDIA driver is too old: it has CUDA {}.{}, and {}.{} is needed",
                got.0, got.1, need.0, need.1
            ),
            Self::NoDevice => f.write_str("the NVIDIA driver finds no GPU"),
            Self::OldDevice { need, got } => write!(
                f,
                "the GPU is too old: it has compute capability {}.{}, and {}.{} is needed",
                got.0, got.1, need.0, need.1
            ),
            Self::Memory { need, got } => {
                write!(f, "{need} bytes of GPU memory are needed and {got} are free")
            }
            Self::Unsupported(what) => write!(f, "on the GPU there is no support for {what}"),
            Self::Ptx => f.write_str("a kernel of this build is damaged"),
            Self::Driver { code, text } => write!(f, "the NVIDIA driver says: {text} ({code})"),
            Self::Core(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<varmint_core::Error> for Error {
    fn from(e: varmint_core::Error) -> Self {
        Self::Core(e)
    }
}

/// As an error of the core, which carries numbers only: that of the driver, or 0.
impl From<Error> for varmint_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Core(e) => e,
            Error::Memory { need, got } => Self::ArenaTooSmall { need, got },
            Error::Unsupported(_) => Self::Unsupported,
            Error::Driver { code, .. } => Self::Backend(code),
            _ => Self::Backend(0),
        }
    }
}
