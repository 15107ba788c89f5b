//! Small kernels: numbers at the edges of what PTX defines, and one that goes wrong for every check.

use crate::config::Config;
use crate::decode::SHARED;
use crate::float;
use crate::launch::{Module, Shape, launch};
use crate::memory::Memory;

/// A device with one allocation for results, of 4096 bytes, and one that the host has written.
struct Bench {
    config: Config,
    memory: Memory,
    out: u64,
    input: u64,
}

const BYTES: usize = 4096;

/// The line that instructions begin in.
const FIRST: u32 = 15;

/// A kernel `k(out, in)` with these instructions; %rd1 and %rd2 are its parameters, %r1 the thread, %r2 the block,
/// %rd3 the address of the thread's own word of `out`, over all blocks.
fn text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
         .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<40>;\n.reg .f32 %f<9>;\n.reg .b64 %rd<20>;\n\
         ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [in];\n\
         mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;\n\
         mad.lo.s32 %r4, %r2, %r3, %r1; mul.wide.u32 %rd3, %r4, 4; add.s64 %rd3, %rd1, %rd3;\n\
         {body}\nret;\n}}\n"
    )
}

impl Bench {
    fn new(input: &[u32]) -> Self {
        let mut config = Config::from_env();
        (config.capability, config.threads) = ((9, 0), 1);
        let mut memory = Memory::new(1 << 20);
        let (out, at) = (memory.take(BYTES).unwrap(), memory.take(BYTES).unwrap());
        let holder = memory.holder(at, BYTES).unwrap();
        for (i, v) in input.iter().enumerate() {
            // SAFETY: inside of the allocation.
            unsafe { holder.host.cast::<u32>().add(i).write(*v) };
        }
        holder.mark_written(at, 4 * input.len());
        Self { config, memory, out, input: at }
    }

    fn shape(&self, blocks: u32, threads: u32, early: bool) -> Shape {
        let params = [self.out.to_le_bytes(), self.input.to_le_bytes()].concat();
        Shape { grid: [blocks, 1, 1], block: [threads, 1, 1], dynamic: 1024, params, early }
    }

    fn graph(&mut self, body: &str, shape: &Shape, graph: u32) -> Result<(), (u32, String)> {
        let module = Module::new(&text(body), &mut self.memory)
            .unwrap_or_else(|e| panic!("line {}: {}", e.line, e.what));
        launch(&self.config, &module, &module.kernels[0], shape, graph, self.memory.table())
    }

    fn run(&mut self, body: &str, blocks: u32, threads: u32) -> Result<Vec<u32>, (u32, String)> {
        let shape = self.shape(blocks, threads, false);
        self.graph(body, &shape, 0)?;
        let holder = self.memory.holder(self.out, BYTES).unwrap();
        // SAFETY: inside of the allocation.
        Ok((0..BYTES / 4).map(|i| unsafe { holder.host.cast::<u32>().add(i).read() }).collect())
    }
}

/// What a launch fails with; it must.
fn failure(body: &str, blocks: u32, threads: u32) -> (u32, String) {
    Bench::new(&[0; 64]).run(body, blocks, threads).expect_err("a failure")
}

fn succeeds(body: &str, blocks: u32, threads: u32) {
    Bench::new(&[0; 64]).run(body, blocks, threads).unwrap();
}

fn fails(body: &str, blocks: u32, threads: u32, code: u32, what: &str) {
    let (got, text) = failure(body, blocks, threads);
    assert!(got == code && text.contains(what), "{got}: {text}");
    assert!(text.contains("kernel k, PTX line "), "{text}");
}

/// `op` of the words x, y, z (registers %r10 to %r12; %h of them too) into %r13.
fn value(op: &str, [x, y, z]: [u32; 3]) -> u32 {
    let body = format!(
        "ld.global.u32 %r10, [%rd2]; ld.global.u32 %r11, [%rd2+4]; ld.global.u32 %r12, [%rd2+8];\n\
         cvt.u16.u32 %h1, %r10; cvt.u16.u32 %h2, %r11;\n{op}\nst.global.u32 [%rd1], %r13;"
    );
    Bench::new(&[x, y, z]).run(&body, 1, 1).unwrap()[0]
}

