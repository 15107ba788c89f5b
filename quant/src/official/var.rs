//! The transformer: configuration and keys.
//!
//! ```text
//! pos_start [1, first, C]   pos_1LC [1, L, C]   word_embed [C, Cvae]   class_emb [classes + 1, C]   lvl_embed [S, C]
//! blocks.{0..D}: attn.{scale_mul_1H11, q_bias, v_bias, mat_qkv, proj}  ffn.{fc1, fc2}  ada_lin.1 | ada_gss
//! head_nm.ada_lin.1 [2C, C]   head [V, C]
//! ```
//!
//! One key is not official: `style_emb.weight` `[styles + 1, C]`, a second condition table; the rows of both tables are added.
//! Relatives differ in the following; what they are called in files is in `naming`.
//!
//! ```text
//! FlexVAR   pos_1LC [1, C, 32, 32], a map of which every scale has the area means; no lvl_embed; any schedule
//! ```
//!
//! Buffers that follow from the rest (`attn_bias_for_masking`, `zero_k_bias`) are ignored.

use super::naming::Naming;
use super::{Layout, OfficialError, StateDict};

/// The key by which a transformer is found.
pub(super) const ANCHOR: &str = "word_embed.weight";

/// Where every key is either used or named as not needed.
const MODULES: [&str; 6] =
    ["word_embed.", "class_emb.", "style_emb.", "shared_ada_lin.", "blocks.", "head"];

/// Scale sides of the released 256-pixel models.
const SCALES_256: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16];
/// Scale sides of the released 512-pixel model.
const SCALES_512: [usize; 10] = [1, 2, 3, 4, 6, 9, 13, 18, 24, 32];

/// What the shapes of a transformer's weights say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VarConfig {
    /// What kind it is, as far as the keys say.
    pub layout: Layout,
    /// Height and width of the map of positions, of which every scale has the area means; else positions are per token.
    pub positions: Option<(usize, usize)>,
    /// Blocks, D.
    pub depth: usize,
    /// Channels, C.
    pub width: usize,
    /// Attention heads, H.
    pub heads: usize,
    /// C / H.
    pub head_dim: usize,
    /// Channels inside the feed-forward network.
    pub mlp_hidden: usize,
    /// Codebook entries, V.
    pub vocab: usize,
    /// Channels of a codebook entry.
    pub cvae: usize,
    /// Scales, S.
    pub num_scales: usize,
    /// Tokens of all scales, L.
    pub tokens: usize,
    /// Tokens of the first scale.
    pub first: usize,
    /// Condition tables: key and rows. The last row of each means "not given".
    pub tables: Vec<(&'static str, usize)>,
    /// One AdaLN matrix for all blocks (`shared_ada_lin.1`, `ada_gss`) instead of one per block (`ada_lin.1`).
    pub shared_aln: bool,
    /// Queries and keys are normalised and scaled by `scale_mul_1H11`.
    pub attn_l2_norm: bool,
    /// Height and width of every scale, if known: from the caller, else `lvl_1L`, else a released schedule.
    pub scales: Option<Vec<(usize, usize)>>,
}

