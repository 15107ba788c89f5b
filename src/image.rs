//! A finished picture.

use std::io::Write;

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
    pub fn write_png(&self, to: impl Write) -> std::io::Result<()> {
        let mut encoder = png::Encoder::new(to, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
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
