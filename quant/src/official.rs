//! The official VAR layout: finds a transformer and its VQVAE in open checkpoints, and learns their configuration.
//!
//! The two state dicts may be flat files, share one file under prefixes (`var.`, `vae.`), or lie deep in a training
//! checkpoint (`trainer.var_wo_ddp.`, `ema.`, `state_dict.`, `model.`): each is found by a key that only it has, wherever
//! that lies. Segments that wrappers add (`_orig_mod`, `module`) are dropped from names.
//!
//! Keys, shapes and how the configuration follows from them: [`var`], [`vae`] and [`decoder`]. A refiner and further
//! decoders, each in a file of its own, are added in `more`. Everything is checked once, here; the weights are then read
//! one at a time with [`StateDict::need`].

pub mod decoder;
pub mod encoder;
mod layout;
mod more;
mod naming;
pub mod vae;
pub mod var;

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::{Checkpoint, CheckpointError};
pub use decoder::DecoderConfig;
pub use encoder::EncoderConfig;
pub use layout::Layout;
use naming::Naming;
pub use vae::{Phi, VaeConfig};
pub use var::VarConfig;

/// A problem with the weights as a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfficialError {
    /// A file could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No file has this state dict.
    #[error("no {what} in {files}: no key ends in `{anchor}`")]
    Absent {
        /// `VAR transformer`, `VQVAE`, `image decoder` or `image encoder`.
        what: &'static str,
        /// The key that was looked for.
        anchor: &'static str,
        /// The files, with commas.
        files: String,
    },
    /// Several state dicts are equally good.
    #[error("more than one {what}: {places}; give one of them, or its prefix")]
    Ambiguous {
        /// `VAR transformer`, `VQVAE`, `image decoder` or `image encoder`.
        what: &'static str,
        /// `file: prefix`, with commas.
        places: String,
    },
    /// Two names are the same once the segments of wrappers are dropped.
    #[error("{place}: `{first}` and `{second}` are the same key")]
    Twice {
        /// File and prefix.
        place: String,
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// A key is missing.
    #[error("{place}: key `{key}` is missing; expected a tensor of shape {expected}")]
    Missing {
        /// File and prefix.
        place: String,
        /// The key, without the prefix.
        key: String,
        /// What it should look like.
        expected: String,
    },
    /// A weight that the configuration has no place for; leaving it out would change the pictures.
    #[error(
        "{place}: key `{key}` does not belong to a model of this layout, or others of its kind are missing"
    )]
    Unexpected {
        /// File and prefix.
        place: String,
        /// The key, without the prefix.
        key: String,
    },
    /// A tensor has another shape than the rest of the file implies.
    #[error("{place}: `{key}` has shape {found:?}; expected {expected}")]
    Shape {
        /// File and prefix.
        place: String,
        /// The key, without the prefix.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// Numbers that contradict each other.
    #[error("{place}: {what}")]
    Config {
        /// File and prefix.
        place: String,
        /// Which, and what would be right.
        what: String,
    },
    /// The transformer was not trained on this VQVAE.
    #[error(
        "transformer and VQVAE do not belong together: {what} is {var} in the transformer, {vae} in the VQVAE"
    )]
    Pairing {
        /// The number that differs.
        what: &'static str,
        /// Its value in the transformer.
        var: usize,
        /// Its value in the VQVAE.
        vae: usize,
    },
    /// The refiner was not trained beside this transformer.
    #[error("{place}: as a refiner beside {var} its {what} must be {expected}, not {found}")]
    Refiner {
        /// File and prefix of the refiner.
        place: String,
        /// File and prefix of the transformer.
        var: String,
        /// What differs.
        what: &'static str,
        /// Its value in the transformer.
        expected: String,
        /// Its value in the refiner.
        found: String,
    },
}

/// What a caller knows that the files do not say.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// What kind of transformer it is; else what its keys say.
    pub layout: Option<Layout>,
    /// Height and width of every scale; needed where `lvl_1L` is not stored and the schedule is not a released one.
    pub scales: Option<Vec<(usize, usize)>>,
    /// Attention heads, where the weights do not say (no `scale_mul_1H11`); else C / 64.
    pub heads: Option<usize>,
    /// Prefix of the transformer, such as `model.`; found if not given.
    pub var_prefix: Option<String>,
    /// Prefix of the VQVAE.
    pub vae_prefix: Option<String>,
}