#[test]
fn integers_at_their_edges() {
    let n = |v: i32| v as u32;
    for (op, args, want) in [
        ("shl.b32 %r13, %r10, %r11;", [1, 31, 0], 1 << 31),
        ("shl.b32 %r13, %r10, %r11;", [1, 32, 0], 0),
        ("shr.u32 %r13, %r10, %r11;", [u32::MAX, 255, 0], 0),
        ("shr.s32 %r13, %r10, %r11;", [1 << 31, 40, 0], u32::MAX),
        ("div.s32 %r13, %r10, %r11;", [n(i32::MIN), n(-1), 0], n(i32::MIN)),
        ("div.s32 %r13, %r10, %r11;", [n(-7), 2, 0], n(-3)),
        ("rem.s32 %r13, %r10, %r11;", [n(-7), 2, 0], n(-1)),
        ("mul.hi.s32 %r13, %r10, %r11;", [n(-2), 3, 0], n(-1)),
        ("mul.hi.u32 %r13, %r10, %r11;", [n(-2), 3, 0], 2),
        ("mul.wide.s32 %rd9, %r10, %r11; cvt.u32.u64 %r13, %rd9;", [n(-2), 3, 0], n(-6)),
        (
            "mul.wide.u32 %rd9, %r10, %r11; shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r13, %rd9;",
            [n(-1), 2, 0],
            1,
        ),
        ("sub.s16 %h3, %h1, %h2; cvt.u32.u16 %r13, %h3;", [1, 2, 0], 0xffff),
        ("mul.wide.u16 %r13, %h1, %h2;", [0xffff, 0xffff, 0], 0xfffe_0001),
        ("setp.lt.s16 %p1, %h1, %h2; selp.b32 %r13, 1, 0, %p1;", [0xffff, 0, 0], 1),
        ("cvt.s32.s16 %r13, %r10;", [0x1_8000, 0, 0], n(-32768)),
        ("cvt.s32.s8 %r13, %r10;", [0x1_80, 0, 0], n(-128)),
        ("bfind.shiftamt.u32 %r13, %r10;", [0, 0, 0], u32::MAX),
        ("bfind.shiftamt.u32 %r13, %r10;", [0x10, 0, 0], 27),
        ("brev.b32 %r13, %r10;", [1, 0, 0], 1 << 31),
        ("bfi.b32 %r13, %r10, %r11, 8, 4;", [0x0f, 0xffff_f0ff, 0], 0xffff_ffff),
        ("bfi.b32 %r13, %r10, %r11, 31, 8;", [3, 0, 0], 1 << 31),
        ("bfi.b32 %r13, %r10, %r11, 4, 0;", [3, 7, 0], 7),
        ("prmt.b32 %r13, %r10, %r11, 0x5410;", [0x3322_1100, 0x7766_5544, 0], 0x5544_1100),
        ("prmt.b32 %r13, %r10, %r11, 0xb3f8;", [0x8000_0000, 0x0000_0000, 0], 0xff80_0000),
        (
            "dp4a.s32.s32 %r13, %r10, %r11, %r12;",
            [0x80ff_7f01, 0x8001_ff02, 10],
            n(16384 - 1 - 127 + 2 + 10),
        ),
        ("mad.lo.s32 %r13, %r10, %r11, %r12;", [1 << 31, 2, 5], 5),
        ("mov.b32 %r13, {%h1, %h2};", [0x1234, 0x5678, 0], 0x5678_1234),
        ("mov.b32 {%h3, %h4}, %r10; cvt.u32.u16 %r13, %h4;", [0x5678_1234, 0, 0], 0x5678),
        ("max.u32 %r13, %r10, 5;", [n(-1), 0, 0], n(-1)),
        ("max.s32 %r13, %r10, 5;", [n(-1), 0, 0], 5),
    ] {
        assert_eq!(value(op, args), want, "{op} {args:x?}");
    }
}

