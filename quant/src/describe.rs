//! From official weights and options to what a file says besides its tensors; what the format has no
//! place for is refused here.

use std::path::Path;

use varmint_core::config::GROUPS;
use varmint_core::{Aln, Sampling, Scale, Trunk};

use crate::description::{DecoderSizes, Description, Table, TierRow};
use crate::error::Error;
use crate::meta::{Defaults, Meta};
use crate::official::{DecoderConfig, Layout, Official, StateDict, VarConfig};
use crate::options::Options;
use crate::schedule::schedule;
use crate::tiers::all_blocks;

/// The licence of a model whose source names none.
const UNKNOWN_LICENCE: &str = "unknown: see the checkpoint's source";

/// The name of the VQVAE's image decoder.
const FULL: &str = "full";

/// Everything that the file will say besides its tensors.
pub(crate) fn describe(
    official: &Official<'_>,
    options: &Options,
    meta: &Meta,
    rows: &[usize],
    out: &Path,
) -> Result<Description, Error> {
    let (var, vae) = (&official.var_config, &official.vae_config);
    let sizes = var.scales.as_ref().ok_or_else(|| {
        Error::Option(format!(
            "the weights do not say how {} tokens are {} scales: give --scales (example: --scales 1,2,3,4)",
            var.tokens, var.num_scales
        ))
    })?;
    let scale = |&(h, w): &(usize, usize)| Ok((small("scale", h)?, small("scale", w)?));
    let sizes = sizes.iter().map(scale).collect::<Result<Vec<(u16, u16)>, Error>>()?;
    // Without phi, one that changes nothing stands for it.
    let n_phi = if var.layout == Layout::FlexVar { 0 } else { vae.num_phi.max(1) };
    let stem = || out.file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
    let sampling = options.sampling.or(meta.defaults).or(var.layout.sampling(var.depth, &sizes));
    if let Some(preview) = &meta.preview {
        preview.check(var.cvae)?;
    }
    let guided = options.guided.unwrap_or(sizes.len());
    if guided > sizes.len() {
        let m = format!("--guided {guided}: the model has {} scales", sizes.len());
        return Err(Error::Option(m));
    }
    let mut trunks = official.trunks().map(|(_, var)| trunk(var)).collect::<Result<Vec<_>, _>>()?;
    if options.bake {
        bake(&mut trunks, var)?;
    }
    let mut scales = schedule(&sizes, n_phi);
    var.layout.draw(&mut scales);
    if let Some(found) = &options.calibration {
        found.check(&trunks, &scales)?;
        let counts = &mut trunks[found.trunk].wide_heads;
        for (count, block) in counts.iter_mut().zip(&found.blocks) {
            *count = small("wide heads", block.wide.len())?;
        }
    }
    let decoders: Vec<_> = official.decoders().map(decoder).collect::<Result<_, _>>()?;
    Ok(Description {
        sequence: options.sequence,
        name: options.name.clone().or_else(|| meta.name.clone()).unwrap_or_else(stem),
        licence: (options.licence.clone())
            .or_else(|| meta.licence.clone())
            .unwrap_or_else(|| UNKNOWN_LICENCE.to_owned()),
        vocab: var.vocab as u32,
        cvae: var.cvae as u32,
        n_phi: n_phi as u32,
        sampling: sampling_of(sampling)?,
        tables: tables(var, rows, meta)?,
        tiers: tiers(options, var.layout, (&trunks, &decoders), &scales, guided)?,
        scales,
        trunks,
        decoders,
    })
}

fn small<T: TryFrom<usize>>(what: &str, n: usize) -> Result<T, Error> {
    T::try_from(n).map_err(|_| Error::Option(format!("{what} {n} is too large for the format")))
}

