//! What stays in the caches: everything is the plain run bit for bit; a choice keeps real rows, in order, the
//! protected ones among them; nothing makes a scale see itself only.

mod common;

use common::{Ram, image, request, tiny};
use varmint::device::kv;
use varmint::file::{CRC_AT, HEADER_BYTES, SECTION_BYTES, checksum};
use varmint::tier::KEEP_ALL;
use varmint::{
    Buf, Cpu, Generator, Host, Keep, Model, ModelFile, Plan, Scalar, Stage, Store, Tier, Tile,
};

/// The small model with so many wide heads per block.
fn with_wide_heads(wide: [u8; 3]) -> ModelFile {
    let mut bytes = tiny().bytes().to_vec();
    let entry = HEADER_BYTES + SECTION_BYTES + 8;
    let trunk = u64::from_le_bytes(bytes[entry..entry + 8].try_into().unwrap()) as usize;
    bytes[trunk + 32..trunk + 35].copy_from_slice(&wide);
    let file = ModelFile::from_bytes(&bytes);
    let crc = checksum(file.bytes());
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    ModelFile::from_bytes(&bytes)
}

/// Scales of 1, 4, 9 and 16 tokens.
const ALL: [u16; 4] = [1, 5, 14, 30];

fn most(tokens: [u16; 4]) -> [u16; 16] {
    let mut all = [KEEP_ALL; 16];
    all[..4].copy_from_slice(&tokens);
    all
}

/// A tier with changes.
fn but(mut tier: Tier, change: impl FnOnce(&mut Tier)) -> Tier {
    change(&mut tier);
    tier
}

fn tier(model: &Model<'_>, others: [u16; 4], wide: [u16; 4], cache: Store) -> Tier {
    let keep = Keep { most: [most(others), most(wide)], grid: 2, pool: 3, protect: 2, ..Keep::ALL };
    but(model.tier_at(0).unwrap(), |t| (t.keep, t.cache, t.tile) = (keep, cache, 4))
}

fn plan(model: &Model<'_>, tier: &Tier) -> Plan {
    let plan = Plan::new(&model.shape, tier).unwrap();
    plan.verify().unwrap();
    plan
}

#[test]
fn keeping_everything_is_the_plain_run() {
    for wide in [[0; 3], [1, 0, 2]] {
        let file = with_wide_heads(wide);
        let model = file.model().unwrap();
        for cache in [Store::I8, Store::F16, Store::F32] {
            let plain = but(model.tier_at(0).unwrap(), |t| t.cache = cache);
            let want = image(&model, &plan(&model, &plain), Cpu::detect(), request(&model, 7));
            // The second one takes the way of two classes of heads.
            for wide in [ALL, [KEEP_ALL; 4]] {
                let same = plan(&model, &tier(&model, ALL, wide, cache));
                assert_eq!(image(&model, &same, Cpu::detect(), request(&model, 7)), want);
                assert_eq!(image(&model, &same, Scalar, request(&model, 7)), want);
            }
        }
    }
}

#[test]
fn a_choice_needs_less_and_does_not_depend_on_the_way() {
    let file = with_wide_heads([1, 0, 2]);
    let model = file.model().unwrap();
    for cache in [Store::I8, Store::F16, Store::F32] {
        let few = tier(&model, [1, 3, 6, KEEP_ALL], [1, 5, 10, KEEP_ALL], cache);
        let plain = but(few, |t| t.keep = Keep::ALL);
        let (few, plain) = (plan(&model, &few), plan(&model, &plain));
        let size = |p: &Plan| p.buffer(Buf::Kv(0, 3)).size + p.buffer(Buf::Kv(1, 3)).size;
        assert!(size(&few) * 5 < size(&plain) * 3, "{} of {}", size(&few), size(&plain));
        let one = image(&model, &few, Scalar, request(&model, 7));
        assert_ne!(one.tokens, image(&model, &plain, Scalar, request(&model, 7)).tokens);
        if cache == Store::I8 {
            assert_eq!(image(&model, &few, Cpu::detect(), request(&model, 7)), one);
            for tile in [1, 3, 64] {
                let other = plan(&model, &but(few.tier, |t| t.tile = tile));
                assert_eq!(image(&model, &other, Scalar, request(&model, 7)), one, "tile {tile}");
            }
        }
    }
}

