//! On a GPU: every stage leaves in its buffers what the scalar reference leaves there, bit for bit, and whole
//! pictures, sent as graphs, are those of the CPU. Without a GPU each test says why it is skipped, and passes;
//! with VARMINT_REQUIRE_CUDA=1 it fails. `../emulator` stands in for one.

use std::io::Write;
use std::path::PathBuf;

use varmint::{
    Backend, Buf, Cpu, Engine, Generator, Host, Keep, Model, ModelFile, Pass, Plan, Request,
    Scalar, Stage, Step, Store, Tier, Tile, edit,
};
use varmint_core::Job;
use varmint_core::device::{STATS, kv, stat};
use varmint_core::tier::KEEP_ALL;
use varmint_cuda::{Cuda, probe};

/// Whether to go on.
fn gpu() -> bool {
    match probe() {
        Ok(_) => true,
        Err(e) => {
            assert_ne!(
                std::env::var("VARMINT_REQUIRE_CUDA").as_deref(),
                Ok("1"),
                "a GPU is required: {e}"
            );
            // Not through the macros, whose output of tests that pass is not shown.
            let _ = writeln!(std::io::stderr(), "skipped: {e}");
            false
        }
    }
}

const MODELS: [&str; 3] = ["tiny.vmt", "emoji-micro.vmt", "emoji-64.vmt"];

fn fixture(name: &str) -> PathBuf {
    let here = PathBuf::from("fixtures").join(name);
    if here.exists() { here } else { PathBuf::from("../../fixtures").join(name) }
}

/// Memory whose first byte is at a multiple of 16.
fn ram(bytes: usize) -> Vec<u128> {
    vec![0; bytes.div_ceil(16)]
}

/// The buffers that a stage is the last to write, and which bytes of them mean something.
fn written(model: &Model<'_>, plan: &Plan, stage: Stage) -> Vec<(Buf, usize, usize)> {
    let (shape, tier) = (&model.shape, &plan.tier);
    let c = &shape.config;
    let all = |buf| (buf, 0, plan.buffer(buf).size as usize);
    match stage {
        Stage::Setup { trunk } => {
            let w = shape.trunk(trunk).width as usize;
            vec![(Buf::Cond, 0, 4 * w * tier.rows_of(trunk, 0)), all(Buf::FHat)]
        }
        Stage::HeadAda { .. } => match stage.next(shape, tier) {
            Stage::HeadAda { .. } => vec![],
            _ => vec![all(Buf::Ada), all(Buf::HeadAda)],
        },
        Stage::Begin { .. } => vec![all(Buf::X)],
        // Keys and values may only be there once attention is.
        Stage::Mix(t) => {
            let j = tier.last_scale(t.trunk, t.block, c.n_scales()).unwrap_or(0);
            let mut all =
                vec![all(Buf::Kv(0, j)), all(Buf::Kv(1, j)), all(Buf::KvNow), all(Buf::X)];
            let rows = tier.rows_at_once(t.trunk, t.scale);
            let classes = (0..rows).flat_map(|row| kv(shape, plan, Tile { row, ..t }, rows));
            for class in classes.filter(|class| class.stay > Some(0)) {
                let keys = class.before.tokens + class.own.tokens;
                let from = class.seen - plan.buffer(Buf::Seen).offset as usize;
                all.push((Buf::Seen, from, from + 4 * class.heads * keys));
            }
            all
        }
        Stage::Keep(t) => {
            let j = tier.last_scale(t.trunk, t.block, c.n_scales()).unwrap_or(0);
            vec![all(Buf::Kv(t.row, j))]
        }
        Stage::Draw { .. } => match stage.next(shape, tier) {
            Stage::Fold { .. } => vec![all(Buf::Tokens)],
            _ => vec![],
        },
        Stage::Fold { .. } => vec![all(Buf::FHat)],
        Stage::Decode { layer, pass, .. } => {
            let (kind, level) = shape.decoder(tier.decoder).layer(c.cvae as usize, layer);
            let (_, output) = varmint_core::device::level_maps(shape, tier, layer);
            use varmint_core::tensor::Layer;
            // Rows of the statistics: those of maps, of hidden maps, and what a norm leaves.
            let stats = |from, to| {
                let row = plan.buffer(Buf::Stats).size as usize / STATS;
                (Buf::Stats, from * row, to * row)
            };
            match (kind, pass) {
                (_, Pass::Scan) => vec![stats(stat::MAP, stat::HIDDEN)],
                (_, Pass::Norm1 | Pass::Norm2) => vec![stats(stat::GAIN, stat::TEMP)],
                (Layer::Res { .. }, Pass::First) => {
                    vec![stats(stat::HIDDEN, stat::GAIN), all(Buf::Hidden(level))]
                }
                (Layer::Attention { .. }, Pass::First) => vec![all(Buf::MapQkv)],
                (Layer::Out { .. }, _) => vec![all(Buf::Rgb)],
                _ => vec![stats(stat::MAP, stat::HIDDEN), all(output)],
            }
        }
        Stage::Ada { .. } | Stage::Keys(_) | Stage::Head { .. } | Stage::Done => vec![],
    }
}