impl VarConfig {
    /// Infers the configuration, then checks every needed key against it.
    pub fn infer(
        dict: &StateDict<'_>,
        scales: Option<&[(usize, usize)]>,
        heads: Option<usize>,
    ) -> Result<Self, OfficialError> {
        let [width, cvae] = dict.dims(ANCHOR, "[C, Cvae]")?;
        let [_, first, _] = dict.dims("pos_start", "[1, tokens of the first scale, C]")?;
        let positions = match dict.shape("pos_1LC") {
            Some([_, _, h, w]) if h * w > 0 => Some((*h, *w)),
            _ => None,
        };
        let released = SCALES_256.map(|side| (side, side));
        let (num_scales, tokens) = if positions.is_some() {
            // Any schedule will do.
            let scales = scales.unwrap_or(&released);
            let areas = scales.iter().map(|&(h, w)| h.saturating_mul(w));
            (scales.len(), areas.fold(0, usize::saturating_add))
        } else {
            let [_, tokens, _] = dict.dims("pos_1LC", "[1, tokens, C]")?;
            let [num_scales, _] = dict.dims("lvl_embed.weight", "[scales, C]")?;
            (num_scales, tokens)
        };
        let layout = match dict.naming {
            _ if positions.is_some() => Layout::FlexVar,
            Naming::Hmar(_) => Layout::Hmar,
            _ => Layout::Var,
        };
        let [vocab, _] = dict.dims("head.weight", "[V, C]")?;
        let [mlp_hidden, _] = dict.dims("blocks.0.ffn.fc1.weight", "[4C, C]")?;
        let attn_l2_norm = dict.contains("blocks.0.attn.scale_mul_1H11");
        let heads = if attn_l2_norm {
            let [_, heads, _, _] = dict.dims("blocks.0.attn.scale_mul_1H11", "[1, H, 1, 1]")?;
            heads
        } else {
            // Not stored; 64 channels per head in every released model.
            heads.unwrap_or(width / 64)
        };
        if heads == 0 || width % heads != 0 {
            let unsaid =
                if attn_l2_norm { "" } else { "; the weights do not say it: give the heads" };
            return Err(dict.config(format!(
                "width {width} is not a multiple of the number of heads, {heads}{unsaid}"
            )));
        }
        let mut tables = Vec::new();
        for key in ["class_emb.weight", "style_emb.weight"] {
            if tables.is_empty() || dict.contains(key) {
                let [rows, _] = dict.dims(key, "[labels + 1, C]")?;
                tables.push((key, rows));
            }
        }
        let mut config = Self {
            layout,
            positions,
            depth: dict.count("blocks."),
            width,
            heads,
            head_dim: width / heads,
            mlp_hidden,
            vocab,
            cvae,
            num_scales,
            tokens,
            first,
            tables,
            shared_aln: dict.contains("shared_ada_lin.1.weight"),
            attn_l2_norm,
            scales: None,
        };
        dict.check_all(&config.keys(), &MODULES, &["attn.zero_k_bias"])?;
        config.scales = config.schedule(dict, scales)?;
        Ok(config)
    }

    /// Every key that generation needs, with its shape.
    pub fn keys(&self) -> Vec<(String, Vec<usize>)> {
        let (c, hidden) = (self.width, self.mlp_hidden);
        let mut keys: Vec<(String, Vec<usize>)> =
            vec![("pos_start".into(), vec![1, self.first, c])];
        if let Some((h, w)) = self.positions {
            keys.push(("pos_1LC".into(), vec![1, c, h, w]));
        } else {
            keys.push(("pos_1LC".into(), vec![1, self.tokens, c]));
            keys.push(("lvl_embed.weight".into(), vec![self.num_scales, c]));
        }
        let mut linear = |name: String, rows: usize, columns: usize| {
            keys.push((format!("{name}.weight"), vec![rows, columns]));
            keys.push((format!("{name}.bias"), vec![rows]));
        };
        linear("word_embed".into(), c, self.cvae);
        if self.shared_aln {
            linear("shared_ada_lin.1".into(), 6 * c, c);
        }
        for i in 0..self.depth {
            linear(format!("blocks.{i}.attn.proj"), c, c);
            linear(format!("blocks.{i}.ffn.fc1"), hidden, c);
            linear(format!("blocks.{i}.ffn.fc2"), c, hidden);
            if !self.shared_aln {
                linear(format!("blocks.{i}.ada_lin.1"), 6 * c, c);
            }
        }
        linear("head_nm.ada_lin.1".into(), 2 * c, c);
        linear("head".into(), self.vocab, c);
        keys.extend(self.tables.iter().map(|&(key, rows)| (key.to_owned(), vec![rows, c])));
        for i in 0..self.depth {
            keys.push((format!("blocks.{i}.attn.mat_qkv.weight"), vec![3 * c, c]));
            keys.push((format!("blocks.{i}.attn.q_bias"), vec![c]));
            keys.push((format!("blocks.{i}.attn.v_bias"), vec![c]));
            if self.attn_l2_norm {
                keys.push((format!("blocks.{i}.attn.scale_mul_1H11"), vec![1, self.heads, 1, 1]));
            }
            if self.shared_aln {
                keys.push((format!("blocks.{i}.ada_gss"), vec![1, 1, 6, c]));
            }
        }
        keys
    }

