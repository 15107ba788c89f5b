//! Small pictures in a terminal: two pixels per character cell.

use std::fmt::Write;

use varmint::Image;

/// Rows of RGB pixels as half blocks.
pub(crate) fn blocks(pixels: &[[u8; 3]], width: usize) -> String {
    let mut out = String::new();
    let rows: Vec<&[[u8; 3]]> = pixels.chunks_exact(width.max(1)).collect();
    for pair in rows.chunks(2) {
        for (x, [r, g, b]) in pair[0].iter().enumerate() {
            let _ = write!(out, "\x1b[38;2;{r};{g};{b}m");
            if let Some([r, g, b]) = pair.get(1).map(|row| row[x]) {
                let _ = write!(out, "\x1b[48;2;{r};{g};{b}m");
            }
            out.push('▀');
        }
        out.push_str("\x1b[0m\n");
    }
    out
}

/// The first row of the images, or as many as fit, reduced to 16 pixels each.
pub(crate) fn picture(images: &[Image], columns: usize) -> String {
    const SIDE: usize = 20;
    let shown = images.len().min(columns).min(4);
    let mut pixels = Vec::new();
    for y in 0..SIDE {
        for image in images.iter().take(shown) {
            for x in 0..SIDE {
                pixels.push(mean(image, x, y, SIDE));
            }
        }
    }
    blocks(&pixels, shown * SIDE)
}

/// Mean colour of a cell of an image that is divided into `side` x `side`.
fn mean(image: &Image, x: usize, y: usize, side: usize) -> [u8; 3] {
    let span =
        |i: usize, n: usize| (i * n / side, ((i + 1) * n / side).max(i * n / side + 1).min(n));
    let ((x0, x1), (y0, y1)) = (span(x, image.width), span(y, image.height));
    let mut sum = [0usize; 3];
    for y in y0..y1 {
        for x in x0..x1 {
            let at = (y * image.width + x) * 3;
            for (s, v) in sum.iter_mut().zip(&image.rgb[at..at + 3]) {
                *s += *v as usize;
            }
        }
    }
    sum.map(|s| (s / ((x1 - x0) * (y1 - y0)).max(1)) as u8)
}
