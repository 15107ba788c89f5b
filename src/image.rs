//! A finished picture, and one that is written while it is made.

use std::io::{self, Write};

use varmint_core::Rows;

/// RGB pixels, and the tokens that they were decoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
    /// The tokens of all scales.
    pub tokens: Vec<u16>,
}

impl Image {
    /// Writes a PNG.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_png(&self, to: impl Write) -> io::Result<()> {
        let mut writer = header(to, (self.height, self.width))?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(())
    }

    /// Pictures of one size side by side, `columns` to a row, on white, each `zoom` times as large.
    pub fn sheet(images: &[Self], columns: usize, zoom: usize) -> Self {
        let (w, h) = images.first().map_or((1, 1), |i| (i.width, i.height));
        let (columns, zoom) = (columns.clamp(1, images.len().max(1)), zoom.max(1));
        let gap = 4 * zoom.min(2);
        let rows = images.len().div_ceil(columns).max(1);
        let (cell_w, cell_h) = (w * zoom + gap, h * zoom + gap);
        let (width, height) = (columns * cell_w + gap, rows * cell_h + gap);
        let mut rgb = vec![255; width * height * 3];
        for (i, image) in images.iter().enumerate() {
            let (left, top) = (gap + i % columns * cell_w, gap + i / columns * cell_h);
            for y in 0..h * zoom {
                for x in 0..w * zoom {
                    let from = (y / zoom * w + x / zoom) * 3;
                    let to = ((top + y) * width + left + x) * 3;
                    if let (Some(o), Some(v)) =
                        (rgb.get_mut(to..to + 3), image.rgb.get(from..from + 3))
                    {
                        o.copy_from_slice(v);
                    }
                }
            }
        }
        Self { width, height, rgb, tokens: Vec::new() }
    }
}

fn header<W: Write>(to: W, (height, width): (usize, usize)) -> io::Result<png::Writer<W>> {
    let mut encoder = png::Encoder::new(to, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    Ok(encoder.write_header()?)
}

/// A PNG that is written as the rows of an image come, which then need not be kept.
///
/// ```no_run
/// # use varmint::{Engine, Event, PngRows, Request};
/// # fn save(engine: &mut Engine<'_>, requests: &[Request<'_>], to: Vec<std::fs::File>) -> Result<(), Box<dyn std::error::Error>> {
/// let size = engine.size();
/// let mut files = to.into_iter().map(|f| PngRows::new(f, size)).collect::<Result<Vec<_>, _>>()?;
/// let mut failed = Ok(());
/// engine.generate_batch(requests, |event| {
///     if let (Event::Rows(rows), Ok(())) = (event, &failed) {
///         failed = files[rows.image].push(rows);
///     }
/// })?;
/// failed?;
/// files.into_iter().try_for_each(PngRows::finish)?;
/// # Ok(())
/// # }
/// ```
pub struct PngRows<W: Write + 'static> {
    stream: png::StreamWriter<'static, W>,
    width: usize,
    /// The row that comes next.
    y: usize,
    height: usize,
}

impl<W: Write + 'static> PngRows<W> {
    /// Begins a picture of so many rows and columns.
    ///
    /// # Errors
    /// Those of the writer, and for a side of 0.
    pub fn new(to: W, (height, width): (usize, usize)) -> io::Result<Self> {
        let stream = header(to, (height, width))?.into_stream_writer()?;
        Ok(Self { stream, width, y: 0, height })
    }

    /// Writes the rows that come next.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::InvalidInput`] for other rows than the next ones.
    pub fn push(&mut self, rows: &Rows<'_>) -> io::Result<()> {
        let n = rows.rgb.len() / (3 * self.width);
        let fits = rows.y == self.y && rows.width == self.width && n <= self.height - self.y;
        if !fits {
            let text = format!(
                "rows from {} of width {}, where row {} of {} of width {} comes next",
                rows.y, rows.width, self.y, self.height, self.width
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.y += n;
        self.stream.write_all(rows.rgb)
    }

    /// Ends the picture.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::UnexpectedEof`] if rows are missing.
    pub fn finish(self) -> io::Result<()> {
        if self.y < self.height {
            let text = format!("{} of {} rows were written", self.y, self.height);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(self.stream.finish()?)
    }
}

impl<W: Write + 'static> std::fmt::Debug for PngRows<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (y, height, width) = (self.y, self.height, self.width);
        write!(f, "PngRows {{ {y} of {height} rows of {width} pixels }}")
    }
}