/// The rows of one head: key and value bytes per token.
fn rows(cache: &[u8], cap: usize, tokens: usize, heads: usize, h: usize) -> Vec<Vec<u8>> {
    const DIM: usize = 32;
    let values = (cap * heads * DIM).next_multiple_of(16);
    let at = |base: usize, t: usize| &cache[base + (t * heads + h) * DIM..][..DIM];
    (0..tokens).map(|t| [at(0, t), at(values, t)].concat()).collect()
}

/// The cache of block 0, row 0 when it is done with scale 2.
fn cached(model: &Model<'_>, plan: &Plan) -> Vec<u8> {
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), plan).unwrap();
    let mut g = Generator::new(model, plan, host, request(model, 7)).unwrap();
    while !matches!(g.stage(), Stage::Keys(t) if t.scale == 2 && t.block == 1) {
        g.step().unwrap();
    }
    g.view(Buf::Kv(0, 3)).unwrap().to_vec()
}

/// Up to the first choice the caches are those of the plain run; after it they hold some of its rows.
#[test]
fn what_stays_are_rows_of_the_plain_cache() {
    // Of the tokens of the 3x3 map: for other heads those on the grid, (0, 0), (0, 1), (1, 0), (1, 1); for wide
    // ones all, and the first scale.
    for (wide, tokens, stay) in
        [([0; 3], 8, [5, 6, 8, 9].as_slice()), ([2, 0, 0], 12, &[0, 5, 6, 7, 8, 9, 10, 11, 12, 13])]
    {
        let file = with_wide_heads(wide);
        let model = file.model().unwrap();
        let most = [KEEP_ALL, KEEP_ALL, tokens as u16, KEEP_ALL];
        let few = but(tier(&model, most, most, Store::I8), |t| t.keep.protect = 1);
        let plain = but(few, |t| t.keep = Keep::ALL);
        let (all, kept) =
            (cached(&model, &plan(&model, &plain)), cached(&model, &plan(&model, &few)));
        for h in 0..2 {
            let all = rows(&all, 14, 14, 2, h);
            let places: Vec<usize> = rows(&kept, tokens, tokens, 2, h)
                .iter()
                .map(|row| all.iter().position(|other| other == row).expect("a plain row"))
                .collect();
            assert!(places.windows(2).all(|p| p[0] < p[1]), "{places:?}");
            assert!(stay.iter().all(|p| places.contains(p)), "{places:?}");
        }
    }
}

/// What a class of heads looks at has room of its own, also where the wide ones have more keys.
#[test]
fn classes_look_apart() {
    let file = with_wide_heads([1, 0, 2]);
    let model = file.model().unwrap();
    let few = tier(&model, [1, 3, 6, KEEP_ALL], [1, 5, 10, KEEP_ALL], Store::I8);
    let plan = plan(&model, &but(few, |t| t.together = true));
    let seen = plan.buffer(Buf::Seen);
    for (scale, block) in [(1, 0), (2, 0), (2, 1), (2, 2)] {
        let of = |row| kv(&model.shape, &plan, Tile { trunk: 0, scale, row, block, at: 0 }, 2);
        let mut free = seen.offset as usize;
        for class in of(0).into_iter().chain(of(1)).filter(|class| class.heads > 0) {
            assert!(class.seen >= free, "{class:?}");
            free = class.seen + 4 * class.heads * (class.before.tokens + class.own.tokens);
        }
        assert!(free <= (seen.offset + seen.size) as usize);
    }
}