#[test]
fn floats_at_their_edges() {
    const NAN: u32 = 0x7fff_ffff;
    let f = f32::to_bits;
    let (pos, neg, inf) = (f(0.0), f(-0.0), f(f32::INFINITY));
    let quiet = 0xffc0_1234; // another one that is not a number
    let o = |op: &str| {
        format!("mov.b32 %f1, %r10; mov.b32 %f2, %r11; {op} %f3, %f1, %f2; mov.b32 %r13, %f3;")
    };
    let u = |op: &str| format!("mov.b32 %f1, %r10; {op} %f3, %f1; mov.b32 %r13, %f3;");
    let i = |op: &str| format!("mov.b32 %f1, %r10; {op} %r13, %f1;");
    let p = |c: &str| {
        format!(
            "mov.b32 %f1, %r10; mov.b32 %f2, %r11; setp.{c}.f32 %p1, %f1, %f2; selp.b32 %r13, 1, 0, %p1;"
        )
    };
    for (op, x, y, want) in [
        (o("add.rn.f32"), quiet, 0, NAN),
        (o("sub.rn.f32"), inf, inf, NAN),
        (o("mul.rn.f32"), 1, f(0.5), 0), // the least subnormal, halved: ties to even
        (o("mul.rn.f32"), 3, f(0.5), 2),
        (o("div.rn.f32"), f(1.0), neg, f(f32::NEG_INFINITY)),
        (o("div.rn.f32"), f(1.0), f(3.0), 0x3eaa_aaab),
        (o("min.f32"), pos, neg, neg),
        (o("min.f32"), neg, pos, neg),
        (o("max.f32"), neg, pos, pos),
        (o("max.f32"), quiet, f(2.0), f(2.0)),
        (o("min.f32"), f(2.0), quiet, f(2.0)),
        (o("max.f32"), quiet, quiet, NAN),
        (u("sqrt.rn.f32"), f(-1.0), 0, NAN),
        (u("sqrt.rn.f32"), neg, 0, neg),
        (u("rcp.rn.f32"), f(3.0), 0, 0x3eaa_aaab),
        (u("cvt.rmi.f32.f32"), f(-0.5), 0, f(-1.0)),
        (u("neg.f32"), pos, 0, neg),
        (u("abs.f32"), neg, 0, pos),
        (i("cvt.rzi.s32.f32"), f(3e9), 0, i32::MAX as u32),
        (i("cvt.rzi.s32.f32"), f(-3e9), 0, i32::MIN as u32),
        (i("cvt.rzi.s32.f32"), quiet, 0, 0),
        (i("cvt.rzi.s32.f32"), f(-1.9), 0, -1i32 as u32),
        (i("cvt.rzi.u32.f32"), f(-1.0), 0, 0),
        (i("cvt.rzi.u32.f32"), f(5e9), 0, u32::MAX),
        ("cvt.rn.f32.s32 %f3, %r10; mov.b32 %r13, %f3;".into(), 16_777_217, 0, f(16_777_216.0)),
        ("cvt.rn.f32.u32 %f3, %r10; mov.b32 %r13, %f3;".into(), u32::MAX, 0, f(4_294_967_296.0)),
        ("cvt.rn.f32.s16 %f3, %h1; mov.b32 %r13, %f3;".into(), 0xffff, 0, f(-1.0)),
        (p("lt"), quiet, 0, 0),
        (p("ltu"), quiet, 0, 1),
        (p("ne"), quiet, 0, 0),
        (p("neu"), quiet, 0, 1),
        (p("geu"), f(1.0), f(2.0), 0),
        (p("nan"), f(1.0), quiet, 1),
        (p("num"), f(1.0), quiet, 0),
        (p("eq"), pos, neg, 1),
    ] {
        assert_eq!(value(&op, [x, y, 0]), want, "{op} {x:#x} {y:#x}");
    }
}