/// A transformer and the VQVAE it was trained on, checked; and what may be added to them.
#[derive(Debug)]
pub struct Official<'a> {
    /// Weights of the transformer.
    pub var: StateDict<'a>,
    /// Its configuration.
    pub var_config: VarConfig,
    /// Weights of the VQVAE.
    pub vae: StateDict<'a>,
    /// Its configuration.
    pub vae_config: VaeConfig,
    /// The second transformer, for late scales; see [`Official::add_refiner`].
    pub refiner: Option<(StateDict<'a>, VarConfig)>,
    /// Image decoders after that of the VQVAE; see [`Official::add_decoder`].
    pub decoders: Vec<(StateDict<'a>, DecoderConfig)>,
}

impl<'a> Official<'a> {
    /// Finds both state dicts in `files`, infers their configuration, and checks every key that generation needs.
    ///
    /// Of several candidates the first of this order is taken: below a name with `ema`, least nested; two that are equal
    /// in both are an error.
    pub fn find(files: &'a [Checkpoint], hints: &Hints) -> Result<Self, OfficialError> {
        let var =
            StateDict::find(files, "VAR transformer", var::ANCHOR, hints.var_prefix.as_deref())?;
        let vae = StateDict::find(files, "VQVAE", vae::ANCHOR, hints.vae_prefix.as_deref())?;
        let mut var_config = VarConfig::infer(&var, hints.scales.as_deref(), hints.heads)?;
        var_config.layout = match hints.layout {
            Some(wanted) => wanted.check(&var, var_config.layout)?,
            None => var_config.layout,
        };
        let vae_config = VaeConfig::infer(&vae)?;
        let mut pairs = vec![
            ("vocabulary size", var_config.vocab, vae_config.vocab),
            ("token width", var_config.cvae, vae_config.cvae),
        ];
        if vae_config.phi == Phi::PerScale {
            pairs.push(("number of scales", var_config.num_scales, vae_config.num_phi));
        }
        if var_config.layout == Layout::FlexVar {
            pairs.push(("number of phi convolutions", 0, vae_config.num_phi));
        }
        for (what, var, vae) in pairs {
            if var != vae {
                return Err(OfficialError::Pairing { what, var, vae });
            }
        }
        Ok(Self { var, var_config, vae, vae_config, refiner: None, decoders: Vec::new() })
    }
}

/// The weights of one model inside a checkpoint, by their official keys.
#[derive(Debug)]
pub struct StateDict<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    naming: Naming,
    /// Official key → name in the checkpoint.
    names: BTreeMap<String, &'a str>,
}

impl<'a> StateDict<'a> {
    /// All names of `checkpoint` below `prefix` (empty, or ending in a dot).
    pub fn new(checkpoint: &'a Checkpoint, prefix: &str) -> Result<Self, OfficialError> {
        let own =
            |name: &'a str| Some((without_wrappers(name).strip_prefix(prefix)?.to_owned(), name));
        let found: Vec<_> = checkpoint.names().filter_map(own).collect();
        let naming = Naming::of(found.iter().map(|(key, _)| key.as_str()));
        let (prefix, names) = (prefix.to_owned(), BTreeMap::new());
        let mut dict = Self { checkpoint, prefix, naming, names };
        for (key, name) in found {
            if let Some(first) = dict.names.insert(naming.official(&key), name) {
                return Err(OfficialError::Twice {
                    place: dict.place(),
                    first: first.into(),
                    second: name.into(),
                });
            }
        }
        Ok(dict)
    }

    /// The best state dict with a key `anchor`; see [`Official::find`].
    fn find(
        files: &'a [Checkpoint],
        what: &'static str,
        anchor: &'static str,
        wanted: Option<&str>,
    ) -> Result<Self, OfficialError> {
        let mut places = Vec::new();
        for (n, file) in files.iter().enumerate() {
            for name in file.names() {
                let official = without_wrappers(name);
                let Some(prefix) = official.strip_suffix(anchor) else {
                    continue;
                };
                let whole = prefix.is_empty() || prefix.ends_with('.');
                if whole && wanted.is_none_or(|wanted| without_wrappers(wanted) == prefix) {
                    let averaged =
                        prefix.split('.').any(|part| part.to_lowercase().contains("ema"));
                    places.push((!averaged, prefix.matches('.').count(), n, prefix.to_owned()));
                }
            }
        }
        places.sort();
        places.dedup();
        match places.as_slice() {
            [a, b, ..] if (a.0, a.1) == (b.0, b.1) => {
                let list = places
                    .iter()
                    .map(|(.., n, prefix)| format!("{}: `{prefix}`", files[*n].path().display()));
                Err(OfficialError::Ambiguous { what, places: list.collect::<Vec<_>>().join(", ") })
            }
            [(.., n, prefix), ..] => Self::new(&files[*n], prefix),
            [] => {
                let names: Vec<_> = files.iter().map(|f| f.path().display().to_string()).collect();
                Err(OfficialError::Absent { what, anchor, files: names.join(", ") })
            }
        }
    }

