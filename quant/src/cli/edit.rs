//! `varmint edit`.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, bail};
use varmint::{Config, Engine, Image, Model, Request, edit, encode};
use varmint_quant::compare::psnr;
use varmint_quant::open_encoder;
use varmint_quant::picture::{fitted, read_png};

const EXAMPLES: &str = "\
Examples:
  Draw the white part of a mask anew, as the class says:
    varmint edit --model emoji-64.vmt --image face.png --mask mask.png --class 'smiling face' --out new.png
  A box of the picture (x, y, width, height in its pixels), as a sheet of four choices:
    varmint edit --model emoji-64.vmt --image face.png --box 8,32,48,24 --count 4 --out sheet.png
  Everything but the box: out-painting:
    varmint edit --model emoji-64.vmt --image face.png --box 16,16,32,32 --outside --class pizza --out out.png
  The picture, the mask and two classes in one row:
    varmint edit --model emoji-64.vmt --image face.png --box 0,32,64,32 --class 'red heart' \\
        --class pizza --show --zoom 2 --out row.png
  Nothing: what the tokenizer makes of the picture:
    varmint edit --model emoji-64.vmt --image face.png --out again.png";

/// Draw a part of a picture anew. What stays is looked for again at every scale, so that it makes up for what is drawn
/// around it.
///
/// The picture's middle is cut out in the shape of the model's pictures and brought to their size. A cell of the
/// latent (8x8 pixels of emoji-64) is drawn anew if any of its pixels is. What stays is what the tokenizer
/// can show of it; the scale of one token, which has the mean colours, always stays.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Its encoder, from `varmint encoder` [default: the model's name with .vme].
    #[arg(long, value_name = "FILE")]
    encoder: Option<PathBuf>,
    /// The picture, a PNG; what is transparent stands on white.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// What to draw anew: white in a PNG of the picture's size.
    #[arg(long, value_name = "FILE", conflicts_with = "box")]
    mask: Option<PathBuf>,
    /// What to draw anew: a box in pixels of the picture.
    #[arg(long = "box", id = "box", value_name = "X,Y,W,H", value_parser = parse_box)]
    area: Option<[usize; 4]>,
    /// Draw what is outside of the mask or box, and leave what is inside.
    #[arg(long)]
    outside: bool,
    /// What to draw: a name or its number; may be repeated, for a picture each [default: not given].
    #[arg(long, value_name = "NAME|N")]
    class: Vec<String>,
    /// In which style: a name or its number [default: not given].
    #[arg(long, value_name = "NAME|N")]
    style: Option<String>,
    /// Leave the tokens of what stays as the encoder found them, whatever is drawn around them: the official demo.
    #[arg(long)]
    fixed: bool,
    /// Seed of the first picture; the following ones count up.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures of every class.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Puts before them, all in one row: the picture; the same with grey where it is drawn anew; what the tokenizer
    /// makes of it.
    #[arg(long)]
    show: bool,
    /// Enlarges what is written so many times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    zoom: u8,
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
    /// The PNG to write: one picture, or a sheet of several.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