/// All half floats, and all floats near the middle between two of them, as the crate `half` has them.
#[test]
fn half_floats() {
    for h in 0..=u16::MAX {
        let want = half::f16::from_bits(h).to_f32();
        let got = f32::from_bits(float::widen(h.into()));
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{h:#x}");
        if want.is_nan() {
            assert_eq!(float::narrow(want.to_bits()), 0x7fff);
            continue;
        }
        let step = half::f16::from_bits(h.wrapping_add(1)).to_f32();
        let middle = ((want + step) / 2.0).to_bits();
        for f in [want.to_bits(), middle, middle.wrapping_add(1), middle.wrapping_sub(1)] {
            if !f32::from_bits(f).is_nan() {
                let want = half::f16::from_f32(f32::from_bits(f)).to_bits();
                assert_eq!(float::narrow(f), want.into(), "{f:#x}");
            }
        }
    }
}

/// Row and column of every register as the manual has them, against sums written down plainly.
#[test]
fn tensor_cores() {
    let mut seed = 7u32;
    let mut byte = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as i8
    };
    let a: Vec<[i8; 32]> = (0..16).map(|_| std::array::from_fn(|_| byte())).collect();
    let b: Vec<[i8; 8]> = (0..32).map(|_| std::array::from_fn(|_| byte())).collect();
    let word = |v: [i8; 4]| u32::from_le_bytes(v.map(|b| b as u8));
    let mut input = vec![0; 6 * 32];
    for lane in 0..32 {
        let (group, in_group) = (lane >> 2, lane % 4);
        for r in 0..4 {
            let row = if r % 2 == 0 { group } else { group + 8 };
            let col = in_group * 4 + if r < 2 { 0 } else { 16 };
            input[6 * lane + r] = word(std::array::from_fn(|i| a[row][col + i]));
        }
        for r in 0..2 {
            input[6 * lane + 4 + r] =
                word(std::array::from_fn(|i| b[in_group * 4 + 16 * r + i][group]));
        }
    }
    let body = "mul.lo.s32 %r5, %r1, 24; cvt.u64.u32 %rd9, %r5; add.s64 %rd9, %rd2, %rd9;\n\
        ld.global.v2.u32 {%r10, %r11}, [%rd9]; ld.global.v2.u32 {%r12, %r13}, [%rd9+8];\n\
        ld.global.v2.u32 {%r14, %r15}, [%rd9+16];\n\
        mov.u32 %r20, 1; mov.u32 %r21, 2; mov.u32 %r22, 3; mov.u32 %r23, 4;\n\
        mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r20,%r21,%r22,%r23}, {%r10,%r11,%r12,%r13}, {%r14,%r15}, {%r20,%r21,%r22,%r23};\n\
        mul.lo.s32 %r5, %r1, 16; cvt.u64.u32 %rd9, %r5; add.s64 %rd9, %rd1, %rd9;\n\
        st.global.v4.u32 [%rd9], {%r20, %r21, %r22, %r23};";
    let got = Bench::new(&input).run(body, 1, 32).unwrap();
    for lane in 0..32 {
        for r in 0..4 {
            let row = (lane >> 2) + if r < 2 { 0 } else { 8 };
            let col = (lane % 4) * 2 + r % 2;
            let sum: i32 = (0..32).map(|k| i32::from(a[row][k]) * i32::from(b[k][col])).sum();
            assert_eq!(got[4 * lane + r] as i32, sum + r as i32 + 1, "lane {lane}, register {r}");
        }
    }
}

#[test]
fn lanes_of_a_warp() {
    let run = |op: &str| {
        let body = format!("add.s32 %r10, %r1, 100; {op} st.global.u32 [%rd3], %r13;");
        Bench::new(&[0; 64]).run(&body, 1, 32).unwrap()[..32].to_vec()
    };
    let map = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    assert_eq!(run("shfl.sync.bfly.b32 %r13|%p1, %r10, 5, 31, -1;"), map(&|l| 100 + (l ^ 5)));
    let down = map(&|l| 100 + if l + 3 < 32 { l + 3 } else { l });
    assert_eq!(run("shfl.sync.down.b32 %r13|%p1, %r10, 3, 31, -1;"), down);
    // Segments of eight lanes.
    let idx = map(&|l| 100 + (l & 24) + 2);
    assert_eq!(run("shfl.sync.idx.b32 %r13|%p1, %r10, 2, 6175, -1;"), idx);
    let up = map(&|l| 100 + if l >= 4 { l - 4 } else { l });
    assert_eq!(run("shfl.sync.up.b32 %r13|%p1, %r10, 4, 0, -1;"), up);
    let odd = "and.b32 %r11, %r1, 1; setp.eq.s32 %p1, %r11, 1;";
    assert_eq!(run(&format!("{odd} vote.sync.ballot.b32 %r13, %p1, -1;")), map(&|_| 0xaaaa_aaaa));
    let same = map(&|l| if l % 2 == 1 { 0xaaaa_aaaa } else { 0x5555_5555 });
    assert_eq!(run(&format!("{odd} match.any.sync.b32 %r13, %r11, -1;")), same);
    // The odd lanes run apart and meet the others again.
    let apart = map(&|l| if l % 2 == 1 { 0xaaaa_aaaa } else { 0xffff_ffff });
    let body = format!(
        "{odd} activemask.b32 %r13; @!%p1 bra E; activemask.b32 %r13;\nE: bar.warp.sync -1;"
    );
    assert_eq!(run(&body), apart);
}