/// Runs the reference and the GPU side by side, one stage of a batch at a time. After a difference the GPU goes on with what the
/// reference has, so that every stage that is wrong shows by itself. An error for a tier that only a CPU runs.
fn lockstep(
    model: &Model<'_>,
    tier: &Tier,
    requests: &[Request<'_>],
) -> Result<Vec<String>, &'static str> {
    let plan = Plan::new(&model.shape, &varmint_cuda::tier(model, tier)).unwrap();
    let plan = plan.batch(requests.len()).unwrap();
    let mut memory = ram(plan.bytes());
    let mut host = Host::new(Scalar, bytemuck::cast_slice_mut(&mut memory), &plan).unwrap();
    let mut cuda = match Cuda::new(model, &plan) {
        Err(varmint_cuda::Error::Unsupported(why)) => return Err(why),
        cuda => cuda.unwrap(),
    };
    cuda.set_graphs(false);
    let job = Job { model, plan: &plan, request: &requests[0], more: &requests[1..] };
    let mut wrong = Vec::new();
    let mut stage = Stage::START;
    // Buffers that neither side writes whole begin alike.
    let same = [Buf::Ada, Buf::X, Buf::KvNow, Buf::Stats, Buf::Tokens];
    let caches = (0..16).flat_map(|j| [Buf::Kv(0, j), Buf::Kv(1, j)]);
    for buf in same.into_iter().chain(caches) {
        if plan.buffer(buf).size > 0 {
            for image in 0..requests.len() {
                let bytes = host.view(&plan, image, buf).unwrap().to_vec();
                cuda.write(&plan, image, buf, &bytes).unwrap();
            }
        }
    }
    while stage != Stage::Done {
        host.run(&job, stage).unwrap();
        if let Err(e) = cuda.run(&job, stage) {
            wrong.push(format!("{stage:?}: {e}"));
            return Ok(wrong);
        }
        let written = written(model, &plan, stage);
        let each = written.iter().flat_map(|w| (0..requests.len()).map(move |image| (w, image)));
        for (&(buf, from, to), image) in each {
            if plan.buffer(buf).size == 0 {
                continue;
            }
            let want = host.view(&plan, image, buf).unwrap()[from..to].to_vec();
            let got = match cuda.view(&plan, image, buf) {
                Ok(got) => &got[from..to],
                Err(e) => {
                    wrong.push(format!("{stage:?} {buf:?}: {e}"));
                    return Ok(wrong);
                }
            };
            if want != got {
                let at = want.iter().zip(got).position(|(a, b)| a != b).unwrap();
                let count = want.iter().zip(got).filter(|(a, b)| a != b).count();
                let f = |x: &[u8]| {
                    let i = at / 4 * 4;
                    x.get(i..i + 4).map_or(0.0, |b| f32::from_le_bytes(b.try_into().unwrap()))
                };
                wrong.push(format!(
                    "{stage:?} {buf:?} of image {image}: {count} of {} bytes, first at {at}: {:#04x} {} for {:#04x} {}",
                    want.len(),
                    got[at],
                    f(got),
                    want[at],
                    f(&want)
                ));
                let whole = host.view(&plan, image, buf).unwrap().to_vec();
                cuda.write(&plan, image, buf, &whole).unwrap();
            }
        }
        if let Stage::Decode { pass: Pass::Scan, .. } = stage {
            // Narrow layers leave the rest of a row as it was.
            for image in 0..requests.len() {
                let bytes = host.view(&plan, image, Buf::Stats).unwrap().to_vec();
                cuda.write(&plan, image, Buf::Stats, &bytes).unwrap();
            }
        }
        stage = stage.next(&model.shape, &plan.tier);
    }
    Ok(wrong)
}