#[test]
fn nothing_kept_is_a_scale_that_sees_itself() {
    let file = tiny();
    let model = file.model().unwrap();
    let own = |window| {
        let keep = Keep { most: [most([0; 4]); 2], window, window_from: 2, ..Keep::ALL };
        plan(&model, &but(model.tier_at(0).unwrap(), |t| t.keep = keep))
    };
    let run = |plan: &Plan| image(&model, plan, Scalar, request(&model, 7));
    let whole = run(&own(0));
    assert_eq!((0..4).map(|j| own(0).buffer(Buf::Kv(0, j)).size).sum::<u32>(), 0, "no cache");
    // A neighbourhood of the whole map is the whole map; of one token, it is not.
    assert_eq!(run(&own(5)), whole);
    let one = run(&own(1));
    assert_eq!(one.tokens[..5], whole.tokens[..5]);
    assert_ne!(one.tokens, whole.tokens);
    assert_eq!(image(&model, &own(3), Cpu::detect(), request(&model, 7)), run(&own(3)));
    // With the cache too.
    let keep = Keep { window: 3, window_from: 3, ..Keep::ALL };
    let near = plan(&model, &but(model.tier_at(0).unwrap(), |t| t.keep = keep));
    let full = run(&plan(&model, &model.tier_at(0).unwrap()));
    assert_eq!(run(&near).tokens[..14], full.tokens[..14]);
    assert_eq!(image(&model, &near, Cpu::detect(), request(&model, 7)), run(&near));
}

/// Scales that replace the latent: the same picture in every tile and on every kernel; at greedy scales it does not
/// depend on the seed, at others it does.
#[test]
fn replaced_latents() {
    let file = ModelFile::open("fixtures/small/replaced.vmt").unwrap();
    let model = file.model().unwrap();
    let c = &model.shape.config;
    let run = |tier: &Tier, seed, top_k| {
        let mut r = request(&model, seed);
        (r.labels[0], r.sampling.top_k) = (Some(0), top_k);
        let plan = plan(&model, tier);
        let one = image(&model, &plan, Scalar, r);
        assert!(image(&model, &plan, Cpu::detect(), r) == one, "{}", tier.name());
        one.tokens
    };
    for tier in model.tiers() {
        let part =
            |tokens: &[u16], k: usize| tokens[c.tokens_before(k)..c.tokens_before(k + 1)].to_vec();
        let greedy = run(&tier, 0, 1);
        let all: Vec<_> = (0..20).map(|seed| run(&tier, seed, 0)).collect();
        assert!(all.iter().any(|t| part(t, 0) != part(&greedy, 0)), "{}", tier.name());
        // What a greedy scale draws depends on the scales before it alone.
        for a in &all {
            for b in all.iter().filter(|b| part(b, 0) == part(a, 0)) {
                assert_eq!(part(a, 1), part(b, 1), "{}", tier.name());
            }
        }
        assert!(
            all.iter().any(|t| part(t, 0) == part(&greedy, 0) && part(t, 2) != part(&greedy, 2))
        );
        for other in [1, 5] {
            assert_eq!(run(&but(tier, |t| t.tile = other), 3, 0), all[3], "{}", tier.name());
        }
    }
}

/// What one scale alone needs (a choice, a neighbourhood) has a place in the arena at that scale alone.
#[test]
fn a_rule_for_one_scale_disturbs_no_other() {
    let file = ModelFile::open("fixtures/small/mixed.vmt").unwrap();
    let model = file.model().unwrap();
    let n = model.shape.config.n_scales();
    let mut r = request(&model, 3);
    r.labels[0] = Some(1);
    let mut ran = 0;
    for base in model.tiers() {
        for (k, most, class) in (0..n).flat_map(|k| [(k, 0, 0), (k, 0, 1), (k, 1, 0), (k, 1, 1)]) {
            for (window, together) in [(0, false), (3, false), (0, true), (1, true)] {
                let mut tier = base;
                tier.together = together;
                tier.keep = Keep { grid: 1, window, window_from: k, ..Keep::ALL };
                tier.keep.most[class][k] = most;
                let plan = Plan::new(&model.shape, &tier).unwrap();
                plan.verify().unwrap();
                let want = image(&model, &plan, Scalar, r);
                assert!(image(&model, &plan, Cpu::detect(), r) == want, "{tier:?}");
                tier.tile = 2;
                let plan = Plan::new(&model.shape, &tier).unwrap();
                assert!(image(&model, &plan, Scalar, r) == want, "{tier:?}");
                ran += 1;
            }
        }
    }
    assert_eq!(ran, 5 * 4 * n * 4);
}