#[test]
fn what_is_not_known_is_an_error_with_its_line() {
    let load =
        |body: &str| Module::new(&text(body), &mut Memory::new(1 << 20)).map(|_| ()).unwrap_err();
    let e = load("add.s32 %r5, %r1, %r2;\nfma.rn.f32 %f1, %f2, %f3, %f4;");
    assert!(e.line == FIRST + 1 && e.what.contains("fma.rn.f32"), "{e:?}");
    for body in [
        "bra NOWHERE;",
        "add.s32 %r5, %r1;",
        "add.s32 %rd5, %r1, %r2;",
        "ld.global.f16 %h1, [%rd1];",
        "ld.global.u32 %r99, [%rd1];",
        "@%p1 add.s32 %r5, %r1, %r2;",
        "mov.u32 %r5, %clock;",
        "bar.sync 1;",
        "cp.async.cg.shared.global [%r1], [%rd1], 4;",
        ".local .b8 x[4];",
    ] {
        assert_eq!(load(body).line, FIRST, "{body}");
    }
}

#[test]
fn global_memory_is_bounded_aligned_and_protected() {
    fails("st.global.u32 [%rd1+4096], %r1;", 1, 1, 700, "0 bytes behind the end");
    fails("st.global.u32 [%rd1+4094], %r1;", 1, 1, 716, "not a multiple");
    fails("ld.global.u32 %r5, [%rd2+-4];", 1, 1, 700, "reads 4 bytes");
    fails("mov.u64 %rd9, 0; ld.global.u32 %r5, [%rd9];", 1, 1, 700, "below all allocations");
    fails("ld.global.v4.u32 {%r5,%r6,%r7,%r8}, [%rd2+4];", 1, 1, 716, "not a multiple");
    // Only the last thread of many: it is the one that is named.
    fails("st.global.u32 [%rd3+3972], %r1;", 1, 32, 700, "thread [31, 0, 0]");
    let mut b = Bench::new(&[]);
    let mut host = [0u128; 4];
    b.out = b.memory.register(host.as_mut_ptr().cast(), 64, true);
    let shape = b.shape(1, 1, false);
    assert!(b.graph("ld.global.u32 %r5, [%rd1+60];", &shape, 0).is_ok());
    let e = b.graph("st.global.u32 [%rd1], %r1;", &shape, 0).unwrap_err();
    assert!(e.0 == 700 && e.1.contains("read-only"), "{e:?}");
    assert!(b.memory.end(b.out, false));
    let e = b.graph("ld.global.u32 %r5, [%rd1];", &shape, 0).unwrap_err();
    assert_eq!(e.0, 700, "{e:?}");
}

#[test]
fn memory_that_nobody_wrote() {
    fails("ld.global.u32 %r5, [%rd1];", 1, 1, 700, "nothing was written there");
    fails(
        "st.global.u8 [%rd1+1], %r1;\nld.global.u16 %h1, [%rd1];",
        1,
        1,
        700,
        "nothing was written",
    );
    succeeds("st.global.u32 [%rd1], %r1;\nld.global.u32 %r5, [%rd1];", 1, 1);
    fails("ld.shared.u32 %r5, [dyn];", 1, 1, 719, "nothing was written there by this block");
}

/// %r5: the thread's word in shared memory; %r6: that of a thread of the other warp.
const WORDS: &str = "shl.b32 %r5, %r1, 2; mov.u64 %rd9, dyn; cvt.u32.u64 %r7, %rd9; add.s32 %r5, %r5, %r7; xor.b32 %r6, %r5, 128;";

