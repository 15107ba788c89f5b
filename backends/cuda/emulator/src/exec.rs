//! The instructions: 32 lanes in lockstep. Where lanes part, those with the lowest program counter go on until they meet
//! others.

use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

use crate::access::{PENDING, Reach, Shared, load, store};
use crate::decode::{Cmp, Inst, NONE, Of, Op, SHARED, Shuffle};
use crate::float;
use crate::grid::Grid;
use crate::integer::{bfi, dp4a, extend, mma, permute};
use crate::memory::{Kind, Releases};
use crate::trouble::{Trouble, code, trouble};
use crate::warp::{ALL, Regs, Warp, blend32, blend64, lanes};

pub(crate) enum Event {
    Barrier,
    Done,
}

/// Runs a warp to its next barrier or its end.
#[allow(
    clippy::double_comparisons,
    clippy::nonminimal_bool,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::eq_op,
    reason = "comparisons as PTX has them, of what may not be a number"
)]
#[inline(always)]
fn run(warp: &mut Warp, shared: &mut Shared, grid: &Grid<'_>) -> Result<Event, Trouble> {
    let kernel = grid.kernel;
    let code = &kernel.code[..];
    let regs = Regs(warp.regs.as_mut_ptr());
    let mut pc = warp.pc;
    macro_rules! n1 {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.n($i.a);
            let mut r = [0u32; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! n2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.n($i.a), regs.n($i.b));
            let mut r = [0u32; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! n3 {
        ($i:ident, $m:ident, |$x:ident, $y:ident, $z:ident| $e:expr) => {{
            let (a, b, c) = (regs.n($i.a), regs.n($i.b), regs.n($i.c));
            let mut r = [0u32; 32];
            for l in 0..32 {
                let ($x, $y, $z) = (a[l], b[l], c[l]);
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! w1 {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.w($i.a);
            let mut r = [0u64; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! w2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.w($i.a), regs.w($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    // Results of 64 bits of numbers of 32.
    macro_rules! wn {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.n($i.a);
            let mut r = [0u64; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.n($i.a), regs.n($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! shift {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.w($i.a), regs.n($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! nw {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.w($i.a);
            let mut r = [0u32; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! f2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {
            n2!($i, $m, |a, b| {
                let ($x, $y) = (f32::from_bits(a), f32::from_bits(b));
                float::bits($e)
            })
        };
    }
    macro_rules! d2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {
            w2!($i, $m, |a, b| {
                let ($x, $y) = (f64::from_bits(a), f64::from_bits(b));
                f64::to_bits($e)
            })
        };
    }
    macro_rules! pred {
        ($slot:expr) => {
            warp.preds[$slot as usize]
        };
    }
    macro_rules! put_p {
        ($slot:expr, $m:ident, $bits:expr) => {{
            let bits = $bits;
            let p = &mut warp.preds[$slot as usize];
            *p = (*p & !$m) | (bits & $m);
        }};
    }
    macro_rules! compare {
        ($i:ident, $m:ident, $get:ident, |$v:ident| $conv:expr, $cmp:expr, $floats:tt) => {{
            let (a, b) = (regs.$get($i.a), regs.$get($i.b));
            macro_rules! bits {
                (|$x:ident, $y:ident| $e:expr) => {{
                    let mut bits = 0u32;
                    for l in 0..32 {
                        let $x = { let $v = a[l]; $conv };
                        let $y = { let $v = b[l]; $conv };
                        bits |= u32::from($e) << l;
                    }
                    bits
                }};
            }
            let bits = match $cmp {
                Cmp::Eq => bits!(|x, y| x == y),
                Cmp::Ne => bits!(|x, y| compare!(@ne x, y, $floats)),
                Cmp::Lt => bits!(|x, y| x < y),
                Cmp::Le => bits!(|x, y| x <= y),
                Cmp::Gt => bits!(|x, y| x > y),
                Cmp::Ge => bits!(|x, y| x >= y),
                Cmp::Equ => bits!(|x, y| !(x < y || x > y)),
                Cmp::Neu => bits!(|x, y| x != y),
                Cmp::Ltu => bits!(|x, y| !(x >= y)),
                Cmp::Leu => bits!(|x, y| !(x > y)),
                Cmp::Gtu => bits!(|x, y| !(x <= y)),
                Cmp::Geu => bits!(|x, y| !(x < y)),
                Cmp::Num => bits!(|x, y| x == x && y == y),
                Cmp::Nan => bits!(|x, y| x != x || y != y),
            };
            put_p!($i.d, $m, bits);
        }};
        (@ne $x:ident, $y:ident, true) => { $x < $y || $x > $y };
        (@ne $x:ident, $y:ident, false) => { $x != $y };
    }
    // Goes on where `warp` says.
    macro_rules! schedule {
        () => {{
            if !warp.schedule() {
                return Ok(Event::Done);
            }
            pc = warp.pc;
            continue;
        }};
    }
    // Lanes that must be here together; the others are waited for.
    macro_rules! together {
        ($needed:expr) => {{
            let needed: u32 = $needed;
            if needed & !warp.active != 0 {
                warp.pc = pc;
                warp.wait_for(needed)?;
                pc = warp.pc;
                continue;
            }
            if warp.active & !needed != 0 {
                warp.pc = pc;
                let lane = (warp.active & !needed).trailing_zeros();
                return trouble(code::FAILED, lane, "a lane that the mask does not name");
            }
        }};
    }
    // The mask of an instruction, which all its lanes agree about.
    macro_rules! mask_of {
        ($slot:expr) => {{
            let m = regs.n($slot);
            let first = m[warp.active.trailing_zeros() as usize & 31];
            let mut differ = 0;
            for l in 0..32 {
                differ |= (m[l] ^ first) & (warp.active >> l & 1).wrapping_neg();
            }
            if differ != 0 {
                warp.pc = pc;
                let lane = warp.active.trailing_zeros();
                return trouble(code::FAILED, lane, "masks differ between the lanes");
            }
            first
        }};
    }
    loop {
        if pc >= warp.stop {
            warp.pc = pc;
            schedule!();
        }
        let i: &Inst = &code[pc];
        let m = warp.active;
        match i.op {
            Op::Add32 => n2!(i, m, |x, y| x.wrapping_add(y)),
            Op::Sub32 => n2!(i, m, |x, y| x.wrapping_sub(y)),
            Op::Mul32 => n2!(i, m, |x, y| x.wrapping_mul(y)),
            Op::MulHiS32 => {
                n2!(i, m, |x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32)
            }
            Op::MulHiU32 => n2!(i, m, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
            Op::Mad32 => n3!(i, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
            Op::DivS32 | Op::DivU32 | Op::RemS32 | Op::RemU32 => {
                let (a, b) = (regs.n(i.a), regs.n(i.b));
                let mut r = [0; 32];
                for l in lanes(m) {
                    let (x, y) = (a[l], b[l]);
                    if y == 0 {
                        warp.pc = pc;
                        return trouble(code::FAILED, l as u32, "divides by zero");
                    }
                    r[l] = match i.op {
                        Op::DivS32 => (x as i32).wrapping_div(y as i32) as u32,
                        Op::DivU32 => x / y,
                        Op::RemS32 => (x as i32).wrapping_rem(y as i32) as u32,
                        _ => x % y,
                    };
                }
                regs.put_n(i.d, m, &r);
            }
            Op::MinS32 => n2!(i, m, |x, y| (x as i32).min(y as i32) as u32),
            Op::MinU32 => n2!(i, m, |x, y| x.min(y)),
            Op::MaxS32 => n2!(i, m, |x, y| (x as i32).max(y as i32) as u32),
            Op::MaxU32 => n2!(i, m, |x, y| x.max(y)),
            Op::AbsS32 => n1!(i, m, |x| (x as i32).wrapping_abs() as u32),
            Op::NegS32 => n1!(i, m, |x| x.wrapping_neg()),
            Op::And32 | Op::And16 => n2!(i, m, |x, y| x & y),
            Op::Or32 | Op::Or16 => n2!(i, m, |x, y| x | y),
            Op::Xor32 | Op::Xor16 => n2!(i, m, |x, y| x ^ y),
            Op::Not32 => n1!(i, m, |x| !x),
            Op::Shl32 => n2!(i, m, |x, y| if y > 31 { 0 } else { x << (y & 31) }),
            Op::ShrU32 => n2!(i, m, |x, y| if y > 31 { 0 } else { x >> (y & 31) }),
            Op::ShrS32 => n2!(i, m, |x, y| ((x as i32) >> y.min(31)) as u32),
            Op::Popc32 => n1!(i, m, |x| x.count_ones()),
            Op::Clz32 => n1!(i, m, |x| x.leading_zeros()),
            Op::Brev32 => n1!(i, m, |x| x.reverse_bits()),
            Op::Bfind32 => n1!(i, m, |x| if x == 0 { u32::MAX } else { x.leading_zeros() }),
            Op::Bfi32 => {
                let (a, b, c, e) = (regs.n(i.a), regs.n(i.b), regs.n(i.c), regs.n(i.e));
                let mut r = [0; 32];
                for l in 0..32 {
                    r[l] = bfi(a[l], b[l], c[l], e[l]);
                }
                regs.put_n(i.d, m, &r);
            }
            Op::Prmt32 => n3!(i, m, |x, y, z| permute(x, y, z)),
            Op::Dp4a => n3!(i, m, |x, y, z| dp4a(x, y, z)),
            Op::Sel32 | Op::Sel16 => {
                let (a, b, p) = (regs.n(i.a), regs.n(i.b), pred!(i.c));
                let mut r = *b;
                blend32(&mut r, p, a);
                regs.put_n(i.d, m, &r);
            }
            Op::Mov32 | Op::Mov16 => n1!(i, m, |x| x),
            Op::Add16 => n2!(i, m, |x, y| x.wrapping_add(y) & 0xffff),
            Op::Sub16 => n2!(i, m, |x, y| x.wrapping_sub(y) & 0xffff),
            Op::Mul16 => n2!(i, m, |x, y| x.wrapping_mul(y) & 0xffff),
            Op::Add64 => w2!(i, m, |x, y| x.wrapping_add(y)),
            Op::Sub64 => w2!(i, m, |x, y| x.wrapping_sub(y)),
            Op::Mul64 => w2!(i, m, |x, y| x.wrapping_mul(y)),
            Op::NegS64 => w1!(i, m, |x| x.wrapping_neg()),
            Op::And64 => w2!(i, m, |x, y| x & y),
            Op::Or64 => w2!(i, m, |x, y| x | y),
            Op::Xor64 => w2!(i, m, |x, y| x ^ y),
            Op::Not64 => w1!(i, m, |x| !x),
            Op::Shl64 => shift!(i, m, |x, y| if y > 63 { 0 } else { x << (y & 63) }),
            Op::ShrU64 => shift!(i, m, |x, y| if y > 63 { 0 } else { x >> (y & 63) }),
            Op::ShrS64 => shift!(i, m, |x, y| ((x as i64) >> y.min(63)) as u64),
            Op::Sel64 => {
                let (a, b, p) = (regs.w(i.a), regs.w(i.b), pred!(i.c));
                let mut r = *b;
                blend64(&mut r, p, a);
                regs.put_w(i.d, m, &r);
            }
            Op::Mov64 => w1!(i, m, |x| x),
            Op::WideS32 => {
                wn!(i, m, |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64)
            }
            Op::WideU32 => wn!(i, m, |x, y| u64::from(x) * u64::from(y)),
            Op::WideS16 => {
                n2!(i, m, |x, y| (i32::from(x as i16) * i32::from(y as i16)) as u32)
            }
            Op::WideU16 => n2!(i, m, |x, y| (x & 0xffff) * (y & 0xffff)),
            Op::AddF32 => f2!(i, m, |x, y| x + y),
            Op::SubF32 => f2!(i, m, |x, y| x - y),
            Op::MulF32 => f2!(i, m, |x, y| x * y),
            Op::DivF32 => f2!(i, m, |x, y| x / y),
            Op::MinF32 => n2!(i, m, |x, y| float::min(x, y)),
            Op::MaxF32 => n2!(i, m, |x, y| float::max(x, y)),
            Op::AbsF32 => n1!(i, m, |x| x & 0x7fff_ffff),
            Op::NegF32 => n1!(i, m, |x| x ^ 0x8000_0000),
            Op::SqrtF32 => n1!(i, m, |x| float::bits(f32::from_bits(x).sqrt())),
            Op::RcpF32 => n1!(i, m, |x| float::bits(1.0 / f32::from_bits(x))),
            Op::AddF64 => d2!(i, m, |x, y| x + y),
            Op::SubF64 => d2!(i, m, |x, y| x - y),
            Op::MulF64 => d2!(i, m, |x, y| x * y),
            Op::DivF64 => d2!(i, m, |x, y| x / y),
            Op::F32OfF16 => n1!(i, m, |x| float::widen(x)),
            Op::F16OfF32 => n1!(i, m, |x| float::narrow(x)),
            Op::F64OfF32 => wn!(i, m, |x| f64::from(f32::from_bits(x)).to_bits()),
            Op::F32OfF64 => nw!(i, m, |x| float::bits(f64::from_bits(x) as f32)),
            Op::Floor => n1!(i, m, |x| float::bits(f32::from_bits(x).floor())),
            Op::F32OfS16 => n1!(i, m, |x| f32::from(x as i16).to_bits()),
            Op::F32OfS32 => n1!(i, m, |x| (x as i32 as f32).to_bits()),
            Op::F32OfU32 => n1!(i, m, |x| (x as f32).to_bits()),
            Op::S32OfF32 => n1!(i, m, |x| f32::from_bits(x) as i32 as u32),
            Op::U32OfF32 => n1!(i, m, |x| f32::from_bits(x) as u32),
            Op::S32OfS8 => n1!(i, m, |x| x as i8 as u32),
            Op::S32OfS16 => n1!(i, m, |x| x as i16 as u32),
            Op::S64OfS32 => wn!(i, m, |x| x as i32 as u64),
            Op::U64OfU32 => wn!(i, m, |x| u64::from(x)),
            Op::U16OfU32 => n1!(i, m, |x| x & 0xffff),
            Op::U32OfU16 => n1!(i, m, |x| x & 0xffff),
            Op::U32OfU64 => nw!(i, m, |x| x as u32),
            Op::MovP => put_p!(i.d, m, pred!(i.a)),
            Op::AndP => put_p!(i.d, m, pred!(i.a) & pred!(i.b)),
            Op::OrP => put_p!(i.d, m, pred!(i.a) | pred!(i.b)),
            Op::XorP => put_p!(i.d, m, pred!(i.a) ^ pred!(i.b)),
            Op::NotP => put_p!(i.d, m, !pred!(i.a)),
            Op::SetP(cmp, of) => match of {
                Of::S16 => compare!(i, m, n, |v| v as i16, cmp, false),
                Of::U16 => compare!(i, m, n, |v| v as u16, cmp, false),
                Of::S32 => compare!(i, m, n, |v| v as i32, cmp, false),
                Of::U32 => compare!(i, m, n, |v| v, cmp, false),
                Of::S64 => compare!(i, m, w, |v| v as i64, cmp, false),
                Of::U64 => compare!(i, m, w, |v| v, cmp, false),
                Of::F32 => compare!(i, m, n, |v| f32::from_bits(v), cmp, true),
                Of::F64 => compare!(i, m, w, |v| f64::from_bits(v), cmp, true),
            },
            Op::Pack32 => n2!(i, m, |x, y| (x & 0xffff) | y << 16),
            Op::Pack64 => wn!(i, m, |x, y| u64::from(x) | u64::from(y) << 32),
            Op::Unpack32 => {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for (l, x) in regs.n(i.a).iter().enumerate() {
                    (low[l], high[l]) = (x & 0xffff, x >> 16);
                }
                regs.put_n(i.d, m, &low);
                regs.put_n(i.e, m, &high);
            }
            Op::Unpack64 => {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for (l, x) in regs.w(i.a).iter().enumerate() {
                    (low[l], high[l]) = (*x as u32, (x >> 32) as u32);
                }
                regs.put_n(i.d, m, &low);
                regs.put_n(i.e, m, &high);
            }

            Op::Bra | Op::BraIf | Op::BraUnless => {
                let taken = match i.op {
                    Op::Bra => m,
                    Op::BraIf => m & pred!(i.a),
                    _ => m & !pred!(i.a),
                };
                let to = i.d as usize;
                if taken != 0 && to <= pc {
                    warp.steps += (pc - to + 1) as u64;
                    if warp.steps > grid.checks.steps {
                        warp.pc = pc;
                        let lane = taken.trailing_zeros();
                        return trouble(
                            code::TIMEOUT,
                            lane,
                            format!("a loop without end, or more than {} steps", grid.checks.steps),
                        );
                    }
                }
                if warp.stop == usize::MAX && m == warp.live {
                    if taken == m {
                        pc = to;
                        continue;
                    }
                    if taken == 0 {
                        pc += 1;
                        continue;
                    }
                }
                warp.pc = pc;
                warp.part(taken, to);
                schedule!();
            }
            Op::Ret => {
                if grid.early && grid.checks.early && !warp.waited {
                    warp.pc = pc;
                    let lane = m.trailing_zeros();
                    return trouble(
                        code::FAILED,
                        lane,
                        "ends without griddepcontrol.wait: later launches would not wait for earlier ones",
                    );
                }
                warp.live &= !m;
                warp.active = 0;
                if warp.live == 0 {
                    return Ok(Event::Done);
                }
                if !warp.schedule() {
                    let lane = warp.blocked.trailing_zeros();
                    warp.pc = warp.lane_pc[lane as usize & 31] as usize;
                    return trouble(
                        code::FAILED,
                        lane,
                        "divergence: waits for lanes that have ended",
                    );
                }
                pc = warp.pc;
                continue;
            }
            Op::Bar => {
                together!(warp.live);
                warp.pc = pc + 1;
                return Ok(Event::Barrier);
            }
            Op::BarWarp => {
                // Lanes that have ended are not waited for.
                together!(mask_of!(i.a) & warp.live);
            }
            Op::Fence => {
                let bit = 1 << warp.index;
                shared.unfenced &= !bit;
                if !shared.acquired.is_empty() {
                    shared.fenced |= bit;
                }
            }
            Op::Wait => warp.waited = true,
            Op::Nothing => {}
            Op::Active => regs.put_n(i.d, m, &[m; 32]),
            Op::Ballot => {
                let needed = mask_of!(i.b);
                together!(needed);
                regs.put_n(i.d, m, &[pred!(i.a) & m; 32]);
            }
            Op::Match => {
                let needed = mask_of!(i.b);
                together!(needed);
                let a = regs.n(i.a);
                let mut r = [0; 32];
                for l in lanes(m) {
                    r[l] = lanes(m).filter(|&o| a[o] == a[l]).fold(0, |v, o| v | 1 << o);
                }
                regs.put_n(i.d, m, &r);
            }
            Op::Shuffle(kind) => {
                let needed = mask_of!(i.e);
                together!(needed);
                let (a, b, c) = (regs.n(i.a), regs.n(i.b), regs.n(i.c));
                let (mut r, mut inside) = ([0; 32], 0u32);
                let mut from = [0u32; 32];
                macro_rules! all {
                    (|$l:ident, $b:ident, $least:ident, $free:ident, $most:ident| $j:expr, $ok:expr) => {
                        for $l in 0..32u32 {
                            let ($b, c) = (b[$l as usize] & 31, c[$l as usize]);
                            let $free = !(c >> 8) & 31;
                            let $least = $l & !$free;
                            let $most = $least | (c & $free);
                            let j: u32 = $j;
                            let ok = $ok(j);
                            inside |= u32::from(ok) << $l;
                            from[$l as usize] = if ok { j & 31 } else { $l };
                        }
                    };
                }
                match kind {
                    Shuffle::Up => {
                        all!(|l, b, _x, _f, most| l.wrapping_sub(b), |j| j as i32 >= most as i32)
                    }
                    Shuffle::Down => all!(|l, b, _x, _f, most| l + b, |j| j <= most),
                    Shuffle::Bfly => all!(|l, b, _x, _f, most| l ^ b, |j| j <= most),
                    Shuffle::Idx => all!(|l, b, least, f, most| least | (b & f), |j| j <= most),
                }
                for l in 0..32 {
                    r[l] = a[from[l] as usize & 31];
                }
                if m != ALL
                    && let Some(l) = lanes(m).find(|&l| m >> from[l] & 1 == 0)
                {
                    warp.pc = pc;
                    return trouble(
                        code::FAILED,
                        l as u32,
                        format!("a shuffle from lane {}, which takes no part", from[l]),
                    );
                }
                regs.put_n(i.d, m, &r);
                if i.f != NONE {
                    put_p!(i.f, m, inside);
                }
            }
            Op::Param => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                let bytes = a.bytes * a.count;
                let params = grid.params;
                // Mostly all lanes want the same.
                let first = at[m.trailing_zeros() as usize & 31];
                let same = m == ALL && at.iter().fold(0, |d, &v| d | (v ^ first)) == 0;
                for l in lanes(if same { 1 } else { m }) {
                    let from = at[l] as usize;
                    if at[l].saturating_add(bytes.into()) > params.len() as u64
                        || !from.is_multiple_of(bytes as usize)
                    {
                        warp.pc = pc;
                        return trouble(
                            code::ILLEGAL_ADDRESS,
                            l as u32,
                            format!("{bytes} bytes at {from} of {} of parameters", params.len()),
                        );
                    }
                    for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                        let mut word = [0; 8];
                        let from = from + k * a.bytes as usize;
                        word[..a.bytes as usize]
                            .copy_from_slice(&params[from..from + a.bytes as usize]);
                        let v = extend(u64::from_le_bytes(word), a.bytes, a.signed);
                        match (a.wide, same) {
                            (true, true) => *regs.w_mut(slot) = [v; 32],
                            (false, true) => *regs.n_mut(slot) = [v as u32; 32],
                            (true, false) => regs.w_mut(slot)[l] = v,
                            (false, false) => regs.n_mut(slot)[l] = v as u32,
                        }
                    }
                }
            }
            Op::Load => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let from = reach.places(m, &at, a, Kind::Read)?;
                for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                    let step = k * a.bytes as usize;
                    macro_rules! all {
                        ($t:ident, |$v:ident| $e:expr, $put:ident) => {{
                            let mut r = *regs.$put(slot);
                            for l in lanes(m) {
                                // SAFETY: all of the access is inside and aligned.
                                let number = unsafe { $t::from_ptr(from[l].add(step).cast()) };
                                let $v = number.load(Relaxed);
                                r[l] = $e;
                            }
                            *regs.$put(slot) = r;
                        }};
                    }
                    match (a.bytes, a.signed, a.wide) {
                        (4, _, false) => all!(AtomicU32, |v| v, n_mut),
                        (2, false, false) => all!(AtomicU16, |v| v.into(), n_mut),
                        (2, true, false) => all!(AtomicU16, |v| v as i16 as u32, n_mut),
                        (1, false, false) => all!(AtomicU8, |v| v.into(), n_mut),
                        (1, true, false) => all!(AtomicU8, |v| v as i8 as u32, n_mut),
                        (8, ..) => all!(AtomicU64, |v| v, w_mut),
                        (4, signed, _) => all!(AtomicU32, |v| extend(v.into(), 4, signed), w_mut),
                        (2, signed, _) => all!(AtomicU16, |v| extend(v.into(), 2, signed), w_mut),
                        (_, signed, _) => all!(AtomicU8, |v| extend(v.into(), 1, signed), w_mut),
                    }
                }
            }
            Op::Store => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let to = reach.places(m, &at, a, Kind::Write)?;
                for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                    let step = k * a.bytes as usize;
                    macro_rules! all {
                        ($t:ident, |$v:ident| $e:expr, $get:ident) => {{
                            let r = regs.$get(slot);
                            for l in lanes(m) {
                                let $v = r[l];
                                // SAFETY: all of the access is inside and aligned.
                                let number = unsafe { $t::from_ptr(to[l].add(step).cast()) };
                                number.store($e, Relaxed);
                            }
                        }};
                    }
                    match (a.bytes, a.wide) {
                        (4, false) => all!(AtomicU32, |v| v, n),
                        (2, false) => all!(AtomicU16, |v| v as u16, n),
                        (_, false) => all!(AtomicU8, |v| v as u8, n),
                        (8, true) => all!(AtomicU64, |v| v, w),
                        (4, true) => all!(AtomicU32, |v| v as u32, w),
                        (2, true) => all!(AtomicU16, |v| v as u16, w),
                        (_, true) => all!(AtomicU8, |v| v as u8, w),
                    }
                }
            }
            Op::AtomAdd => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let (trace, fenced) = (shared.trace, shared.unfenced == 0);
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let to = reach.places(m, &at, a, Kind::Atomic)?;
                let (b, old) = (regs.n(i.b), regs.n_mut(a.regs[0]));
                let add = *b;
                for l in lanes(m) {
                    if !a.shared {
                        // The atomic operation itself needs no fence.
                        if fenced {
                            shared.unfenced = 0;
                        }
                        if shared.others {
                            let others = grid.releases.atomic(at[l], trace, fenced);
                            shared.released |= fenced;
                            shared.acquired.extend(others);
                            shared.acquired.insert(Releases::ATOMIC);
                            shared.fenced = 0;
                        }
                    }
                    // SAFETY: inside and aligned.
                    old[l] = unsafe { AtomicU32::from_ptr(to[l].cast()) }.fetch_add(add[l], SeqCst);
                }
            }
            Op::Copy => {
                let (to, from) =
                    (&kernel.accesses[i.a as usize], &kernel.accesses[i.a as usize + 1]);
                let (dst, src) = (regs.addresses(&to.at), regs.addresses(&from.at));
                let bytes = to.bytes;
                warp.pc = pc;
                let real = if i.b == NONE { [bytes; 32] } else { *regs.n(i.b) };
                let full = lanes(m).filter(|&l| real[l] == bytes).fold(0, |v, l| v | 1 << l);
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let p = reach.global(full, &src, bytes, Kind::Read)?;
                for l in lanes(m) {
                    let place = shared.place(dst[l], bytes, l as u32)?;
                    if grid.checks.shared {
                        shared.mark(dst[l], bytes, Kind::Write, warp.index, l)?;
                        let word = (dst[l] as u32 - SHARED) / 4;
                        for mark in &mut shared.marks[word as usize..(word + bytes / 4) as usize] {
                            *mark |= u64::from(PENDING);
                        }
                        if let Some(group) = warp.copies.back_mut() {
                            group.push((word, bytes / 4));
                        }
                    }
                    for k in (0..bytes as usize).step_by(4) {
                        let v = match real[l] {
                            // SAFETY: inside and aligned.
                            n if n == bytes => unsafe { load(p[l].add(k)) },
                            0 => 0,
                            n => {
                                let what =
                                    format!("a copy of {n} of {bytes} bytes is not emulated");
                                return trouble(code::FAILED, l as u32, what);
                            }
                        };
                        // SAFETY: as above.
                        unsafe { store(place.add(k), v) };
                    }
                }
            }
            Op::CopyGroup => {
                together!(warp.live);
                warp.copies.push_back(Vec::new());
            }
            Op::CopyWait => {
                together!(warp.live);
                let open = if i.b == NONE { i.a as usize + 1 } else { 0 };
                let id = shared.id(warp.index);
                while warp.copies.len() > open {
                    for (word, n) in warp.copies.pop_front().unwrap_or_default() {
                        for mark in &mut shared.marks[word as usize..(word + n) as usize] {
                            *mark = *mark >> 32 << 32 | u64::from(id);
                        }
                    }
                }
                if warp.copies.is_empty() {
                    warp.copies.push_back(Vec::new());
                }
            }
            Op::Matrix => {
                together!(ALL);
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let rows = reach.places(m, &at, a, Kind::Read)?;
                for (k, &slot) in kernel.lists[i.d as usize..][..4].iter().enumerate() {
                    let r = regs.n_mut(slot);
                    for (l, v) in r.iter_mut().enumerate() {
                        // SAFETY: rows of 16 bytes, inside and aligned.
                        *v = unsafe { load(rows[8 * k + l / 4].add(l % 4 * 4)) };
                    }
                }
            }
            Op::Mma => {
                together!(ALL);
                let list = |at: u32, k: usize| regs.n(kernel.lists[at as usize + k]);
                let r = mma(
                    [list(i.a, 0), list(i.a, 1), list(i.a, 2), list(i.a, 3)],
                    [list(i.b, 0), list(i.b, 1)],
                    [list(i.c, 0), list(i.c, 1), list(i.c, 2), list(i.c, 3)],
                );
                for (k, r) in r.iter().enumerate() {
                    regs.put_n(kernel.lists[i.d as usize + k], m, r);
                }
            }
        }
        pc += 1;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn run_avx2(warp: &mut Warp, shared: &mut Shared, grid: &Grid<'_>) -> Result<Event, Trouble> {
    run(warp, shared, grid)
}

pub(crate) fn run_best(
    warp: &mut Warp,
    shared: &mut Shared,
    grid: &Grid<'_>,
) -> Result<Event, Trouble> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has them.
        return unsafe { run_avx2(warp, shared, grid) };
    }
    run(warp, shared, grid)
}
