//! The device: driver, memory, kernels, launches and graphs. All that is unsafe is here.

#![allow(unsafe_code, reason = "the driver's interface")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};

use bytemuck::{NoUninit, Pod};
use cudarc::driver::{DriverError, result, sys};

use crate::error::Error;
use crate::params::Ptr;

macro_rules! kernels {
    ($($module:ident: $($name:ident)*;)*) => {
        /// The kernels, by the files in `kernels/`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "their names in the files")]
        pub(crate) enum Kernel { $($($name),*),* }

        const KERNELS: &[(Kernel, Module, &str)] = &[$($((Kernel::$name, Module::$module, stringify!($name))),*),*];

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, reason = "their names in the files")]
        enum Module { $($module),* }

        /// PTX for Xavier, for Ampere (Orin) and for Hopper, each and later, nul-terminated as the driver wants it.
        const PTX: &[[&str; 3]] = &[$([
            concat!(include_str!(concat!("../kernels/ptx/compute_72/", stringify!($module), ".ptx")), "\0"),
            concat!(include_str!(concat!("../kernels/ptx/compute_80/", stringify!($module), ".ptx")), "\0"),
            concat!(include_str!(concat!("../kernels/ptx/compute_90/", stringify!($module), ".ptx")), "\0"),
        ]),*];
    };
}

kernels! {
    rows: setup baked_rows add_vector norm_rows quantize_rows begin_first begin split_heads gemm_float finish_rows;
    gemm: gemm_few gemm_few_wide gemm_few_deep gemm_few_deep_wide gemm_128x128 gemm_128x128_wide gemm_128x64
        gemm_128x64_wide gemm_64x32 gemm_64x32_wide gemm_any gemm_any_wide gemm_4bit;
    attention: attend_64 attend_any attend_map;
    keep: observe keep;
    latent: draw enlarge phi reduce clear;
    maps: fill row_stats add_stats map_range row_squares finish_norm store_map;
    measure: mma_peak;
}

/// Words of the largest parameter.
const PARAM_WORDS: usize = 46;

/// One launch: what a graph is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    params: [u64; PARAM_WORDS],
}

impl Launch {
    pub(crate) fn new<P: Pod + NoUninit>(
        kernel: Kernel,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        params: &P,
    ) -> Self {
        const { assert!(size_of::<P>() <= 8 * PARAM_WORDS) };
        let mut words = [0u64; PARAM_WORDS];
        let bytes = bytemuck::bytes_of(params);
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        let grid = grid.map(|g| g as u32);
        Self { kernel, grid, block: block as u32, shared: shared as u32, params: words }
    }
}

/// A graph, with the launches that it was made of: so it is never replayed for others.
struct Graph {
    launches: Vec<Launch>,
    exec: sys::CUgraphExec,
}

/// Facts of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: usize,
    /// Bytes of memory in all.
    pub memory: usize,
    /// Whether it shares the host's memory (Jetson).
    pub integrated: bool,
    /// The driver's CUDA version, major and minor.
    pub driver: (u32, u32),
}

impl Facts {
    /// Whether it has int8 tensor cores that the kernels use (from Ampere on).
    pub fn tensor(&self) -> bool {
        self.capability >= (8, 0)
    }
}

/// A device with its kernels loaded.
pub(crate) struct Device {
    pub(crate) facts: Facts,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: Vec<sys::CUfunction>,
    graphs: HashMap<u64, Graph>,
    /// Whether launches are captured and replayed.
    pub(crate) capture: bool,
    /// Graphs launched, and single kernels.
    pub(crate) launched: (u64, u64),
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The oldest driver whose interface is used: CUDA 11.4 is that of JetPack 5.
const DRIVER: (u32, u32) = (11, 4);
/// The oldest compute capability that the PTX is made for.
const CAPABILITY: (u32, u32) = (7, 2);

fn driver(e: DriverError) -> Error {
    let text = e.error_string().ok().map(|s| s.to_string_lossy().into_owned());
    Error::Driver { code: e.0 as u32, text: text.unwrap_or_else(|| "no description".into()) }
}

impl Device {
    /// The first device, with its kernels.
    pub(crate) fn open() -> Result<Self, Error> {
        // SAFETY: only loads the library and unloads it again.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        // A library that lacks a function makes the bindings panic; to us it is an old driver.
        std::panic::catch_unwind(Self::open_inner).unwrap_or(Err(Error::BrokenDriver))
    }