    /// Where the weights come from, for messages.
    pub fn place(&self) -> String {
        let path = self.checkpoint.path().display();
        if self.prefix.is_empty() {
            path.to_string()
        } else {
            format!("{path} (`{}`)", self.prefix)
        }
    }

    /// The official keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Is this key there?
    pub fn contains(&self, key: &str) -> bool {
        self.names.contains_key(key)
    }

    /// The shape of a key.
    pub fn shape(&self, key: &str) -> Option<&'a [usize]> {
        self.checkpoint.shape(self.names.get(key)?)
    }

    /// The numbers of `key` in C order, which must have exactly this shape.
    pub fn need(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, OfficialError> {
        let name = self.check(key, shape)?;
        Ok(self.checkpoint.read_f32(name)?)
    }

    /// The name of `key`, which must exist with exactly this shape.
    fn check(&self, key: &str, shape: &[usize]) -> Result<&'a str, OfficialError> {
        let expected = || format!("{shape:?}");
        // Of HMAR's own parameters it is not known how many dimensions of 1 they have.
        let alike = |found: &[usize]| match self.naming {
            Naming::Hmar(_) => {
                found.iter().filter(|&&n| n != 1).eq(shape.iter().filter(|&&n| n != 1))
            }
            _ => found == shape,
        };
        match (self.names.get(key), self.shape(key)) {
            (Some(name), Some(found)) if alike(found) => Ok(name),
            (Some(_), Some(found)) => Err(self.bad_shape(key, found, expected())),
            _ => Err(OfficialError::Missing {
                place: self.place(),
                key: self.naming.in_file(key),
                expected: expected(),
            }),
        }
    }

    /// Checks that all of `keys` are there, and nothing else below `modules` (but for names that end in one of `ignored`).
    fn check_all(
        &self,
        keys: &[(String, Vec<usize>)],
        modules: &[&str],
        ignored: &[&str],
    ) -> Result<(), OfficialError> {
        for (key, shape) in keys {
            self.check(key, shape)?;
        }
        let known: BTreeSet<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
        let other = self.keys().find(|key| {
            modules.iter().any(|module| key.starts_with(module))
                && !known.contains(key)
                && !ignored.iter().any(|end| key.ends_with(end))
        });
        match other {
            Some(key) => Err(OfficialError::Unexpected {
                place: self.place(),
                key: self.naming.in_file(key),
            }),
            None => Ok(()),
        }
    }

    /// The shape of `key`, which must have `N` dimensions, none of them 0; `expected` describes them.
    fn dims<const N: usize>(&self, key: &str, expected: &str) -> Result<[usize; N], OfficialError> {
        let found = self.shape(key).ok_or_else(|| OfficialError::Missing {
            place: self.place(),
            key: self.naming.in_file(key),
            expected: expected.into(),
        })?;
        match <[usize; N]>::try_from(found) {
            Ok(dims) if !dims.contains(&0) => Ok(dims),
            _ => Err(self.bad_shape(key, found, expected.into())),
        }
    }

    /// How many distinct `i` there are in keys `{prefix}{i}.`.
    fn count(&self, prefix: &str) -> usize {
        let rest = self
            .keys()
            .filter_map(|key| key.strip_prefix(prefix)?.split_once('.')?.0.parse::<usize>().ok());
        rest.collect::<BTreeSet<_>>().len()
    }

    fn bad_shape(&self, key: &str, found: &[usize], expected: String) -> OfficialError {
        OfficialError::Shape {
            place: self.place(),
            key: self.naming.in_file(key),
            found: found.to_vec(),
            expected,
        }
    }

    fn config(&self, what: impl Into<String>) -> OfficialError {
        OfficialError::Config { place: self.place(), what: what.into() }
    }
}

/// `a._orig_mod.module.b` → `a.b`: what `torch.compile` and data parallelism add to names.
fn without_wrappers(name: &str) -> String {
    name.split('.')
        .filter(|part| !matches!(*part, "_orig_mod" | "module"))
        .collect::<Vec<_>>()
        .join(".")
}
