//! `varmint generate`.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, bail};
use varmint::{Image, Model};
use varmint_quant::batch::{
    Item, default_jobs, generate, read_requests, read_tokens, write_images,
};

const EXAMPLES: &str = "\
Examples:
  One picture, by name:
    varmint generate --model emoji-64.vmt --class 'red heart' --style noto --out heart.png
  A sheet of 16 with consecutive seeds, without guidance:
    varmint generate --model emoji-64.vmt --class 812 --count 16 --guidance 0 --out sheet.png
  A list of requests on all cores, as tensors `images` U8 [N,H,W,3] and `tokens` I32 [N,L]:
    printf 'class,style,seed\\n3,0,1\\n,2,5\\n' > requests.csv
    varmint generate --model emoji-64.vmt --requests requests.csv --out images.safetensors
  Pictures from tokens that were drawn before (or elsewhere):
    varmint generate --model emoji-64.vmt --tokens images.safetensors --out again.safetensors";

/// Make pictures: one, a sheet, or a list of requests on all cores.
///
/// The same request gives the same picture on every machine and with any number of threads.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// What to draw: a name or its number [default: not given].
    #[arg(long, value_name = "NAME|N")]
    class: Option<String>,
    /// In which style: a name or its number [default: not given].
    #[arg(long, value_name = "NAME|N")]
    style: Option<String>,
    /// Seed of the first picture; the following ones count up.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Strength of guidance [default: the model's].
    #[arg(long)]
    guidance: Option<f32>,
    /// Tokens kept, 0 for all, 1 for greedy [default: the model's].
    #[arg(long)]
    top_k: Option<u32>,
    /// Mass kept, 0 for all [default: the model's].
    #[arg(long)]
    top_p: Option<f32>,
    /// Temperature [default: the model's].
    #[arg(long)]
    temperature: Option<f32>,
    /// Tier of the model [default: its first].
    #[arg(long)]
    tier: Option<String>,
    /// Pictures [default: 1].
    #[arg(long, conflicts_with_all = ["requests", "tokens"])]
    count: Option<usize>,
    /// Requests: a CSV file with columns of class, style, seed; an empty field is "not given".
    #[arg(long, value_name = "FILE", conflicts_with_all = ["class", "style"])]
    requests: Option<PathBuf>,
    /// Tokens to decode instead of drawing: tensor `tokens` (I32, N x L) of a safetensors file.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Threads [default: as many as run at once].
    #[arg(long)]
    jobs: Option<usize>,
    /// The file to write: .png (several pictures on a sheet) or .safetensors.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let extension = self.out.extension().and_then(|e| e.to_str()).unwrap_or("");
        let tensors = match extension.to_lowercase().as_str() {
            "safetensors" => true,
            "png" => false,
            _ => bail!("--out {}: write a .png or a .safetensors file", self.out.display()),
        };
        let file = super::open(&self.model)?;
        let model = file.model().with_context(|| self.model.display().to_string())?;
        let tier = super::tier(&model, self.tier.as_deref())?;
        let items = self.items(&model)?;
        let bar = super::bar(items.len(), "pictures");
        let jobs = self.jobs.unwrap_or_else(default_jobs);
        let images = generate(&model, &tier, &items, jobs, &|| bar.inc(1));
        bar.finish_and_clear();
        let images = images?;
        if tensors {
            write_images(&self.out, &images)?;
        } else {
            let file = File::create(&self.out);
            let file = file.with_context(|| self.out.display().to_string())?;
            let columns = (1..).find(|c| c * c >= images.len()).unwrap_or(1);
            let image = match images.as_slice() {
                [one] => one,
                all => &Image::sheet(all, columns, 1),
            };
            image.write_png(BufWriter::new(file))?;
        }
        let s = if images.len() == 1 { "" } else { "s" };
        println!("{}: {} picture{s}, tier {}", self.out.display(), images.len(), tier.name());
        Ok(())
    }

    fn items(&self, model: &Model<'_>) -> anyhow::Result<Vec<Item>> {
        let mut first = Item::new(
            super::sampling(model, (self.guidance, self.top_k, self.top_p, self.temperature))?,
            self.seed,
        );
        for (t, (name, text)) in [("class", &self.class), ("style", &self.style)].iter().enumerate()
        {
            if let Some(text) = text {
                let row = varmint::find_label(model, t, text).with_context(|| format!("--{name}"));
                first.labels[t] = Some(row?);
            }
        }
        let tokens = match &self.tokens {
            Some(path) => Some(read_tokens(path, model.shape.config.tokens())?),
            None => None,
        };
        let mut items = match &self.requests {
            Some(path) => read_requests(path, model, &first)?,
            None => {
                let n = tokens.as_ref().map_or(self.count.unwrap_or(1), Vec::len);
                let seed = |i| self.seed.wrapping_add(i as u64);
                (0..n).map(|i| Item { seed: seed(i), ..first.clone() }).collect()
            }
        };
        if items.is_empty() {
            bail!("no pictures are asked for");
        }
        if let Some(tokens) = tokens {
            if tokens.len() != items.len() {
                bail!("{} requests, but tokens of {} pictures", items.len(), tokens.len());
            }
            for (item, tokens) in items.iter_mut().zip(tokens) {
                item.tokens = Some(tokens);
            }
        }
        Ok(items)
    }
}
