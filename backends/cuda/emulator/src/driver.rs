//! The functions of the driver. Work is done when it is asked for: a launch that fails says so at once, and its stream
//! does so ever after.

#![allow(missing_docs, reason = "as in NVIDIA's manual")]
#![allow(non_snake_case, reason = "the driver's names")]
#![allow(clippy::missing_safety_doc, reason = "as in NVIDIA's manual: pointers are valid")]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::config::Config;
use crate::decode::Kernel;
use crate::launch::{Module, Shape, launch};
use crate::memory::Memory;

/// The driver's numbers.
mod result {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const INVALID_VALUE: u32 = 1;
    pub(super) const OUT_OF_MEMORY: u32 = 2;
    pub(super) const INVALID_DEVICE: u32 = 101;
    pub(super) const NO_BINARY: u32 = 209;
    pub(super) const INVALID_PTX: u32 = 218;
    pub(super) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(super) const INVALID_HANDLE: u32 = 400;
    pub(super) const NOT_FOUND: u32 = 500;
    pub(super) const OUT_OF_RESOURCES: u32 = 701;
    pub(super) const ALREADY_REGISTERED: u32 = 712;
    pub(super) const NOT_REGISTERED: u32 = 713;
    pub(super) const CAPTURE_UNSUPPORTED: u32 = 900;
}
use result::*;

type Code = u32;