#[test]
fn shared_memory_is_bounded_and_needs_barriers() {
    fails("st.shared.u32 [dyn+1024], %r1;", 1, 1, 700, "outside of the block's 0x400");
    fails("st.shared.u32 [dyn+-4], %r1;", 1, 1, 700, "outside of the block's");
    fails("st.shared.u32 [dyn+2], %r1;", 1, 1, 716, "not a multiple");
    let store = format!("{WORDS} st.shared.u32 [%r5], %r1;");
    succeeds(&format!("{store} bar.sync 0; ld.shared.u32 %r8, [%r6];"), 1, 64);
    fails(&format!("{store} ld.shared.u32 %r8, [%r6];"), 1, 64, 719, "nothing was written");
    // Written by all before: only the order is wrong.
    let again = format!("{store} bar.sync 0; st.shared.u32 [%r5], %r1;");
    fails(
        &format!("{again} ld.shared.u32 %r8, [%r6];"),
        1,
        64,
        719,
        "no barrier (bar.sync) followed: a race",
    );
    fails(&format!("{again} st.shared.u32 [%r6], %r1;"), 1, 64, 719, "warp 0 wrote it");
    fails(
        &format!(
            "{store} bar.sync 0; ld.shared.u32 %r8, [%r5]; setp.lt.u32 %p1, %r1, 32; @%p1 bra E; st.shared.u32 [%r6], %r8;\nE:"
        ),
        1,
        64,
        719,
        "read it and no barrier",
    );
    let count = "setp.ne.s32 %p1, %r1, 0; @%p1 bra G; mov.u32 %r9, 0; st.shared.u32 [dyn], %r9;\nG: bar.sync 0; mov.u64 %rd9, dyn; atom.shared.add.u32 %r8, [%rd9], 1;";
    succeeds(&format!("{count} bar.sync 0; ld.shared.u32 %r8, [dyn];"), 1, 64);
    fails(&format!("{count} ld.shared.u32 %r8, [dyn];"), 1, 64, 719, "atomic operations wrote it");
    // The atomic operation of the same warp does not hide that the number was only just set.
    let late = count.replace("G: bar.sync 0;", "G:");
    assert_ne!(late, count);
    fails(&late, 1, 64, 719, "warp 0 wrote it and no barrier");
}

#[test]
fn copies_are_waited_for() {
    let copy =
        format!("{WORDS} cp.async.ca.shared.global [%r5], [%rd2], 4; cp.async.commit_group;");
    let wait = format!("{copy} cp.async.wait_group 0;");
    fails(&format!("{copy} bar.sync 0; ld.shared.u32 %r8, [%r5];"), 1, 64, 719, "cp.async");
    fails(
        &format!("{copy} cp.async.wait_group 1; ld.shared.u32 %r8, [%r5];"),
        1,
        64,
        719,
        "cp.async",
    );
    fails(&format!("{wait} ld.shared.u32 %r8, [%r6];"), 1, 64, 719, "nothing was written");
    succeeds(&format!("{wait} ld.shared.u32 %r8, [%r5];"), 1, 64);
    succeeds(&format!("{wait} bar.sync 0; ld.shared.u32 %r8, [%r6];"), 1, 64);
    // The second group is still under way.
    let two = format!(
        "{copy} cp.async.ca.shared.global [%r5+512], [%rd2], 4; cp.async.commit_group; cp.async.wait_group 1;"
    );
    succeeds(&format!("{two} ld.shared.u32 %r8, [%r5];"), 1, 64);
    fails(&format!("{two} ld.shared.u32 %r8, [%r5+512];"), 1, 64, 719, "cp.async");
    // Nothing is read where no bytes are wanted.
    succeeds(
        "mov.u64 %rd9, 0; mov.u32 %r9, 0; mov.u64 %rd8, dyn; cvt.u32.u64 %r8, %rd8; cp.async.cg.shared.global [%r8], [%rd9], 16, %r9;",
        1,
        1,
    );
}

#[test]
fn blocks_do_not_race() {
    fails("st.global.u32 [%rd1], %r1;", 2, 1, 700, "block 0 wrote it in this launch: a race");
    // Bytes of one word are different places.
    succeeds("cvt.u64.u32 %rd9, %r2; add.s64 %rd9, %rd1, %rd9; st.global.u8 [%rd9], %r1;", 4, 1);
    fails("st.global.u32 [%rd3], %r1; ld.global.u32 %r5, [%rd1];", 2, 1, 700, "reads 4 bytes");
    fails(
        "setp.eq.s32 %p1, %r2, 0; @%p1 bra R; st.global.u32 [%rd2], %r1; bra E;\nR: ld.global.u32 %r5, [%rd2];\nE:",
        2,
        1,
        700,
        "block 0 read it",
    );
    fails(
        "atom.global.add.u32 %r5, [%rd2], 1; ld.global.u32 %r6, [%rd2];",
        2,
        1,
        700,
        "atomic operations wrote it",
    );
    fails(
        "mov.u32 %r9, 0; setp.ne.s32 %p1, %r4, 0; @%p1 bra G; st.global.u32 [%rd1], %r9;\n\
         G: atom.global.add.u32 %r5, [%rd1], 1;",
        2,
        1,
        700,
        "block 0 used it without atomic operations",
    );
    // Many may read, and one launch may read what the one before wrote.
    succeeds("ld.global.u32 %r5, [%rd2];", 9, 32);
    let mut b = Bench::new(&[0; 64]);
    b.run("st.global.u32 [%rd3], %r1;", 4, 32).unwrap();
    b.run("xor.b32 %r9, %r4, 32; mul.wide.u32 %rd9, %r9, 4; add.s64 %rd9, %rd1, %rd9; ld.global.u32 %r5, [%rd9];", 4, 32)
        .unwrap();
}