    fn open_inner() -> Result<Self, Error> {
        if let Err(e) = result::init() {
            return Err(match e.0 {
                sys::CUresult::CUDA_ERROR_NO_DEVICE => Error::NoDevice,
                _ => driver(e),
            });
        }
        if result::device::get_count().map_err(driver)? == 0 {
            return Err(Error::NoDevice);
        }
        let device = result::device::get(0).map_err(driver)?;
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver)?;
        let version = (version as u32 / 1000, version as u32 % 1000 / 10);
        if version < DRIVER {
            return Err(Error::OldDriver { need: DRIVER, got: version });
        }
        use sys::CUdevice_attribute_enum as A;
        // SAFETY: the device is the driver's.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(driver);
        let capability = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        );
        if capability < CAPABILITY {
            return Err(Error::OldDevice { need: CAPABILITY, got: capability });
        }
        let facts = Facts {
            name: result::device::get_name(device).map_err(driver)?,
            capability,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared_memory: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize,
            // SAFETY: the device is the driver's.
            memory: unsafe { result::device::total_mem(device) }.map_err(driver)?,
            integrated: attribute(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
            driver: version,
        };
        // SAFETY: released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver)?;
        let mut this = Self {
            facts,
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            functions: Vec::new(),
            graphs: HashMap::new(),
            capture: true,
            launched: (0, 0),
        };
        this.bind()?;
        this.stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(driver)?;
        this.load()?;
        Ok(this)
    }

    fn load(&mut self) -> Result<(), Error> {
        for [xavier, ampere, hopper] in PTX {
            let text = match self.facts.capability.0 {
                0..8 => xavier,
                8 => ampere,
                _ if self.early() => hopper,
                _ => ampere,
            };
            let text = CStr::from_bytes_with_nul(text.as_bytes()).map_err(|_| Error::Ptx)?;
            // SAFETY: nul-terminated PTX.
            let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
            self.modules.push(module.map_err(driver)?);
        }
        for &(_, module, name) in KERNELS {
            let name = CString::new(name).map_err(|_| Error::Ptx)?;
            // SAFETY: the module was loaded above.
            let f = unsafe { result::module::get_function(self.modules[module as usize], name) };
            let f = match f {
                // Kernels for int8 tensor cores are not in the text for Xavier, and `tensor` keeps others from asking.
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND && !self.facts.tensor() => {
                    self.functions.push(std::ptr::null_mut());
                    continue;
                }
                f => f.map_err(driver)?,
            };
            use sys::CUfunction_attribute_enum as A;
            // SAFETY: the function exists. Not all kernels use shared memory that the launch sizes.
            let own = unsafe {
                result::function::get_function_attribute(f, A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
            };
            let most = self.facts.shared_memory as i32 - own.map_err(driver)?;
            let attribute = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: as above.
            unsafe { result::function::set_function_attribute(f, attribute, most) }
                .map_err(driver)?;
            self.functions.push(f);
        }
        Ok(())
    }

    /// Makes the context the calling thread's.
    pub(crate) fn bind(&self) -> Result<(), Error> {
        // SAFETY: retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver)
    }

    /// Bytes of device memory that are free.
    pub(crate) fn free(&self) -> Result<usize, Error> {
        self.bind()?;
        result::mem_get_info().map(|(free, _)| free).map_err(driver)
    }

    /// Takes memory, or says how much there is.
    pub(crate) fn take(&self, bytes: usize) -> Result<Memory, Error> {
        self.bind()?;
        // SAFETY: freed by `Memory`.
        match unsafe { result::malloc_sync(bytes.max(16)) } {
            Ok(at) => Ok(Memory { at, bytes, registered: None }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(Error::Memory { need: bytes, got: self.free()? })
            }
            Err(e) => Err(driver(e)),
        }
    }

    /// The bytes of a model where the device can read them: on a device that shares the host's memory the same
    /// ones, otherwise a copy.
    pub(crate) fn map(&self, bytes: &[u8]) -> Result<Memory, Error> {
        self.bind()?;
        if self.facts.integrated {
            let host = bytes.as_ptr().cast_mut().cast::<c_void>();
            let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_READ_ONLY;
            let mut at = 0;
            // SAFETY: `Memory` ends the registration, and is dropped before the bytes are: see `Cuda`'s lifetime.
            let mut registered =
                unsafe { sys::cuMemHostRegister_v2(host, bytes.len(), flags) }.result();
            if registered.is_ok() {
                // SAFETY: registered just now.
                registered =
                    unsafe { sys::cuMemHostGetDevicePointer_v2(&mut at, host, 0) }.result();
            }
            if registered.is_ok() {
                return Ok(Memory { at, bytes: bytes.len(), registered: Some(host as usize) });
            }
        }
        let memory = self.take(bytes.len())?;
        self.write(memory.at, bytes)?;
        Ok(memory)
    }

    /// Copies to the device, after what was queued.
    pub(crate) fn write(&self, to: Ptr, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: callers pass places inside of a `Memory`; pageable bytes are staged before this returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(driver)
    }

    /// Waits, then copies from the device.
    pub(crate) fn read(&self, from: Ptr, bytes: &mut [u8]) -> Result<(), Error> {
        self.bind()?;
        // SAFETY: callers pass places inside of a `Memory`; the wait ends the copy before `bytes` is used.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }.map_err(driver)?;
        self.wait()
    }

    /// Waits for all that was launched.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver)
    }

