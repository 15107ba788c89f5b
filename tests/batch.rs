//! Several images at once: each is the one that its request alone gives, byte by byte.

mod common;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use common::{Ram, image, request, tiny};
use varmint::{
    Budget, Buf, Engine, Error, Event, Generator, Host, Image, Model, Plan, PngRows, Request,
    Scalar, Step,
};

/// Three requests that have little in common.
fn three<'r>(model: &Model<'_>) -> [Request<'r>; 3] {
    let (a, mut b, mut c) = (request(model, 7), request(model, 8), Request::new(model));
    b.labels[0] = None;
    b.sampling.guidance = 0.5;
    (c.labels[0], c.seed) = (Some(5), 9);
    [a, b, c]
}

fn run(g: &mut Generator<'_, Host<'_, Scalar>>, n: usize) -> Vec<Image> {
    let (height, width) = g.size();
    let mut images = vec![Image { width, height, rgb: vec![], tokens: vec![] }; n];
    let (mut scales, mut done) = (0, 0);
    loop {
        let (progress, image) = match g.step().unwrap() {
            Step::Working(progress) => (progress, None),
            Step::Scale(s) => {
                assert_eq!(s.image, scales % n, "image by image");
                scales += 1;
                (s.progress, Some(s.image))
            }
            Step::Rows(rows) => {
                let rgb = &mut images[rows.image].rgb;
                assert_eq!(rgb.len(), rows.y * rows.width * 3, "rows come in order");
                rgb.extend_from_slice(rows.rgb);
                (rows.progress, None)
            }
            Step::Done => break,
        };
        assert!(progress.done >= done && progress.done <= progress.total);
        done = progress.done;
        if let Some(image) = image {
            images[image].tokens = g.tokens_of(image).unwrap().to_vec();
        }
    }
    assert_eq!(done, g.plan().image_macs() * n as u64);
    images
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let file = tiny();
    let model = file.model().unwrap();
    let all = three(&model);
    for tier in model.tiers() {
        let one = Plan::new(&model.shape, &tier).unwrap();
        let want = all.map(|r| image(&model, &one, Scalar, r));
        let plan = one.batch(3).unwrap();
        assert_eq!((plan.images(), plan.bytes()), (3, 3 * one.bytes()));
        assert_eq!(plan.total_macs(), 3 * one.total_macs());
        assert_eq!(plan.max_step_macs(), 3 * one.max_step_macs());
        plan.verify().unwrap();
        let mut ram = Ram::new(plan.bytes(), 0xA5);
        let host = Host::new(Scalar, ram.get(), &plan).unwrap();
        let mut g = Generator::batch(&model, &plan, host, &all).unwrap();
        assert_eq!(run(&mut g, 3), want, "{}", tier.name());
        // One that was given up, one that is not full, one image.
        g.reset_batch(&all).unwrap();
        for _ in 0..50 {
            g.step().unwrap();
        }
        g.reset_batch(&all[1..]).unwrap();
        assert_eq!(run(&mut g, 2), want[1..], "{}", tier.name());
        g.reset(all[0]).unwrap();
        assert_eq!(run(&mut g, 1), want[..1], "{}", tier.name());
    }
}

#[test]
fn a_batch_can_go_on_in_a_lower_tier() {
    let file = tiny();
    let model = file.model().unwrap();
    let all = three(&model);
    let full = model.tier_at(0).unwrap();
    let lower = full.with_blocks(&model.shape, |_| 0b101).unwrap();
    let mut one = Engine::new(&model, &full).unwrap();
    let many = Plan::new(&model.shape, &full).unwrap().batch(3).unwrap();
    let low = one.plan().lowered(&model.shape, &lower, 2).unwrap();
    let want =
        all.map(|r| one.generate_lowering(r, |_, k| (k == 2).then_some(low), |_| {}).unwrap());
    let plan = many.lowered(&model.shape, &lower, 2).unwrap();
    assert_eq!((plan.images(), plan.bytes()), (3, many.bytes()));
    let plans = [many, plan];
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &plans[0]).unwrap();
    let mut g = Generator::batch(&model, &plans[0], host, &all).unwrap();
    while g.boundary() != Some(2) {
        // The plan of one image does not follow that of three.
        assert_eq!(g.lower(&low), Err(Error::NotLower));
        g.step().unwrap();
    }
    g.lower(&plans[1]).unwrap();
    let mut rgb = [const { Vec::new() }; 3];
    loop {
        match g.step().unwrap() {
            Step::Rows(rows) => rgb[rows.image].extend_from_slice(rows.rgb),
            Step::Done => break,
            _ => {}
        }
    }
    assert!(rgb.iter().zip(&want).all(|(a, b)| *a == b.rgb));
}