/// The last of several blocks reads what the others wrote: fence, barrier, atomic operation, barrier, fence.
#[test]
fn the_last_block_may_read_what_was_released_to_it() {
    let kernel = |release: &str, acquire: &str| {
        format!(
            "st.global.u32 [%rd3], %r4; {release} bar.sync 0; setp.ne.s32 %p1, %r1, 0; @%p1 bra W;\n\
             atom.global.add.u32 %r5, [%rd2], 1; st.shared.u32 [dyn], %r5;\n\
             W: bar.sync 0; ld.shared.u32 %r5, [dyn]; setp.ne.s32 %p2, %r5, 3; @%p2 bra E;\n\
             {acquire} mul.wide.u32 %rd9, %r1, 4; add.s64 %rd9, %rd1, %rd9; ld.global.u32 %r6, [%rd9];\n\
             setp.ne.s32 %p3, %r1, 0; @%p3 bra E; mov.u32 %r9, 0; st.global.u32 [%rd2], %r9;\nE:"
        )
    };
    succeeds(&kernel("membar.gl;", "membar.gl;"), 4, 64);
    fails(&kernel("", "membar.gl;"), 4, 64, 700, "a race");
    fails(&kernel("membar.gl;", ""), 4, 64, 700, "a race");
}

#[test]
fn early_launches_wait() {
    let (write, read) = ("st.global.u32 [%rd3], %r1;", "ld.global.u32 %r5, [%rd3];");
    let wait = "griddepcontrol.wait;";
    let second = |body: &str| {
        let mut b = Bench::new(&[0; 64]);
        let (first, early) = (b.shape(1, 32, false), b.shape(1, 32, true));
        b.graph(write, &first, 1).unwrap();
        b.graph(body, &early, 1)
    };
    for (body, want) in [
        (format!("{wait} {read}"), None),
        (format!("ld.global.u32 %r5, [%rd2]; {wait} {read} {write}"), None),
        (format!("{read} {wait}"), Some("griddepcontrol.wait has not run")),
        (format!("st.global.u32 [%rd2], %r1; {wait}"), Some("written before griddepcontrol.wait")),
        (String::new(), Some("ends without griddepcontrol.wait")),
    ] {
        match (second(&body), want) {
            (Ok(()), None) => {}
            (Err((_, text)), Some(want)) if text.contains(want) => {}
            (got, _) => panic!("{body}: {got:?}"),
        }
    }
}

#[test]
fn lanes_that_never_meet() {
    let odd = "and.b32 %r5, %r1, 1; setp.eq.s32 %p1, %r5, 1; @%p1 bra A;";
    fails(&format!("{odd} bar.sync 0; bra E;\nA: bar.sync 0;\nE:"), 1, 32, 719, "divergence");
    fails(
        &format!("{odd} ret;\nA: bar.warp.sync -1; shfl.sync.idx.b32 %r6, %r1, 0, 31, -1;"),
        1,
        32,
        719,
        "have ended",
    );
    fails(
        &format!("{odd} activemask.b32 %r7; shfl.sync.idx.b32 %r6, %r1, 1, 31, %r7;\nA:"),
        1,
        32,
        719,
        "takes no part",
    );
    fails("mov.u32 %r7, 3; bar.warp.sync %r7;", 1, 32, 719, "the mask does not name");
    fails("mov.u32 %r7, 0; div.s32 %r8, %r1, %r7;", 1, 32, 719, "divides by zero");
    // A barrier that stands before the code of those who come late is no divergence.
    succeeds(&format!("{odd}\nM: bar.sync 0; bra E;\nA: add.s32 %r6, %r1, 1; bra M;\nE:"), 1, 32);
    let mut b = Bench::new(&[]);
    b.config.checks.steps = 1000;
    let e = b.run("L: add.s32 %r5, %r5, 1; bra L;", 1, 32).unwrap_err();
    assert!(e.0 == 702 && e.1.contains("a loop without end"), "{e:?}");
}

