//! Files that call what the official layout has by other names. Everything else here knows official keys only; messages
//! have the file's.
//!
//! | official | HMAR, next-scale path |
//! |---|---|
//! | `blocks.{i}` | `base_blocks.{i}`, then `ns_blocks.{i - bases}` |
//! | `head`, `head_nm` | `ns_head`, `ns_head_nm` |
//! | `word_embed.bias` | `word_embed_bias` |
//!
//! | official | LlamaGen decoder of n levels |
//! |---|---|
//! | `decoder.mid.{block_1, attn_1, block_2}` | `decoder.mid.{0, 1, 2}` |
//! | `decoder.up.{i}.{block, attn}.{j}` | `decoder.conv_blocks.{n - 1 - i}.{res, attn}.{j}` |
//! | `decoder.up.{i}.upsample` | `decoder.conv_blocks.{n - 1 - i}.upsample` |

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Naming {
    /// As the official files.
    #[default]
    Official,
    /// As HMAR, with so many base blocks.
    Hmar(usize),
    /// As LlamaGen's image decoder, with so many levels.
    LlamaGen(usize),
}

const HMAR: [(&str, &str); 3] =
    [("ns_head.", "head."), ("ns_head_nm.", "head_nm."), ("word_embed_bias", "word_embed.bias")];
const MIDDLE: [(&str, &str); 3] = [
    ("decoder.mid.0.", "decoder.mid.block_1."),
    ("decoder.mid.1.", "decoder.mid.attn_1."),
    ("decoder.mid.2.", "decoder.mid.block_2."),
];
const BASE: &str = "base_blocks.";
const TOP: &str = "ns_blocks.";
const LEVEL: &str = "decoder.conv_blocks.";

impl Naming {
    /// The naming of a file with these keys.
    pub(super) fn of<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Self {
        let count = |start: &str| {
            let numbers = keys.clone().filter_map(|key| Some(numbered(key, start)?.0));
            numbers.max().map_or(0, |n| n.saturating_add(1))
        };
        match (count(BASE).max(usize::from(count(TOP) > 0)), count(LEVEL)) {
            (0, 0) => Self::Official,
            (0, levels) => Self::LlamaGen(levels),
            (_, _) => Self::Hmar(count(BASE)),
        }
    }

    /// The official name of the file's `key`.
    pub(super) fn official(self, key: &str) -> String {
        match self {
            Self::Official => key.to_owned(),
            Self::Hmar(bases) => match (numbered(key, BASE), numbered(key, TOP)) {
                (Some((i, rest)), _) => format!("blocks.{i}.{rest}"),
                (_, Some((i, rest))) => format!("blocks.{}.{rest}", i.saturating_add(bases)),
                _ => renamed(key, HMAR.iter().copied()),
            },
            Self::LlamaGen(levels) => match numbered(key, LEVEL) {
                Some((i, rest)) => {
                    let rest = renamed(rest, [("res.", "block.")].into_iter());
                    format!("decoder.up.{}.{rest}", levels.saturating_sub(i.saturating_add(1)))
                }
                None => renamed(key, MIDDLE.iter().copied()),
            },
        }
    }

    /// The file's name of the official `key`.
    pub(super) fn in_file(self, key: &str) -> String {
        let back = |pairs: &[(&'static str, &'static str)]| {
            renamed(key, pairs.iter().map(|&(file, official)| (official, file)))
        };
        match self {
            Self::Official => key.to_owned(),
            Self::Hmar(bases) => match numbered(key, "blocks.") {
                Some((i, rest)) if i < bases => format!("{BASE}{i}.{rest}"),
                Some((i, rest)) => format!("{TOP}{}.{rest}", i - bases),
                None => back(&HMAR),
            },
            Self::LlamaGen(levels) => match numbered(key, "decoder.up.") {
                Some((i, rest)) => {
                    let rest = renamed(rest, [("block.", "res.")].into_iter());
                    format!("{LEVEL}{}.{rest}", levels.saturating_sub(i.saturating_add(1)))
                }
                None => back(&MIDDLE),
            },
        }
    }
}

/// `key` with the start of the first pair that it has replaced by the other of the pair.
fn renamed<'a>(key: &str, mut pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    pairs
        .find_map(|(from, to)| Some(format!("{to}{}", key.strip_prefix(from)?)))
        .unwrap_or_else(|| key.to_owned())
}

/// `{start}{i}.{rest}`.
fn numbered<'a>(key: &'a str, start: &str) -> Option<(usize, &'a str)> {
    let (i, rest) = key.strip_prefix(start)?.split_once('.')?;
    Some((i.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let hmar = ["base_blocks.0.ffn.fc1.weight", "base_blocks.1.x", "ns_blocks.0.attn.q_bias"];
        let hmar = hmar.into_iter().chain(["ns_head.bias", "ns_head_nm.ada_lin.1.weight"]);
        let hmar = hmar.chain(["word_embed_bias", "word_embed.weight", "mask_head.weight"]);
        let llama = ["decoder.mid.1.q.weight", "decoder.conv_blocks.0.res.2.norm1.bias"];
        let llama = llama.into_iter().chain(["decoder.conv_blocks.4.attn.0.k.bias"]);
        let llama = llama.chain(["decoder.conv_blocks.0.upsample.conv.bias", "post_quant_conv.x"]);
        for (naming, keys) in [
            (Naming::Hmar(2), hmar.collect::<Vec<_>>()),
            (Naming::LlamaGen(5), llama.collect()),
            (Naming::Official, vec!["blocks.0.x", "decoder.mid.block_1.y"]),
        ] {
            assert_eq!(Naming::of(keys.iter().copied()), naming);
            for key in keys {
                assert_eq!(naming.in_file(&naming.official(key)), key, "{naming:?}");
            }
        }
        assert_eq!(Naming::Hmar(8).official("ns_blocks.3.x"), "blocks.11.x");
        let key = "decoder.conv_blocks.0.res.1.conv1.weight";
        assert_eq!(Naming::LlamaGen(5).official(key), "decoder.up.4.block.1.conv1.weight");
    }
}