fn requests<'r>(model: &Model<'_>) -> [Request<'r>; 2] {
    let mut a = Request::new(model);
    a.labels[0] = Some(3);
    a.seed = 11;
    let mut b = a;
    (b.sampling.top_k, b.sampling.top_p, b.sampling.temperature) = (20, 0.9, 0.8);
    [a, b]
}

#[test]
fn every_stage_is_the_reference_s() {
    if !gpu() {
        return;
    }
    let mut wrong = Vec::new();
    for name in MODELS {
        let file = ModelFile::open(fixture(name)).unwrap();
        let model = file.model().unwrap();
        for tier in model.tiers() {
            let [request, other] = requests(&model);
            let request = if tier.index == 0 { request } else { other };
            let found = match lockstep(&model, &tier, &[request]) {
                Ok(found) => found,
                Err(why) => {
                    eprintln!("{name} {}: not on the GPU: {why}", tier.name());
                    continue;
                }
            };
            eprintln!("{name} {}: {} stages differ", tier.name(), found.len());
            for f in found.iter().take(12) {
                eprintln!("    {f}");
            }
            wrong.extend(found);
            if name == "emoji-64.vmt" && tier.name() == "half" {
                break; // the others run the same code with fewer blocks: whole pictures cover them
            }
        }
    }
    assert!(wrong.is_empty(), "{} stages differ", wrong.len());
}

/// The same for three images at once, each with a request of its own.
#[test]
fn every_stage_of_a_batch_is_the_reference_s() {
    if !gpu() {
        return;
    }
    let file = ModelFile::open(fixture("emoji-micro.vmt")).unwrap();
    let model = file.model().unwrap();
    let [a, b] = requests(&model);
    let c = Request { labels: [None; 4], seed: 5, ..a };
    let found = lockstep(&model, &model.tier_at(0).unwrap(), &[a, b, c]).unwrap();
    found.iter().take(12).for_each(|f| eprintln!("    {f}"));
    assert!(found.is_empty(), "{} stages differ", found.len());
}

/// What the shipped models do not have: float and 4-bit weights, and with them float caches; modulation by one projection
/// for all blocks, and multiplied out.
#[test]
fn other_numbers_are_the_reference_s() {
    use varmint::Aln;
    use varmint_quant::numbers::{Numbers, choose};
    use varmint_quant::synth::{Shape, fill};
    if !gpu() {
        return;
    }
    let path = std::env::temp_dir().join(format!("varmint-cuda-{}.vmt", std::process::id()));
    let mut wrong = Vec::new();
    for (numbers, aln, scales) in [
        (Numbers::F32, Aln::Own, &[1, 2][..]),
        (Numbers::F16, Aln::Shared, &[1, 2]),
        (Numbers::Int4, Aln::Own, &[1, 2, 3]),
        (Numbers::Int8, Aln::Baked, &[1, 2, 3]),
    ] {
        let scales = scales.to_vec();
        let shape = Shape { depth: 2, scales, vocab: 64, channels: 32, ..Shape::default() };
        let mut description = shape.describe("random", vec![shape.full_tier(numbers)]);
        description.trunks[0].aln = aln;
        fill(&path, &description, |spec| choose(numbers, &[], spec, false)).unwrap();
        let file = ModelFile::open(&path).unwrap();
        let model = file.model().unwrap();
        let found = lockstep(&model, &model.tier_at(0).unwrap(), &requests(&model)).unwrap();
        eprintln!("{numbers:?}, {aln:?}: {} stages differ", found.len());
        found.iter().take(12).for_each(|f| eprintln!("    {f}"));
        wrong.extend(found);
    }
    std::fs::remove_file(&path).unwrap();
    assert!(wrong.is_empty(), "{} stages differ", wrong.len());
}