    /// Whether kernels of a graph begin before the one before has ended.
    fn early(&self) -> bool {
        self.facts.capability >= (9, 0) && self.facts.driver >= (12, 3)
    }

    /// Launches a kernel, `early` before the one before has ended.
    fn launch(&mut self, l: &Launch, early: bool) -> Result<(), Error> {
        let mut params = l.params;
        if early {
            let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
            let mut attribute = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: l.grid[0],
                gridDimY: l.grid[1],
                gridDimZ: l.grid[2],
                blockDimX: l.block,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: l.shared,
                hStream: self.stream,
                attrs: &mut attribute,
                numAttrs: 1,
            };
            let f = self.functions[l.kernel as usize];
            // SAFETY: as below; the configuration outlives the call. Every kernel waits for the one before it.
            let done = unsafe {
                sys::cuLaunchKernelEx(&config, f, pointers.as_mut_ptr(), std::ptr::null_mut())
            };
            return done.result().map_err(driver);
        }
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        let (grid, f) = (l.grid, self.functions[l.kernel as usize]);
        // SAFETY: every kernel has one parameter, a struct that `params` mirrors.
        let done = unsafe {
            result::launch_kernel(
                f,
                (grid[0], grid[1], grid[2]),
                (l.block, 1, 1),
                l.shared,
                self.stream,
                &mut pointers,
            )
        };
        done.map_err(driver)
    }

    /// Launches in order: one by one, or as a graph that is made at the first time.
    pub(crate) fn submit(&mut self, launches: &[Launch], graph: bool) -> Result<(), Error> {
        self.bind()?;
        if !(graph && self.capture) || launches.len() < 2 {
            for l in launches {
                self.launch(l, false)?;
            }
            self.launched.1 += launches.len() as u64;
            return Ok(());
        }
        let key = {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut h = DefaultHasher::new();
            launches.hash(&mut h);
            h.finish()
        };
        if self.graphs.get(&key).is_none_or(|g| g.launches != launches) {
            let exec = self.record(launches)?;
            let old = self.graphs.insert(key, Graph { launches: launches.to_vec(), exec });
            if let Some(old) = old {
                // SAFETY: made by `record`, and in the map no more.
                unsafe { result::graph::exec_destroy(old.exec) }.map_err(driver)?;
            }
        }
        if let Some(g) = self.graphs.get(&key) {
            // SAFETY: both live.
            unsafe { result::graph::launch(g.exec, self.stream) }.map_err(driver)?;
        }
        self.launched.0 += 1;
        Ok(())
    }

    fn record(&mut self, launches: &[Launch]) -> Result<sys::CUgraphExec, Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives, and is not the default one.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(driver)?;
        let early = self.early();
        let mut queued = launches.iter().enumerate();
        let queued = queued.try_for_each(|(i, l)| self.launch(l, early && i > 0));
        // SAFETY: begun above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        queued?;
        let graph = graph.map_err(driver)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was made above; the executable one does not need it.
        unsafe {
            let exec = result::graph::instantiate(graph, flags).map_err(driver);
            result::graph::destroy(graph).map_err(driver)?;
            exec
        }
    }

    /// Graphs made so far.
    pub(crate) fn graphs(&self) -> usize {
        self.graphs.len()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: each was made by this device and is used no more. Errors at the end help nobody.
        unsafe {
            let _ = self.bind();
            let _ = result::stream::synchronize(self.stream);
            for g in self.graphs.values() {
                let _ = result::graph::exec_destroy(g.exec);
            }
            for &m in &self.modules {
                let _ = result::module::unload(m);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

// SAFETY: the driver's handles may be used from any thread that makes the context its own, which every entry does.
unsafe impl Send for Device {}

/// Bytes on the device.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) at: Ptr,
    pub(crate) bytes: usize,
    /// The host's bytes, where they are the same.
    registered: Option<usize>,
}

impl Memory {
    /// Whether they are the host's own.
    pub(crate) fn shared(&self) -> bool {
        self.registered.is_some()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: taken or registered once; `Cuda` drops its memory before its device. Errors help nobody here.
        unsafe {
            let _ = match self.registered {
                Some(host) => sys::cuMemHostUnregister(host as *mut c_void).result(),
                None => result::free_sync(self.at),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params as p;

    /// Bytes of a kernel's parameter, as this side has them.
    fn bytes(kernel: Kernel) -> usize {
        use Kernel as K;
        match kernel {
            K::setup => size_of::<p::Setup>(),
            K::baked_rows => size_of::<p::BakedRows>(),
            K::add_vector => size_of::<p::AddVector>(),
            K::norm_rows => size_of::<p::NormRows>(),
            K::quantize_rows => size_of::<p::QuantizeRows>(),
            K::begin_first => size_of::<p::BeginFirst>(),
            K::begin => size_of::<p::Begin>(),
            K::split_heads => size_of::<p::Heads>(),
            K::gemm_float => size_of::<p::Floats>(),
            K::finish_rows => size_of::<p::FinishRows>(),
            K::gemm_4bit => size_of::<p::Gemm4>(),
            K::attend_64 | K::attend_any => size_of::<p::Attend>(),
            K::observe | K::keep => size_of::<p::Keep>(),
            K::attend_map => size_of::<p::AttendMap>(),
            K::draw => size_of::<p::Draw>(),
            K::enlarge | K::phi => size_of::<p::Fold>(),
            K::reduce => size_of::<p::Reduce>(),
            K::clear => size_of::<p::Clear>(),
            K::fill => size_of::<p::Fill>(),
            K::row_stats => size_of::<p::RowStats>(),
            K::add_stats => size_of::<p::AddStats>(),
            K::map_range => size_of::<p::MapRange>(),
            K::row_squares => size_of::<p::RowSquares>(),
            K::finish_norm => size_of::<p::FinishNorm>(),
            K::store_map => size_of::<p::StoreMap>(),
            K::mma_peak => size_of::<p::Peak>(),
            _ => size_of::<p::Gemm>(),
        }
    }

    /// What a kernel reads is what is sent: as long, and for Xavier missing only where tensor cores are needed.
    #[test]
    fn parameters_are_those_of_the_kernels() {
        for &(kernel, module, name) in KERNELS {
            for (i, text) in PTX[module as usize].iter().enumerate() {
                let found = text.split_once(&format!("{name}_param_0[")).map(|(_, rest)| rest);
                let size = found.and_then(|rest| rest.split_once(']')).map(|(n, _)| n);
                let tensor = matches!(
                    kernel,
                    Kernel::gemm_128x128
                        | Kernel::gemm_128x128_wide
                        | Kernel::gemm_128x64
                        | Kernel::gemm_128x64_wide
                        | Kernel::attend_64
                );
                let want = (i > 0 || !tensor).then(|| bytes(kernel).to_string());
                assert_eq!(size, want.as_deref(), "{name}, text {i}");
            }
        }
    }
}