/// Checks can be left out, each by itself.
#[test]
fn checks_can_be_left_out() {
    let mut b = Bench::new(&[0; 64]);
    b.config.checks.unwritten = false;
    b.run("ld.global.u32 %r5, [%rd1];", 1, 1).unwrap();
    b.config.checks.races = false;
    b.run("st.global.u32 [%rd1], %r1;", 2, 1).unwrap();
    b.config.checks.shared = false;
    b.run("ld.shared.u32 %r5, [dyn];", 1, 1).unwrap();
    b.config.checks.early = false;
    let early = b.shape(1, 1, true);
    b.graph("st.global.u32 [%rd1], %r1;", &early, 1).unwrap();
    assert_eq!(SHARED % 16, 0);
}

/// Through the functions of the driver: nothing runs while a stream records, a graph runs as often as it is launched,
/// and a stream that failed says so ever after.
#[test]
fn streams_and_graphs() {
    use crate::driver::*;
    use std::ffi::{CString, c_void};
    let image = CString::new(
        text("atom.global.add.u32 %r5, [%rd1], 1; ld.global.u32 %r6, [%rd2];")
            .replace("sm_90", "sm_80"),
    )
    .unwrap();
    let (mut module, mut f, mut stream) =
        (std::ptr::null_mut(), std::ptr::null(), std::ptr::null_mut());
    let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (mut out, mut input, zero) = (0u64, 0u64, [0u32; 1]);
    // SAFETY: handles are those that the calls give, and pointers are to locals that live.
    unsafe {
        assert_eq!(cuInit(0), 0);
        assert_eq!(cuModuleLoadData(&mut module, image.as_ptr().cast()), 0);
        assert_eq!(cuModuleGetFunction(&mut f, module, c"none".as_ptr()), 500);
        assert_eq!(cuModuleGetFunction(&mut f, module, c"k".as_ptr()), 0);
        assert_eq!(cuStreamCreate(&mut stream, 1), 0);
        assert_eq!(cuMemAlloc_v2(&mut out, 4), 0);
        assert_eq!(cuMemAlloc_v2(&mut input, 4), 0);
        assert_eq!(cuMemAlloc_v2(&mut input, usize::MAX / 2), 2);
        for to in [out, input] {
            assert_eq!(cuMemcpyHtoDAsync_v2(to, zero.as_ptr().cast(), 4, stream), 0);
        }
        assert_eq!(cuMemcpyHtoDAsync_v2(out, zero.as_ptr().cast(), 8, stream), 1);
        let null = std::ptr::null_mut();
        let run = |threads: u32, stream| {
            let (mut a, mut b) = (out, input);
            let mut params = [(&raw mut a).cast::<c_void>(), (&raw mut b).cast::<c_void>()];
            cuLaunchKernel(f, 1, 1, 1, threads, 1, 1, 0, stream, params.as_mut_ptr(), null)
        };
        let value = |stream| {
            let mut v = [9u32];
            let code = cuMemcpyDtoHAsync_v2(v.as_mut_ptr().cast(), out, 4, stream);
            (code, v[0])
        };
        assert_eq!(run(1025, stream), 1);
        assert_eq!(run(32, stream), 0);
        assert_eq!(value(stream), (0, 32));
        assert_eq!(cuStreamBeginCapture_v2(stream, 1), 0);
        assert_eq!((run(1, stream), run(2, stream)), (0, 0));
        assert_eq!(cuStreamSynchronize(stream), 900);
        assert_eq!(cuStreamEndCapture(stream, &mut graph), 0);
        assert_eq!(value(stream), (0, 32));
        assert_eq!(cuGraphInstantiateWithFlags(&mut exec, graph, 0), 0);
        assert_eq!(cuGraphDestroy(graph), 0);
        assert_eq!((cuGraphLaunch(exec, stream), cuGraphLaunch(exec, stream)), (0, 0));
        assert_eq!(value(stream), (0, 38));
        assert_eq!(cuMemFree_v2(input), 0);
        assert_eq!(cuMemFree_v2(input), 1);
        assert_eq!(cuGraphLaunch(exec, stream), 700);
        assert_eq!(cuStreamSynchronize(stream), 700);
        assert_eq!(cuGraphExecDestroy(exec), 0);
        assert_eq!(cuStreamDestroy_v2(stream), 0);
        assert_eq!(cuModuleUnload(module), 0);
        assert_eq!(cuMemFree_v2(out), 0);
    }
}