/// The defaults of a model that says nothing: those of the official figures.
fn sampling_of(d: Defaults) -> Result<Sampling, Error> {
    let s = Sampling {
        guidance: d.guidance.unwrap_or(1.5),
        top_k: d.top_k.unwrap_or(900),
        top_p: d.top_p.unwrap_or(0.96),
        temperature: d.temperature.unwrap_or(1.0),
    };
    if s.is_valid() {
        return Ok(s);
    }
    Err(Error::Option(format!(
        "sampling: guidance {} must be finite, temperature {} above 0, top-p {} between 0 and 1",
        s.guidance, s.temperature, s.top_p
    )))
}

/// `class_emb.weight` is the table `class`.
fn table_name(key: &str) -> &str {
    key.split('_').next().unwrap_or(key)
}

/// The names of a table's rows, if they have any.
pub(crate) fn labels<'m>(key: &str, meta: &'m Meta) -> &'m [String] {
    meta.labels.get(table_name(key)).map_or(&[], Vec::as_slice)
}

/// The condition tables; of the first one some rows.
fn tables(var: &VarConfig, chosen: &[usize], meta: &Meta) -> Result<Vec<Table>, Error> {
    let table = |(t, &(key, rows)): (usize, &(&'static str, usize))| {
        let (name, mut labels) = (table_name(key).to_owned(), labels(key, meta).to_vec());
        if !labels.is_empty() && labels.len() + 1 != rows {
            return Err(Error::mismatch(
                format!("labels of table {name:?}"),
                rows - 1,
                labels.len(),
            ));
        }
        if t > 0 {
            return Ok(Table { name, rows, labels });
        }
        if !labels.is_empty() {
            let named = chosen.iter().filter(|&&row| row + 1 < rows);
            labels = named.map(|&row| labels[row].clone()).collect();
        }
        Ok(Table { name, rows: chosen.len(), labels })
    };
    var.tables.iter().enumerate().map(table).collect()
}

/// Puts a row per class in the place of every block's own projection.
fn bake(trunks: &mut [Trunk], var: &VarConfig) -> Result<(), Error> {
    if var.tables.len() != 1 {
        let m = "--bake: a picture's condition is the sum of rows of several tables here, which cannot be multiplied out \
                 row by row";
        return Err(Error::Option(m.to_owned()));
    }
    if trunks.iter().all(|t| t.aln == Aln::Shared) {
        let m = "--bake: all blocks share one projection of the condition here; there is nothing to gain";
        return Err(Error::Option(m.to_owned()));
    }
    trunks.iter_mut().filter(|t| t.aln == Aln::Own).for_each(|t| t.aln = Aln::Baked);
    Ok(())
}

fn trunk(var: &VarConfig) -> Result<Trunk, Error> {
    if var.heads == 0 || !var.width.is_multiple_of(var.heads) {
        let m = format!("{} heads do not divide the width {}", var.heads, var.width);
        return Err(Error::Option(m));
    }
    Ok(Trunk {
        depth: var.depth as u32,
        width: var.width as u32,
        heads: var.heads as u32,
        hidden: var.mlp_hidden as u32,
        aln: if var.shared_aln { Aln::Shared } else { Aln::Own },
        l2_norm: var.attn_l2_norm,
        act: 4,
        wide_heads: [0; varmint_core::config::MAX_DEPTH],
    })
}

/// A decoder, if it is one that the format can describe.
fn decoder((weights, d): (&StateDict<'_>, &DecoderConfig)) -> Result<DecoderSizes, Error> {
    let refuse = |what: &str, expected: String, found: String| {
        Err(Error::mismatch(format!("{}: {what}", weights.place()), expected, found))
    };
    let blocks = d.blocks.first().copied().unwrap_or(0);
    let top = d.widths.last().copied().unwrap_or(0);
    if d.blocks.iter().any(|b| *b != blocks) {
        let found = format!("{:?}", d.blocks);
        return refuse("residual blocks per level", "the same number on every level".into(), found);
    }
    if !d.mid_attention {
        return refuse("decoder.mid.attn_1", "attention in the middle".into(), "none".into());
    }
    if d.mid_width != top {
        return refuse("width of decoder.conv_in", top.to_string(), d.mid_width.to_string());
    }
    if d.out_channels != 3 {
        return refuse("channels of decoder.conv_out", "3".into(), d.out_channels.to_string());
    }
    let uneven = |w: &usize| !w.is_multiple_of(if *w < GROUPS { 8 } else { GROUPS });
    if let Some(i) = d.widths.iter().position(uneven) {
        let expected =
            format!("8, 16, 24 or a multiple of {GROUPS}: its norms have {GROUPS} groups at most");
        let found = d.widths[i].to_string();
        return refuse(&format!("channels of decoder.up.{i}"), expected, found);
    }
    let width = |w: &usize| small("decoder width", *w);
    let bit = |(i, on): (usize, &bool)| if *on { 1u32 << i } else { 0 };
    Ok(DecoderSizes {
        widths: d.widths.iter().map(width).collect::<Result<_, _>>()?,
        blocks: blocks as u32,
        attention: d.attention.iter().enumerate().map(bit).sum(),
        inner: if d.inner == d.cvae { 0 } else { small("channels of decoder.conv_in", d.inner)? },
        act: 4,
    })
}

/// Bytes of the largest feature map of all decoders, in half floats.
fn largest_map(decoders: &[DecoderSizes], scales: &[Scale]) -> usize {
    let tokens = scales.last().map_or(0, |s| s.tokens());
    let map = |d: &DecoderSizes| {
        let maps = d.widths.iter().rev().enumerate();
        maps.map(|(up, &c)| {
            let pixels = tokens.saturating_mul(4usize.saturating_pow(up as u32));
            pixels.saturating_mul(2 * usize::from(c))
        })
        .max()
    };
    decoders.iter().filter_map(map).max().unwrap_or(0)
}

/// The tiers of a fresh file: every block at every scale, then those that were asked for.
fn tiers(
    options: &Options,
    layout: Layout,
    (trunks, decoders): (&[Trunk], &[DecoderSizes]),
    scales: &[Scale],
    guided: usize,
) -> Result<Vec<TierRow>, Error> {
    let (cache, maps) = options.numbers.stores();
    let depth = trunks.first().map_or(0, |t| t.depth);
    let mut all = vec![TierRow {
        name: options.first_tier.clone().unwrap_or_else(|| options.numbers.name().to_owned()),
        scales: vec![(0, all_blocks(depth)); scales.len()],
        cache,
        maps,
        guided: guided as u8,
        decoder: 0,
        tile: options.tile.unwrap_or(if trunks.iter().any(|t| t.width >= 512) { 128 } else { 16 }),
        strip: options.strip,
        conv_scratch: options.conv_scratch.unwrap_or(if largest_map(decoders, scales) < 4 << 20 {
            0
        } else {
            1 << 20
        }),
        together: false,
        keep: layout.keep(scales.len()),
    }];
    let mut names = vec![FULL.to_owned()];
    names.extend(options.decoders.iter().map(|d| d.name.clone()));
    let twice = |what: &str, name: &str| {
        Error::Option(format!(
            "{what} `{name}`: there is one of that name already; give it another"
        ))
    };
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return Err(twice("image decoder", name));
        }
    }
    let tokens: Vec<usize> = scales.iter().map(|s| s.tokens()).collect();
    let budgets = options.calibration.as_ref().map(|c| &c.budgets);
    for tier in &options.tiers {
        if all.iter().any(|t| t.name == tier.name) {
            return Err(twice("tier", &tier.name));
        }
        let row = tier.row(&all[0], trunks, &names, &tokens, budgets)?;
        let keep = tier.keep.amounts.as_ref();
        if keep.is_some() && layout.own_scale() {
            return Err(Error::Option(format!(
                "tier `{}`: keep=: in the layout {} a scale sees itself only, and nothing of it can stay",
                tier.name, layout
            )));
        }
        all.push(row);
    }
    Ok(all)
}
