//! Pictures and masks from PNG files, at the size of a model.
//!
//! ```text
//! PNG -> RGB, what is transparent over white -> the largest part in the middle of the wanted shape
//! -> means over the area that a pixel of the model covers
//! ```

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{ColorType, Decoder, Transformations};
use varmint::Image;

use crate::error::Error;

/// Reads a PNG of 8 or 16 bits, with any colours.
///
/// # Errors
/// A file that cannot be read or is no PNG.
pub fn read_png(path: &Path) -> Result<Image, Error> {
    let wrong = |what: String| Error::Option(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let broken = |e: png::DecodingError| wrong(format!("not a PNG picture that can be read: {e}"));
    let mut reader = decoder.read_info().map_err(broken)?;
    let size = reader.output_buffer_size();
    let mut bytes = vec![0; size.ok_or_else(|| wrong("too large a picture".into()))?];
    let info = reader.next_frame(&mut bytes).map_err(broken)?;
    let (color, channels) = (info.color_type, info.color_type.samples());
    let mut rgb = Vec::with_capacity(3 * (info.width * info.height) as usize);
    for pixel in bytes[..info.buffer_size()].chunks_exact(channels) {
        let alpha = match color {
            ColorType::Rgba | ColorType::GrayscaleAlpha => u32::from(pixel[channels - 1]),
            _ => 255,
        };
        for i in 0..3 {
            let v = u32::from(pixel[if channels < 3 { 0 } else { i }]);
            rgb.push(((v * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
        }
    }
    let (width, height) = (info.width as usize, info.height as usize);
    Ok(Image { width, height, rgb, tokens: Vec::new() })
}

/// The middle of the picture in the shape of `size` (height, width), at that size.
pub fn fitted(image: &Image, (height, width): (usize, usize)) -> Image {
    let (h, w) = (image.height as f64, image.width as f64);
    let zoom = (h / height as f64).min(w / width as f64); // pixels of the picture per pixel wanted
    let (top, left) = ((h - zoom * height as f64) / 2.0, (w - zoom * width as f64) / 2.0);
    let rows: Vec<_> =
        (0..height).map(|y| cover(top + zoom * y as f64, zoom, image.height)).collect();
    let columns: Vec<_> =
        (0..width).map(|x| cover(left + zoom * x as f64, zoom, image.width)).collect();
    let mut rgb = Vec::with_capacity(3 * width * height);
    for row in &rows {
        for column in &columns {
            for channel in 0..3 {
                let mut sum = 0.0;
                for &(y, a) in row {
                    for &(x, b) in column {
                        sum += a * b * f64::from(image.rgb[(y * image.width + x) * 3 + channel]);
                    }
                }
                rgb.push(sum.round() as u8);
            }
        }
    }
    Image { width, height, rgb, tokens: Vec::new() }
}

/// Which of `n` pixels lie in `from..from + length`, and their shares of it.
fn cover(from: f64, length: f64, n: usize) -> Vec<(usize, f64)> {
    let (first, last) = (from.max(0.0) as usize, (from + length).min(n as f64));
    let part = |i: usize| (last.min((i + 1) as f64) - from.max(i as f64)).max(0.0) / length;
    (first..n)
        .take_while(|&i| (i as f64) < last)
        .map(|i| (i, part(i)))
        .filter(|p| p.1 > 0.0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, values: &[u8]) -> Image {
        let rgb = values.iter().flat_map(|&v| [v; 3]).collect();
        Image { width, height: values.len() / width, rgb, tokens: Vec::new() }
    }

    #[test]
    fn pictures_are_cropped_and_averaged() {
        // 4 x 2: the middle two columns, one mean each row.
        let wide = grey(4, &[9, 10, 20, 9, 9, 30, 40, 9]);
        assert_eq!(fitted(&wide, (1, 1)), grey(1, &[25]));
        assert_eq!(fitted(&wide, (2, 2)), grey(2, &[10, 20, 30, 40]));
        // 3 -> 2: one and a half pixels each.
        assert_eq!(
            fitted(&grey(3, &[0, 90, 30, 0, 90, 30, 0, 90, 30]), (2, 2)).rgb[..6],
            [30, 30, 30, 50, 50, 50]
        );
        // Enlarged: pixels become squares.
        assert_eq!(fitted(&grey(1, &[7]), (2, 2)), grey(2, &[7; 4]));
    }
}
