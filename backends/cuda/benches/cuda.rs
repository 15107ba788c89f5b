//! On a GPU: its int8 ceiling, products as a share of it, and whole images.
//!
//! cargo bench -p varmint-cuda --bench cuda -- products
//! cargo bench -p varmint-cuda --bench cuda -- image FILE [--tier T] [--blocks 16,16,8,..] [--batch N] [--lanes N] [--images N] [--kernels]
//!
//! A file in the shape of VAR-d16 is made by `varmint synth -o d16.vmt`, of d30 by `--depth 30`; `--blocks` says how
//! many blocks run at each scale, every other one left out (as VARiant's subnets), `--batch` how many images are made at
//! once, `--lanes` how many such runs go on side by side (without it, `--images` of them one by one), `--kernels` leaves the graphs out (for profilers). `benches/peer.py` times the same shapes in PyTorch.

use std::time::Instant;

use varmint::{Generator, ModelFile, Plan, Request, Stage, Step};
use varmint_cuda::Cuda;
use varmint_cuda::measure::Measure;

type Res<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Res<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Err(e) = varmint_cuda::probe() {
        println!("skipped: {e}");
        return Ok(());
    }
    match args.first().map(String::as_str) {
        Some("image") if args.len() > 1 => image(&args[1], &args[2..]),
        None | Some("products") => products(),
        _ => {
            Err("usage: products | image FILE [--tier T] [--blocks N,..] [--batch N] [--lanes N] [--images N]"
                .into())
        }
    }
}

fn products() -> Res<()> {
    let mut m = Measure::new()?;
    let ceiling = m.ceiling()?;
    println!("{}: int8 ceiling {:.0} TOPS", m.facts().name, 2e-12 * ceiling);
    println!("{:>6} {:>6} {:>6}  {:>10} {:>8} {:>8}", "M", "N", "K", "us", "TOPS", "share");
    let shapes = [
        (2, 3072, 1024),
        (2, 1024, 4096),
        (18, 4096, 1024),
        (50, 3072, 1024),
        (128, 1024, 1024),
        (200, 4096, 1024),
        (512, 1024, 1024),
        (512, 3072, 1024),
        (512, 4096, 1024),
        (512, 1024, 4096),
        (512, 4096, 4096),
        (512, 5760, 1920),
        (512, 7680, 1920),
        (512, 1920, 7680),
        (4096, 4096, 4096),
        (8192, 8192, 4096),
    ];
    for shape in shapes {
        for (wide, cold) in [(false, true), (true, true)] {
            let s = m.product(shape, wide, cold)?;
            let macs = (shape.0 * shape.1 * shape.2) as f64 / s;
            println!(
                "{:>6} {:>6} {:>6}  {:>10.2} {:>8.1} {:>7.1}% {}",
                shape.0,
                shape.1,
                shape.2,
                s * 1e6,
                2e-12 * macs,
                100.0 * macs / ceiling,
                if wide { "12-bit inputs" } else { "" }
            );
        }
    }
    Ok(())
}

fn value<'a>(rest: &'a [String], name: &str) -> Option<&'a str> {
    rest.iter().position(|a| a == name).and_then(|i| rest.get(i + 1)).map(String::as_str)
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Runs an image to its end; with `parts`, waits after every scale and says how long each took.
fn run(g: &mut Generator<'_, Cuda<'_>>, mut parts: Option<&mut Vec<f64>>) -> Res<u64> {
    let mut sum = 0u64;
    let mut last = Instant::now();
    loop {
        match g.step()? {
            Step::Rows(rows) => sum += rows.rgb.iter().map(|&v| u64::from(v)).sum::<u64>(),
            Step::Done => break,
            _ => {}
        }
        if let Some(parts) = &mut parts
            && matches!(
                g.stage(),
                Stage::Begin { .. }
                    | Stage::Setup { .. }
                    | Stage::Decode { layer: 0, .. }
                    | Stage::Done
            )
        {
            g.view(varmint::Buf::HeadAda)?;
            parts.push(1e3 * last.elapsed().as_secs_f64());
            last = Instant::now();
        }
    }
    Ok(sum)
}