#[test]
fn an_engine_makes_batches() {
    let file = tiny();
    let model = file.model().unwrap();
    let all = three(&model);
    let tier = model.tier_at(0).unwrap();
    let mut one = Engine::new(&model, &tier).unwrap();
    let want = all.map(|r| one.generate(r).unwrap());
    let mut many = Engine::batch(&model, &tier, 3).unwrap();
    let mut rows = [0; 3];
    let got = many.generate_batch(&all, |e| {
        if let Event::Rows(r) = e {
            rows[r.image] += r.rgb.len() / (3 * r.width);
        }
    });
    assert_eq!(got.unwrap(), want);
    assert_eq!(rows, [want[0].height; 3]);
    assert_eq!(many.generate(all[1]).unwrap(), want[1]);
    // Another tier is for as many images.
    many.set_tier(&tier).unwrap();
    assert_eq!(many.plan().images(), 3);
    let got = many.generate_batch(&[all[0]; 4], |_| {});
    assert_eq!(got, Err(Error::BadBatch { need: 3, got: 4 }));
}

#[test]
fn what_no_batch_can_be_is_refused() {
    let file = tiny();
    let model = file.model().unwrap();
    let one = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    for got in [0, 65_536] {
        assert_eq!(one.batch(got), Err(Error::BadBatch { need: 65_535, got }));
    }
    let plan = one.batch(2).unwrap();
    let need = plan.bytes();
    let tight = Budget::ram(need - 1).check(&plan);
    assert_eq!(tight, Err(Error::ArenaTooSmall { need, got: need - 1 }));
    let mut ram = Ram::new(need, 0);
    let got = Host::new(Scalar, &mut ram.get()[..need - 16], &plan).map(|_| ());
    assert_eq!(got, Err(Error::ArenaTooSmall { need, got: need - 16 }));
    let [a, b, _] = three(&model);
    let bad = Request { labels: [Some(9999); 4], ..b };
    for (requests, want) in [
        (&[][..], Error::BadBatch { need: 2, got: 0 }),
        (&[a, a, b], Error::BadBatch { need: 2, got: 3 }),
    ] {
        let host = Host::new(Scalar, ram.get(), &plan).unwrap();
        let got = Generator::batch(&model, &plan, host, requests).map(|_| ());
        assert_eq!(got, Err(want));
    }
    let host = Host::new(Scalar, ram.get(), &plan).unwrap();
    let second = [a, bad];
    let got = Generator::batch(&model, &plan, host, &second).map(|_| ());
    assert!(matches!(got, Err(Error::UnknownLabel { row: 9999, .. })), "the second one too");
    let host = Host::new(Scalar, ram.get(), &plan).unwrap();
    let mut g = Generator::new(&model, &plan, host, a).unwrap();
    assert_eq!(g.reset_batch(&second), got.map(|_| ()));
    // Images that are not there have nothing to look at.
    assert!(g.tokens_of(1).is_ok());
    assert_eq!(g.tokens_of(2).map(|_| ()), Err(Error::PlanMismatch));
    assert_eq!(g.tokens_of(usize::MAX).map(|_| ()), Err(Error::PlanMismatch));
    assert!(g.view(Buf::FHat).is_ok());
}

/// A file in memory that the test can read, too.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pixels of a PNG.
fn pixels(file: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
    let mut all = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut all).unwrap();
    all
}

#[test]
fn rows_become_files_as_they_come() {
    let file = tiny();
    let model = file.model().unwrap();
    let all = three(&model);
    let mut tier = model.tier_at(0).unwrap();
    tier.strip = 3; // no divisor of the height: the last rows are fewer
    let mut engine = Engine::batch(&model, &tier, 3).unwrap();
    let files = [(); 3].map(|()| Shared::default());
    let size = engine.size();
    let mut streams = files.clone().map(|f| PngRows::new(f, size).unwrap());
    let mut other = PngRows::new(Vec::new(), size).unwrap();
    let images = engine.generate_batch(&all, |event| {
        if let Event::Rows(rows) = event {
            streams[rows.image].push(rows).unwrap();
            let again = streams[rows.image].push(rows).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::InvalidInput, "{again}");
            if rows.y == 0 && rows.image == 0 {
                other.push(rows).unwrap();
            }
        }
    });
    let images = images.unwrap();
    streams.into_iter().for_each(|s| s.finish().unwrap());
    for (file, image) in files.iter().zip(images) {
        assert_eq!(pixels(&file.0.borrow()), image.rgb);
    }
    let error = other.finish().unwrap_err();
    assert_eq!(error.to_string(), format!("3 of {} rows were written", size.0));
    assert!(PngRows::new(Vec::new(), (0, 4)).is_err());
}