const ERRORS: &[(u32, &CStr, &CStr)] = &[
    (SUCCESS, c"CUDA_SUCCESS", c"no error"),
    (INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (NO_BINARY, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image for the device"),
    (INVALID_PTX, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (UNSUPPORTED_PTX_VERSION, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"PTX newer than the driver"),
    (INVALID_HANDLE, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (NOT_FOUND, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (OUT_OF_RESOURCES, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out"),
    (ALREADY_REGISTERED, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"memory already mapped"),
    (NOT_REGISTERED, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"pointer is not mapped memory"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (CAPTURE_UNSUPPORTED, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"not while a stream captures"),
];

/// A stream.
#[derive(Default)]
pub struct Stream {
    capture: Option<Vec<Node>>,
    error: u32,
}

/// A kernel of a module.
pub struct Function {
    module: Arc<Module>,
    index: usize,
    /// Bytes of shared memory that a launch may ask for.
    dynamic: AtomicU32,
}

impl Function {
    fn kernel(&self) -> &Kernel {
        &self.module.kernels[self.index]
    }
}

/// A module as it was loaded.
pub struct Loaded {
    module: Arc<Module>,
    functions: Mutex<HashMap<usize, Arc<Function>>>,
}

#[derive(Clone)]
struct Node {
    function: Arc<Function>,
    shape: Shape,
}

/// Launches in order.
pub struct Graph(Vec<Node>);

struct Device {
    config: Config,
    memory: Mutex<Memory>,
    /// Decoded texts, for every later module of the same.
    modules: Mutex<HashMap<String, Arc<Module>>>,
    graphs: AtomicU32,
    /// Held by a launch that leaves traces in memory, which are those of one launch.
    traces: Mutex<()>,
}

fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let config = Config::from_env();
        Device {
            memory: Mutex::new(Memory::new(config.memory)),
            modules: Mutex::default(),
            graphs: AtomicU32::new(0),
            traces: Mutex::default(),
            config,
        }
    })
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn say(what: &str) {
    use std::io::Write;
    // Not through the macros, whose output a test's harness may keep.
    let _ = writeln!(std::io::stderr(), "cuda emulator: {what}");
}

/// Writes through a pointer of the caller's.
///
/// # Safety
/// It is null or valid.
unsafe fn put<T>(to: *mut T, v: T) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's.
    unsafe { to.write(v) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(_flags: c_uint) -> Code {
    let c = &device().config;
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let ((a, b), checks) = (c.capability, &c.checks);
        say(&format!("{}, capability {a}.{b}, {} threads; {checks:?}", c.name, c.threads));
    });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    let (a, b) = device().config.driver;
    // SAFETY: the caller's.
    unsafe { put(version, (a * 1000 + b * 10) as c_int) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    // SAFETY: the caller's.
    unsafe { put(count, 1) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(dev: *mut c_int, ordinal: c_int) -> Code {
    if ordinal != 0 {
        return INVALID_DEVICE;
    }
    // SAFETY: the caller's.
    unsafe { put(dev, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _dev: c_int) -> Code {
    let text = &device().config.name;
    for i in 0..(len.max(1) as usize - 1).min(text.len()) + 1 {
        let b = if i + 1 < len as usize { text.as_bytes().get(i).copied() } else { None };
        // SAFETY: the caller's; below `len`.
        unsafe { name.add(i).write(b.unwrap_or(0) as c_char) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _dev: c_int) -> Code {
    // SAFETY: the caller's.
    unsafe { put(bytes, device().config.memory) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(v: *mut c_int, what: c_uint, _dev: c_int) -> Code {
    let c = &device().config;
    let value = match what {
        1 => 1024, // threads of a block
        10 => 32,  // threads of a warp
        16 => c.multiprocessors as c_int,
        18 => c_int::from(c.integrated),
        75 => c.capability.0 as c_int,
        76 => c.capability.1 as c_int,
        97 => c.shared as c_int,
        _ => {
            say(&format!("attribute {what} of a device is not emulated"));
            return INVALID_VALUE;
        }
    };
    // SAFETY: the caller's.
    unsafe { put(v, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(ctx: *mut *mut c_void, _dev: c_int) -> Code {
    // SAFETY: the caller's. There is one context, and nobody looks into it.
    unsafe { put(ctx, std::ptr::dangling_mut::<u64>().cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_dev: c_int) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(_ctx: *mut c_void) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut Stream, _flags: c_uint) -> Code {
    // SAFETY: the caller's.
    unsafe { put(stream, Box::into_raw(Box::default())) }
}

/// The stream behind a handle.
///
/// # Safety
/// It is null or was made by `cuStreamCreate`, and one thread uses it at a time.
unsafe fn stream<'a>(s: *mut Stream) -> Result<&'a mut Stream, Code> {
    // SAFETY: the caller's.
    let s = unsafe { s.as_mut() }.ok_or(INVALID_HANDLE)?;
    if s.error == SUCCESS { Ok(s) } else { Err(s.error) }
}

/// As [`stream`], for what is not recorded.
///
/// # Safety
/// As [`stream`].
unsafe fn idle<'a>(s: *mut Stream) -> Result<&'a mut Stream, Code> {
    // SAFETY: the caller's.
    let s = unsafe { stream(s) }?;
    if s.capture.is_some() { Err(CAPTURE_UNSUPPORTED) } else { Ok(s) }
}

fn code(r: Result<(), Code>) -> Code {
    r.err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(s: *mut Stream) -> Code {
    // SAFETY: the caller's.
    code(unsafe { idle(s) }.map(|_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(s: *mut Stream) -> Code {
    if !s.is_null() {
        // SAFETY: made by `cuStreamCreate`, and used no more.
        drop(unsafe { Box::from_raw(s) });
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(s: *mut Stream, _mode: c_uint) -> Code {
    // SAFETY: the caller's.
    code(unsafe { idle(s) }.map(|s| s.capture = Some(Vec::new())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(s: *mut Stream, graph: *mut *mut Graph) -> Code {
    // SAFETY: the caller's.
    let nodes = match unsafe { stream(s) } {
        Ok(s) => s.capture.take(),
        Err(e) => return e,
    };
    match nodes {
        // SAFETY: the caller's.
        Some(nodes) => unsafe { put(graph, Box::into_raw(Box::new(Graph(nodes)))) },
        None => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    exec: *mut *mut Graph,
    graph: *mut Graph,
    _flags: c_ulonglong,
) -> Code {
    // SAFETY: the caller's: made by `cuStreamEndCapture`.
    match unsafe { graph.as_ref() } {
        // SAFETY: the caller's.
        Some(g) => unsafe { put(exec, Box::into_raw(Box::new(Graph(g.0.clone())))) },
        None => INVALID_HANDLE,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: *mut Graph) -> Code {
    if !graph.is_null() {
        // SAFETY: made here, and used no more.
        drop(unsafe { Box::from_raw(graph) });
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: *mut Graph) -> Code {
    // SAFETY: the caller's.
    unsafe { cuGraphDestroy(exec) }
}

/// Runs launches; the first failure is said and ends them.
fn run(nodes: &[Node]) -> Result<(), Code> {
    let d = device();
    // A kernel that begins early may not touch what others of its graph wrote.
    let graph = match nodes.iter().any(|n| n.shape.early) {
        true => d.graphs.fetch_add(1, Relaxed).wrapping_add(1).max(1),
        false => 0,
    };
    for n in nodes {
        let races = d.config.checks.races && n.shape.grid != [1; 3];
        let _alone = races.then(|| lock(&d.traces));
        let table = lock(&d.memory).table();
        let (module, kernel) = (&n.function.module, n.function.kernel());
        launch(&d.config, module, kernel, &n.shape, graph, table).map_err(|(code, what)| {
            say(&what);
            code
        })?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: *mut Graph, s: *mut Stream) -> Code {
    // SAFETY: the caller's.
    let (graph, s) = match (unsafe { exec.as_ref() }, unsafe { idle(s) }) {
        (Some(g), Ok(s)) => (g, s),
        (None, _) => return INVALID_HANDLE,
        (_, Err(e)) => return e,
    };
    s.error = code(run(&graph.0));
    s.error
}

/// Checks a launch and runs or records it.
///
/// # Safety
/// Pointers are valid: `params` has one for each parameter of the kernel.
unsafe fn submit(
    f: *const Function,
    (grid, block, dynamic): ([u32; 3], [u32; 3], u32),
    s: *mut Stream,
    params: *mut *mut c_void,
    early: bool,
) -> Result<(), Code> {
    // SAFETY: the caller's.
    let (s, f) = unsafe { (stream(s)?, f.as_ref().ok_or(INVALID_HANDLE)?) };
    // SAFETY: handles of functions are pointers into an `Arc` that their module holds.
    let function = unsafe {
        Arc::increment_strong_count(f);
        Arc::from_raw(f)
    };
    let k = f.kernel();
    let threads: u64 = block.iter().map(|&b| u64::from(b)).product();
    let no = |what: String| {
        say(&format!("kernel {}: {what}", k.name));
    };
    if threads == 0
        || grid.contains(&0)
        || grid[0] > i32::MAX as u32
        || grid[1].max(grid[2]) > 65_535
    {
        no(format!("a grid of {grid:?} blocks of {block:?} threads"));
        return Err(INVALID_VALUE);
    }
    if threads > k.threads.min(1024).into() {
        no(format!("{threads} threads in a block, of {} at most", k.threads.min(1024)));
        return Err(INVALID_VALUE);
    }
    if dynamic > f.dynamic.load(Relaxed) {
        no(format!("{dynamic} bytes of shared memory, of {} allowed", f.dynamic.load(Relaxed)));
        return Err(INVALID_VALUE);
    }
    if k.shared + dynamic > device().config.shared {
        no(format!("{} bytes of shared memory, of {}", k.shared + dynamic, device().config.shared));
        return Err(OUT_OF_RESOURCES);
    }
    let mut bytes = vec![0u8; k.param_bytes as usize];
    for (i, &(at, n)) in k.params.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let from = (*params.add(i)).cast::<u8>();
            from.copy_to_nonoverlapping(bytes.as_mut_ptr().add(at as usize), n as usize);
        }
    }
    let node = Node { function, shape: Shape { grid, block, dynamic, params: bytes, early } };
    match &mut s.capture {
        Some(nodes) => nodes.push(node),
        None => {
            // Alone, it follows what has ended: early or not.
            let node = Node { shape: Shape { early: false, ..node.shape }, ..node };
            s.error = code(run(&[node]));
            if s.error != SUCCESS {
                return Err(s.error);
            }
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    f: *const Function,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    s: *mut Stream,
    params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's.
    code(unsafe { submit(f, ([gx, gy, gz], [bx, by, bz], shared), s, params, false) })
}

/// `CUlaunchAttribute`.
#[repr(C)]
pub struct Attribute {
    id: c_uint,
    pad: [c_char; 4],
    value: [u64; 8],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: *mut Stream,
    attrs: *mut Attribute,
    n: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    f: *const Function,
    params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's.
    let Some(c) = (unsafe { config.as_ref() }) else { return INVALID_VALUE };
    let mut early = false;
    for i in 0..c.n as usize {
        // SAFETY: the caller's: as many as it says.
        let a = unsafe { &*c.attrs.add(i) };
        match a.id {
            // Programmatic stream serialization; only Hopper and later have it.
            6 => early = a.value[0] as u32 != 0 && device().config.capability >= (9, 0),
            id => {
                say(&format!("attribute {id} of a launch is not emulated"));
                return INVALID_VALUE;
            }
        }
    }
    // SAFETY: the caller's.
    code(unsafe { submit(f, (c.grid, c.block, c.shared), c.stream, params, early) })
}

/// The PTX version that a driver reads at most.
fn newest((major, minor): (u32, u32)) -> (u32, u32) {
    match major {
        0..=11 => (7, minor.min(8)),
        12 => (8, minor.min(5)),
        _ => (9, 0),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut *mut Loaded, image: *const c_void) -> Code {
    // SAFETY: the caller's: text that ends with a zero.
    let Ok(text) = unsafe { CStr::from_ptr(image.cast()) }.to_str() else {
        say("an image that is not PTX");
        return INVALID_PTX;
    };
    let d = device();
    let mut modules = lock(&d.modules);
    let module = match modules.get(text) {
        Some(m) => m.clone(),
        None => match Module::new(text, &mut lock(&d.memory)) {
            Ok(m) => {
                let m = Arc::new(m);
                modules.insert(text.into(), m.clone());
                m
            }
            Err(e) => {
                let line = text.lines().nth((e.line as usize).wrapping_sub(1)).unwrap_or("");
                say(&format!("PTX line {} ({}): {}", e.line, line.trim(), e.what));
                return INVALID_PTX;
            }
        },
    };
    if module.version > newest(d.config.driver) {
        say(&format!("PTX {:?} is newer than the driver {:?}", module.version, d.config.driver));
        return UNSUPPORTED_PTX_VERSION;
    }
    if module.target > d.config.capability {
        say(&format!("PTX for {:?} on {:?}", module.target, d.config.capability));
        return NO_BINARY;
    }
    let loaded = Loaded { module, functions: Mutex::default() };
    // SAFETY: the caller's.
    unsafe { put(out, Box::into_raw(Box::new(loaded))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    out: *mut *const Function,
    module: *mut Loaded,
    name: *const c_char,
) -> Code {
    // SAFETY: the caller's.
    let Some(m) = (unsafe { module.as_ref() }) else { return INVALID_HANDLE };
    // SAFETY: the caller's.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let Some(index) = m.module.kernels.iter().position(|k| k.name == name) else {
        return NOT_FOUND;
    };
    let mut functions = lock(&m.functions);
    let f = functions.entry(index).or_insert_with(|| {
        let dynamic = (48u32 << 10).saturating_sub(m.module.kernels[index].shared);
        Arc::new(Function { module: m.module.clone(), index, dynamic: dynamic.into() })
    });
    // SAFETY: the caller's.
    unsafe { put(out, Arc::as_ptr(f)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: *mut Loaded) -> Code {
    if module.is_null() {
        return INVALID_HANDLE;
    }
    // SAFETY: made by `cuModuleLoadData`, and used no more.
    drop(unsafe { Box::from_raw(module) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    v: *mut c_int,
    what: c_uint,
    f: *const Function,
) -> Code {
    // SAFETY: the caller's.
    let Some(f) = (unsafe { f.as_ref() }) else { return INVALID_HANDLE };
    let value = match what {
        0 => f.kernel().threads,
        1 => f.kernel().shared,
        8 => f.dynamic.load(Relaxed),
        _ => {
            say(&format!("attribute {what} of a function is not emulated"));
            return INVALID_VALUE;
        }
    };
    // SAFETY: the caller's.
    unsafe { put(v, value as c_int) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(f: *const Function, what: c_uint, v: c_int) -> Code {
    // SAFETY: the caller's.
    let Some(f) = (unsafe { f.as_ref() }) else { return INVALID_HANDLE };
    let most = device().config.shared.saturating_sub(f.kernel().shared);
    if what != 8 || v < 0 || v as u32 > most {
        say(&format!("kernel {}: attribute {what} cannot be {v}", f.kernel().name));
        return INVALID_VALUE;
    }
    f.dynamic.store(v as u32, Relaxed);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    let m = lock(&device().memory);
    // SAFETY: the caller's.
    unsafe { put(free, m.free_bytes()).max(put(total, device().config.memory)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> Code {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    match lock(&device().memory).take(bytes) {
        // SAFETY: the caller's.
        Some(a) => unsafe { put(at, a) },
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(at: u64) -> Code {
    if at == 0 || lock(&device().memory).end(at, true) {
        SUCCESS
    } else {
        say(&format!("{at:#x} is freed and was not allocated"));
        INVALID_VALUE
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(p: *mut c_void, bytes: usize, flags: c_uint) -> Code {
    const READ_ONLY: c_uint = 8;
    let mut m = lock(&device().memory);
    if p.is_null() || bytes == 0 {
        return INVALID_VALUE;
    }
    if m.registered(p.cast()).is_some() {
        return ALREADY_REGISTERED;
    }
    m.register(p.cast(), bytes, flags & READ_ONLY != 0);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    at: *mut u64,
    p: *mut c_void,
    _flags: c_uint,
) -> Code {
    match lock(&device().memory).registered(p.cast()) {
        // SAFETY: the caller's.
        Some(a) => unsafe { put(at, a) },
        None => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(p: *mut c_void) -> Code {
    let mut m = lock(&device().memory);
    match m.registered(p.cast()) {
        Some(at) if m.end(at, false) => SUCCESS,
        _ => NOT_REGISTERED,
    }
}

/// Memory of the device that a copy may touch.
fn target(
    at: u64,
    bytes: usize,
    write: bool,
) -> Result<(Arc<crate::memory::Alloc>, *mut u8), Code> {
    let found = lock(&device().memory).holder(at, bytes);
    match found {
        Some(a) if !(write && a.read_only) => {
            // SAFETY: inside.
            let p = unsafe { a.host.add((at - a.at) as usize) };
            Ok((a, p))
        }
        _ => {
            say(&format!("a copy of {bytes} bytes at {at:#x}, which is no memory for it"));
            Err(INVALID_VALUE)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    s: *mut Stream,
) -> Code {
    // SAFETY: the caller's.
    if let Err(e) = unsafe { idle(s) } {
        return e;
    }
    code(target(to, bytes, true).map(|(a, p)| {
        // SAFETY: the caller's, and inside of an allocation of ours.
        unsafe { p.copy_from_nonoverlapping(from.cast(), bytes) };
        a.mark_written(to, bytes);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    s: *mut Stream,
) -> Code {
    // SAFETY: the caller's.
    if let Err(e) = unsafe { idle(s) } {
        return e;
    }
    code(target(from, bytes, false).map(|(_, p)| {
        // SAFETY: the caller's, and inside of an allocation of ours.
        unsafe { p.copy_to_nonoverlapping(to.cast(), bytes) };
    }))
}

fn text(
    error: Code,
    which: impl Fn(&(u32, &'static CStr, &'static CStr)) -> &'static CStr,
) -> Option<&'static CStr> {
    ERRORS.iter().find(|e| e.0 == error).map(which)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: Code, out: *mut *const c_char) -> Code {
    match text(error, |e| e.1) {
        // SAFETY: the caller's.
        Some(t) => unsafe { put(out, t.as_ptr()) },
        None => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Code, out: *mut *const c_char) -> Code {
    match text(error, |e| e.2) {
        // SAFETY: the caller's.
        Some(t) => unsafe { put(out, t.as_ptr()) },
        None => INVALID_VALUE,
    }
}