fn image(path: &str, rest: &[String]) -> Res<()> {
    let file = ModelFile::open(path)?;
    let model = file.model()?;
    let mut tier = match value(rest, "--tier") {
        Some(name) => model.tier(name)?,
        None => model.tier_at(0)?,
    };
    if let Some(list) = value(rest, "--blocks") {
        let counts: Vec<usize> = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let depth = model.shape.trunk(0).depth as usize;
        tier = tier.with_blocks(&model.shape, |k| {
            let n = counts.get(k).or(counts.last()).copied().unwrap_or(depth).clamp(1, depth);
            // Spread over the depth, the first and the last among them; fewer ones are a part of more.
            let mut order: Vec<usize> = vec![0, depth - 1];
            let mut step = depth;
            while order.len() < depth {
                step = step.div_ceil(2);
                order.extend(
                    (0..depth)
                        .step_by(step.max(1))
                        .filter(|b| !order.contains(b))
                        .collect::<Vec<_>>(),
                );
            }
            order.iter().take(n).fold(0u64, |mask, &b| mask | 1 << b)
        })?;
    }
    if let Some(n) = value(rest, "--guided") {
        tier.guided = n.parse()?;
    }
    let batch: usize = value(rest, "--batch").map_or(Ok(1), str::parse)?;
    let lanes: usize = value(rest, "--lanes").map_or(Ok(1), str::parse)?;
    let images: usize = value(rest, "--images").map_or(Ok(20), str::parse)?;
    let plan = Plan::new(&model.shape, &varmint_cuda::tier(&model, &tier))?.batch(batch)?;
    let mut first = Cuda::new(&model, &plan)?;
    first.set_graphs(!rest.iter().any(|a| a == "--kernels"));
    let facts = first.facts().clone();
    let f = first.footprint();
    println!(
        "{} {}: {} GMAC an image; arena {} weights {} extra {} driver {}",
        facts.name,
        path,
        plan.image_macs() / 1_000_000_000,
        f.arena,
        f.weights,
        f.extra,
        f.driver
    );
    let mut request = Request::new(&model);
    request.labels[0] = Some(3);
    let with_seed = |seed| {
        let mut r = request;
        r.seed = seed;
        r
    };
    let requests: Vec<_> = (0..batch as u64).map(with_seed).collect();
    if lanes > 1 {
        let mut all = vec![first];
        for _ in 1..lanes {
            let next = all[0].beside(&model, &plan)?;
            all.push(next);
        }
        let barrier = std::sync::Barrier::new(lanes + 1);
        let seconds = std::thread::scope(|s| -> Res<f64> {
            let mut hands = Vec::new();
            for (i, cuda) in all.into_iter().enumerate() {
                let (model, plan, barrier) = (&model, &plan, &barrier);
                let first = (i * batch) as u64;
                let seeds = first..first + batch as u64;
                hands.push(s.spawn(move || -> Result<(), String> {
                    let work = || -> Res<()> {
                        let requests: Vec<_> = seeds.map(with_seed).collect();
                        let mut g = Generator::batch(model, plan, cuda, &requests)?;
                        g.set_previews(false);
                        for _ in 0..2 {
                            g.reset_batch(&requests)?;
                            run(&mut g, None)?;
                        }
                        barrier.wait();
                        for _ in 0..images {
                            g.reset_batch(&requests)?;
                            run(&mut g, None)?;
                        }
                        Ok(())
                    };
                    work().map_err(|e| e.to_string())
                }));
            }
            barrier.wait();
            let start = Instant::now();
            for h in hands {
                h.join().map_err(|_| "a lane panicked")??;
            }
            Ok(start.elapsed().as_secs_f64())
        })?;
        let rate = (lanes * images * batch) as f64 / seconds;
        println!("{lanes} lanes of {batch}: {rate:.1} images/s");
        return Ok(());
    }
    let mut g = Generator::batch(&model, &plan, first, &requests)?;
    g.set_previews(false);
    let start = Instant::now();
    let want = run(&mut g, None)?;
    println!("first image (makes the graphs): {:.1} ms", 1e3 * start.elapsed().as_secs_f64());
    let mut times = Vec::new();
    for _ in 0..images {
        g.reset_batch(&requests)?;
        let start = Instant::now();
        let got = run(&mut g, None)?;
        times.push(1e3 * start.elapsed().as_secs_f64());
        if got != want {
            return Err("two runs of the same requests differ".into());
        }
    }
    let ms = median(times);
    let rate = 1e3 * batch as f64 / ms;
    println!("{batch} at once: {ms:.3} ms (median of {images}), {rate:.1} images/s");
    let mut all: Vec<Vec<f64>> = Vec::new();
    for _ in 0..images {
        g.reset_batch(&requests)?;
        let mut parts = Vec::new();
        run(&mut g, Some(&mut parts))?;
        all.push(parts);
    }
    let parts: Vec<String> = (0..all[0].len())
        .map(|i| format!("{:.3}", median(all.iter().map(|p| p[i]).collect())))
        .collect();
    println!("parts, each waited for (condition, scales, decoder): {} ms", parts.join(" "));
    Ok(())
}