fn parse_box(text: &str) -> Result<[usize; 4], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    match numbers.ok().and_then(|n| <[usize; 4]>::try_from(n).ok()) {
        Some([x, y, w, h]) if w > 0 && h > 0 => Ok([x, y, w, h]),
        _ => Err("wanted are four whole numbers X,Y,WIDTH,HEIGHT, such as 8,32,48,24".into()),
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let map = super::open(&self.model)?;
        let model = map.model().with_context(|| self.model.display().to_string())?;
        let path = self.encoder.clone().unwrap_or_else(|| self.model.with_extension("vme"));
        let file = super::open(&path)
            .context("editing needs the model's encoder: see `varmint encoder --help`")?;
        let encoder = open_encoder(&path, &file, &model)?;
        let tier = super::tier(&model, self.tier.as_deref())?;

        let picture = read_png(&self.image)?;
        let size = encoder.size(&model.shape);
        let mask = self.cells(&model, &picture, size)?;
        let config = &model.shape.config;
        let fitted = fitted(&picture, size);
        let found = encode(&model, &encoder, &tier, &fitted.rgb)?;
        let mut kept = found.clone();
        let drawn = edit::keep(config, &mask, &mut kept.tokens)?;

        let mut request = Request::new(&model);
        request.sampling =
            super::sampling(&model, (self.guidance, self.top_k, self.top_p, self.temperature))?;
        let row = |table, name: &str, text: &String| {
            let row = varmint::find_label(&model, table, text);
            row.map(Some).with_context(|| format!("--{name}"))
        };
        if let Some(style) = &self.style {
            request.labels[1] = row(1, "style", style)?;
        }
        let mut classes = Vec::new();
        for class in &self.class {
            classes.push(row(0, "class", class)?);
        }
        if classes.is_empty() {
            classes.push(None);
        }
        let mut engine = Engine::new(&model, &tier)?;
        let mut images = Vec::new();
        if self.show {
            images.extend([fitted.clone(), greyed(&fitted, &mask, config)]);
            images.push(engine.generate(Request { tokens: Some(&found.tokens), ..request })?);
        }
        for class in classes {
            request.labels[0] = class;
            for i in 0..self.count.max(1) as u64 {
                request.seed = self.seed.wrapping_add(i);
                images.push(match self.fixed {
                    true => engine.generate(Request { tokens: Some(&kept.tokens), ..request })?,
                    false => engine.edit(request, &kept)?,
                });
            }
        }
        let known = if self.show { 3 } else { 0 };
        let near: Vec<f64> =
            images.iter().skip(known).map(|i| kept_db(&fitted, i, &mask, config)).collect();
        let tokenizer = images.get(2).filter(|_| self.show);
        let tokenizer = tokenizer.map(|i| kept_db(&fitted, i, &mask, config));
        let square = (1..).find(|c| c * c >= images.len()).unwrap_or(1);
        let columns = if self.show { images.len() } else { square };
        let image = match images.as_slice() {
            [one] if self.zoom == 1 => one,
            all => &Image::sheet(all, columns, self.zoom.into()),
        };
        let out = File::create(&self.out).with_context(|| self.out.display().to_string())?;
        image.write_png(BufWriter::new(out))?;
        println!(
            "{}: {drawn} of {} tokens drawn anew, tier {}",
            self.out.display(),
            kept.tokens.len(),
            tier.name()
        );
        if mask.contains(&true) {
            let mean = near.iter().sum::<f64>() / near.len().max(1) as f64;
            let alone = tokenizer
                .map_or(String::new(), |db| format!(", where the tokenizer alone has {db:.1} dB"));
            println!("what stays is {mean:.1} dB from the picture{alone}");
        }
        Ok(())
    }

    /// Which cells of the latent stay.
    fn cells(
        &self,
        model: &Model<'_>,
        picture: &Image,
        size: (usize, usize),
    ) -> anyhow::Result<Vec<bool>> {
        let latent = model.shape.config.latent();
        let (rows, columns) = (latent.h as usize, latent.w as usize);
        let (width, height) = (picture.width, picture.height);
        let mut white = match (&self.mask, self.area) {
            (Some(path), _) => {
                let mask = read_png(path)?;
                if (mask.width, mask.height) != (width, height) {
                    let (w, h) = (mask.width, mask.height);
                    let path = path.display();
                    bail!("--mask {path}: {w} x {h} pixels; the picture has {width} x {height}");
                }
                mask
            }
            (None, Some([x, y, w, h])) => {
                if x >= width || y >= height {
                    bail!("--box: it begins at {x},{y}; the picture has {width} x {height} pixels");
                }
                let inside = |i: usize| {
                    (x..x + w).contains(&(i % width)) && (y..y + h).contains(&(i / width))
                };
                let rgb = (0..width * height).flat_map(|i| [if inside(i) { 255 } else { 0 }; 3]);
                Image { width, height, rgb: rgb.collect(), tokens: Vec::new() }
            }
            (None, None) if self.outside => {
                bail!("--outside: outside of what? give --mask or --box")
            }
            (None, None) => return Ok(vec![true; rows * columns]),
        };
        if self.outside {
            white.rgb.iter_mut().for_each(|v| *v = 255 - *v);
        }
        let white = fitted(&white, size);
        let mut stays = vec![true; rows * columns];
        for (i, pixel) in white.rgb.chunks_exact(3).enumerate() {
            if pixel[0] > 127 {
                stays[cell_of(i, size, &model.shape.config)] = false;
            }
        }
        Ok(stays)
    }
}

/// The cell of the latent that pixel `i` of a picture is in.
fn cell_of(i: usize, (height, width): (usize, usize), config: &Config) -> usize {
    let latent = config.latent();
    let (rows, columns) = (latent.h as usize, latent.w as usize);
    i / width / (height / rows) * columns + i % width / (width / columns)
}

/// PSNR of what stays.
fn kept_db(picture: &Image, made: &Image, stays: &[bool], config: &Config) -> f64 {
    let size = (picture.height, picture.width);
    let (mut sum, mut n) = (0.0, 0);
    for (i, (a, b)) in picture.rgb.chunks_exact(3).zip(made.rgb.chunks_exact(3)).enumerate() {
        if stays[cell_of(i, size, config)] {
            sum += a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
            n += 3;
        }
    }
    psnr(sum / f64::from(n.max(1)))
}

/// The picture, pale and grey where it does not stay.
fn greyed(picture: &Image, stays: &[bool], config: &Config) -> Image {
    let size = (picture.height, picture.width);
    let mut out = picture.clone();
    for (i, pixel) in out.rgb.chunks_exact_mut(3).enumerate() {
        if !stays[cell_of(i, size, config)] {
            pixel.iter_mut().for_each(|v| *v = 160 + *v / 8);
        }
    }
    out
}