    /// The scale schedule, and that it fits the number of scales and tokens.
    fn schedule(
        &self,
        dict: &StateDict<'_>,
        given: Option<&[(usize, usize)]>,
    ) -> Result<Option<Vec<(usize, usize)>>, OfficialError> {
        let lengths = match self.positions {
            // What the weights were last run with says nothing.
            Some(_) => None,
            None => self.run_lengths(dict)?,
        };
        let scales = match (given, &lengths) {
            (Some(given), _) => given.to_vec(),
            (None, Some(lengths)) => {
                let square = |&n: &usize| {
                    let side = n.isqrt();
                    let help = || {
                        dict.config(format!(
                            "a scale of {n} tokens is not square; say the scales, as in 2x3"
                        ))
                    };
                    (side * side == n).then_some((side, side)).ok_or_else(help)
                };
                lengths.iter().map(square).collect::<Result<_, _>>()?
            }
            // Those of the 256-pixel models are also what a map of positions gets if nothing is said.
            (None, None) => match (self.num_scales, self.tokens) {
                (10, 680) => SCALES_256.map(|side| (side, side)).to_vec(),
                (10, 2240) => SCALES_512.map(|side| (side, side)).to_vec(),
                _ => return Ok(None),
            },
        };
        let areas = scales.iter().map(|&(h, w)| h.checked_mul(w));
        let areas: Option<Vec<usize>> = areas.collect();
        let sum = areas.iter().flatten().try_fold(0usize, |sum, &n| sum.checked_add(n));
        let fits = areas.as_ref().is_some_and(|areas| {
            areas.len() == self.num_scales
                && sum == Some(self.tokens)
                && areas.first() == Some(&self.first)
                && !areas.contains(&0)
                && lengths.as_ref().is_none_or(|lengths| lengths == areas)
        });
        if !fits {
            let stored =
                lengths.map_or(String::new(), |lengths| format!(", of {lengths:?} tokens each"));
            return Err(dict.config(format!(
                "the scales {scales:?} do not fit: the weights have {} scales and {} tokens, {} in the first{stored}",
                self.num_scales, self.tokens, self.first
            )));
        }
        Ok(Some(scales))
    }

    /// Tokens of each scale, from `lvl_1L`: the scale number of every token.
    fn run_lengths(&self, dict: &StateDict<'_>) -> Result<Option<Vec<usize>>, OfficialError> {
        if !dict.contains("lvl_1L") {
            return Ok(None);
        }
        let name = dict.check("lvl_1L", &[1, self.tokens])?;
        let levels = dict.checkpoint.read_i64(name)?;
        let runs: Vec<&[i64]> = levels.chunk_by(|a, b| a == b).collect();
        if runs.iter().enumerate().any(|(i, run)| run.first() != Some(&(i as i64))) {
            return Err(dict.config("`lvl_1L` does not count the scales 0, 1, 2, .. in order"));
        }
        Ok(Some(runs.iter().map(|run| run.len()).collect()))
    }
}

/// Reads `1,2,3,4` (square scales) or `1x1,2x3` (height x width), for a command line.
pub fn parse_scales(text: &str) -> Result<Vec<(usize, usize)>, String> {
    text.split(',')
        .map(|item| {
            let item = item.trim();
            let (h, w) = item.split_once('x').unwrap_or((item, item));
            match (h.parse(), w.parse()) {
                (Ok(h @ 1..=256), Ok(w @ 1..=256)) => Ok((h, w)),
                _ => Err(format!(
                    "`{item}` is not a scale; write sides of 1 to 256, as in 1,2,3,4 or 1x1,2x3"
                )),
            }
        })
        .collect()
}