/// Which tokens stay, by class of head, and which of its own scale a token sees: heads of 64 channels, for the tensor
/// cores, and of 12; guidance that ends before the last scale.
#[test]
fn tiers_that_drop_tokens_are_the_reference_s() {
    use varmint_quant::numbers::{Numbers, choose};
    use varmint_quant::synth::{Shape, fill};
    if !gpu() {
        return;
    }
    const ALL: u16 = KEEP_ALL;
    // Of other heads and of wide ones; the side of a neighbourhood, from a scale on.
    let keep = |others: [u16; 4], wide: [u16; 4], window, window_from| {
        let mut keep = Keep { grid: 2, pool: 3, protect: 1, window, window_from, ..Keep::ALL };
        keep.most[0][..4].copy_from_slice(&others);
        keep.most[1][..4].copy_from_slice(&wide);
        keep
    };
    let few = keep([1, 5, 30, ALL], [1, 9, 44, ALL], 0, 0);
    // Scores over so many neighbours are all the same, at the first scales.
    let equal = Keep { pool: 63, ..few };
    let wide_64 = vec![
        (Store::I8, 4, few),
        (Store::I8, 3, keep([ALL, ALL, 33, ALL], [ALL; 4], 0, 0)), // one class chooses
    ];
    let wide_12 = vec![
        (Store::F16, 4, equal),
        (Store::F32, 2, keep([ALL, 0, 20, ALL], [ALL, ALL, 41, ALL], 0, 0)),
        (Store::I8, 3, keep([1, 5, 12, ALL], [1, 5, 2, ALL], 3, 2)),
        (Store::F16, 4, keep([0; 4], [0; 4], 3, 0)),
        (Store::F32, 4, keep([ALL; 4], [ALL; 4], 1, 3)),
    ];
    let path = std::env::temp_dir().join(format!("varmint-keep-{}.vmt", std::process::id()));
    let mut wrong = Vec::new();
    for (width, heads, wide, tiers) in [(128, 2, [1, 0], wide_64), (48, 4, [3, 1], wide_12)] {
        let scales = vec![1, 3, 6, 7];
        let shape = Shape { depth: 2, scales, vocab: 64, channels: 32, ..Shape::default() };
        let mut description = shape.describe("random", vec![shape.full_tier(Numbers::Int8)]);
        let trunk = &mut description.trunks[0];
        (trunk.width, trunk.hidden, trunk.heads) = (width, 4 * width, heads);
        trunk.wide_heads[..2].copy_from_slice(&wide);
        // Decoders are tested elsewhere.
        let decoder = &mut description.decoders[0];
        (decoder.widths, decoder.blocks, decoder.attention) = (vec![32, 32], 1, 0);
        fill(&path, &description, |spec| choose(Numbers::Int8, &[], spec, false)).unwrap();
        let file = ModelFile::open(&path).unwrap();
        let model = file.model().unwrap();
        for (cache, guided, keep) in tiers {
            let mut tier = model.tier_at(0).unwrap();
            (tier.cache, tier.guided, tier.keep) = (cache, guided, keep);
            let found = lockstep(&model, &tier, &requests(&model)).unwrap();
            eprintln!("{width}, {cache:?}, {guided} guided: {} stages differ", found.len());
            found.iter().take(12).for_each(|f| eprintln!("    {f}"));
            wrong.extend(found);
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(wrong.is_empty(), "{} stages differ", wrong.len());
}

/// Makes an image on the GPU.
fn picture(g: &mut Generator<'_, Cuda<'_>>) -> (Vec<u8>, Vec<u16>) {
    let (mut rgb, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match g.step().unwrap() {
            Step::Rows(rows) => rgb.extend_from_slice(rows.rgb),
            Step::Done => return (rgb, tokens),
            _ => {}
        }
        if let Stage::Decode { layer: 0, pass: Pass::Scan, .. } = g.stage() {
            tokens = g.tokens().unwrap().to_vec();
        }
    }
}

#[test]
fn pictures_are_the_cpu_s() {
    if !gpu() {
        return;
    }
    let mut wrong = 0;
    for name in MODELS {
        let file = ModelFile::open(fixture(name)).unwrap();
        let model = file.model().unwrap();
        for tier in model.tiers() {
            let plan = Plan::new(&model.shape, &varmint_cuda::tier(&model, &tier)).unwrap();
            let [first, second] = requests(&model);
            let cuda = match Cuda::new(&model, &plan) {
                Ok(cuda) => cuda,
                Err(varmint_cuda::Error::Unsupported(why)) => {
                    eprintln!("{name} {}: not on the GPU: {why}", tier.name());
                    continue;
                }
                Err(e) => panic!("{name} {}: {e}", tier.name()),
            };
            let mut g = Generator::new(&model, &plan, cuda, first).unwrap();
            let mut engine = Engine::new(&model, &tier).unwrap();
            engine.set_cpu(Cpu::detect().parallel());
            // The second time the graphs of the first one are replayed.
            for (i, request) in [first, second, first].into_iter().enumerate() {
                g.reset(request).unwrap();
                let want = engine.generate(request).unwrap();
                let (rgb, tokens) = picture(&mut g);
                let good = (&rgb, &tokens) == (&want.rgb, &want.tokens);
                eprintln!("{name} {} {i}: {}", tier.name(), if good { "same" } else { "DIFFERS" });
                wrong += u32::from(!good);
            }
        }
    }
    assert_eq!(wrong, 0);
}

/// Batches, whole and not, are the pictures one by one.
#[test]
fn pictures_of_a_batch_are_the_cpu_s() {
    if !gpu() {
        return;
    }
    for (name, tier) in [("tiny.vmt", None), ("emoji-64.vmt", Some("lite"))] {
        let file = ModelFile::open(fixture(name)).unwrap();
        let model = file.model().unwrap();
        let tier = tier.map_or(model.tier_at(0), |t| model.tier(t)).unwrap();
        let [a, b] = requests(&model);
        let all = [a, b, Request { seed: 77, ..b }];
        let mut engine = Engine::new(&model, &tier).unwrap();
        engine.set_cpu(Cpu::detect().parallel());
        let want: Vec<_> = all.iter().map(|&r| engine.generate(r).unwrap().rgb).collect();
        let plan = Plan::new(&model.shape, &varmint_cuda::tier(&model, &tier)).unwrap();
        let plan = plan.batch(3).unwrap();
        let cuda = Cuda::new(&model, &plan).unwrap();
        let mut g = Generator::batch(&model, &plan, cuda, &all).unwrap();
        for n in [3, 2, 3] {
            g.reset_batch(&all[..n]).unwrap();
            let mut got = vec![Vec::new(); n];
            loop {
                match g.step().unwrap() {
                    Step::Rows(rows) => got[rows.image].extend_from_slice(rows.rgb),
                    Step::Done => break,
                    _ => {}
                }
            }
            assert!(got == want[..n], "{name}: a picture of {n} differs");
        }
    }
}

/// Tokens that stay and others that are drawn, which change while the image is made.
#[test]
fn edited_pictures_are_the_reference_s() {
    if !gpu() {
        return;
    }
    let file = ModelFile::open(fixture("tiny.vmt")).unwrap();
    let model = file.model().unwrap();
    let n = model.shape.config.tokens();
    let vocab = model.shape.config.vocab as usize;
    let given: Vec<u16> =
        (0..n).map(|i| if i % 3 == 0 { edit::DRAW } else { (i * 7 % vocab) as u16 }).collect();
    let later: Vec<u16> =
        (0..n).map(|i| if i % 2 == 0 { edit::DRAW } else { (i * 5 % vocab) as u16 }).collect();
    let plan =
        Plan::new(&model.shape, &varmint_cuda::tier(&model, &model.tier_at(0).unwrap())).unwrap();
    let [request, _] = requests(&model);
    let request = Request { tokens: Some(&given), ..request };
    fn edited<'a, B: Backend>(
        mut g: Generator<'a, B>,
        changes: [(usize, Option<&'a [u16]>); 2],
    ) -> (Vec<u8>, Vec<u16>) {
        let (mut rgb, mut tokens) = (Vec::new(), Vec::new());
        loop {
            let done = match g.step().unwrap() {
                Step::Rows(rows) => {
                    rgb.extend_from_slice(rows.rgb);
                    continue;
                }
                Step::Scale(s) => s.scale,
                Step::Done => return (rgb, tokens),
                Step::Working(_) => continue,
            };
            for (scale, tokens) in changes {
                if scale == done {
                    g.set_tokens(tokens).unwrap();
                }
            }
            tokens = g.tokens().unwrap().to_vec();
        }
    }
    for changes in [[(0, Some(&later[..])), (2, None)], [(1, None), (2, Some(&given[..]))]] {
        let mut memory = ram(plan.bytes());
        let host = Host::new(Scalar, bytemuck::cast_slice_mut(&mut memory), &plan).unwrap();
        let want = edited(Generator::new(&model, &plan, host, request).unwrap(), changes);
        assert!(want.1.iter().any(|&t| t > 0));
        let cuda = Cuda::new(&model, &plan).unwrap();
        let got = edited(Generator::new(&model, &plan, cuda, request).unwrap(), changes);
        assert!(got == want, "tokens {:?} for {:?}", got.1, want.1);
    }
}

#[test]
fn an_image_that_is_given_up_leaves_nothing() {
    if !gpu() {
        return;
    }
    let file = ModelFile::open(fixture("tiny.vmt")).unwrap();
    let model = file.model().unwrap();
    let plan =
        Plan::new(&model.shape, &varmint_cuda::tier(&model, &model.tier_at(0).unwrap())).unwrap();
    let [first, second] = requests(&model);
    let cuda = Cuda::new(&model, &plan).unwrap();
    let mut g = Generator::new(&model, &plan, cuda, first).unwrap();
    let want = picture(&mut g);
    for steps in [1, 7, 40, 90] {
        g.reset(second).unwrap();
        for _ in 0..steps {
            g.step().unwrap();
        }
        g.reset(first).unwrap();
        assert_eq!(picture(&mut g), want, "after {steps} steps");
    }
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    if !gpu() {
        return;
    }
    let file = ModelFile::open(fixture("emoji-64.vmt")).unwrap();
    let model = file.model().unwrap();
    let plan = |name| {
        let tier = varmint_cuda::tier(&model, &model.tier(name).unwrap());
        Plan::new(&model.shape, &tier).unwrap()
    };
    // A plan of the CPU's tier is not the GPU's.
    let foreign = Plan::new(&model.shape, &model.tier("full").unwrap()).unwrap();
    let got = Cuda::new(&model, &foreign).map(|_| ());
    assert!(matches!(got, Err(varmint_cuda::Error::Unsupported(_))), "{got:?}");
    let (full, lite) = (plan("full"), plan("lite"));
    assert!(lite.bytes() < full.bytes());
    let mut cuda = Cuda::new(&model, &lite).unwrap();
    let got = cuda.prepare(&model, &full);
    match got {
        // With what every image has beside its arena.
        Err(varmint_cuda::Error::Memory { need, got }) => {
            assert!(need > full.bytes() && got >= lite.bytes() && need > got, "{need} {got}");
        }
        other => panic!("{other:?}"),
    }
    let batch = full.batch(1 << 15).unwrap();
    let got = Cuda::new(&model, &batch).map(|_| ());
    assert!(matches!(got, Err(varmint_cuda::Error::Memory { .. })), "{got:?}");
}

/// Runs everywhere: there is a reason, and it is a sentence.
#[test]
fn without_a_gpu_there_is_a_reason() {
    match probe() {
        Ok(facts) => assert!(facts.memory > 0 && facts.capability >= (7, 2), "{facts:?}"),
        Err(e) => assert!(e.to_string().contains(' '), "{e}"),
    }
}
