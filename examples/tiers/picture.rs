//! A picture of the run: per frame the image, its heat above, its memory and work below.

use varmint::Image;

use crate::trace::Heat;
use crate::{Made, Shown};

/// Image pixels become squares of this side.
const ZOOM: usize = 2;
const HEAT: usize = 4;
const GAP: usize = 3;
const MEMORY: usize = 10;
const WORK: usize = 7;
/// White below a cell, so that rows do not run together.
const BELOW: usize = 8;

type Rgb = [u8; 3];

/// A colour per tier, in the order of the file.
const TIERS: [(&str, Rgb); 8] = [
    ("blue", [38, 102, 204]),
    ("green", [44, 150, 75]),
    ("orange", [232, 140, 30]),
    ("purple", [130, 80, 180]),
    ("red", [205, 55, 60]),
    ("cyan", [40, 165, 180]),
    ("brown", [130, 90, 60]),
    ("pink", [225, 110, 170]),
];

/// The name and the colour of a tier.
pub(crate) fn colour(tier: usize) -> (&'static str, Rgb) {
    TIERS[tier % TIERS.len()]
}

/// A picture that is filled rectangle by rectangle.
struct Canvas(Image);

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        let rgb = vec![255; width * height * 3];
        Self(Image { width, height, rgb, tokens: Vec::new() })
    }

    fn fill(&mut self, (x0, x1): (usize, usize), (y0, y1): (usize, usize), colour: Rgb) {
        let (w, h) = (self.0.width, self.0.height);
        for y in y0..y1.min(h) {
            for x in x0..x1.min(w) {
                self.0.rgb[(y * w + x) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }
}

fn heat(heat: Heat) -> Rgb {
    match heat {
        Heat::Cool => [120, 200, 140],
        Heat::Warm => [245, 200, 70],
        Heat::Hot => [225, 60, 50],
    }
}

/// One frame, its image drawn in the size `(h, w)`, and the heat of the next. The width stands for `arena`
/// bytes, and for `work`, what an image of the best tier costs.
fn cell(shown: &Shown, then: Heat, (h, w): (usize, usize), arena: usize, work: u64) -> Image {
    let (wide, high) = (w * ZOOM, h * ZOOM);
    let mut c = Canvas::new(wide, HEAT + high + GAP + MEMORY + WORK + BELOW);
    c.fill((0, wide), (0, HEAT), heat(shown.frame.heat()));
    let (top, bar) = (HEAT, HEAT + high + GAP);
    for y in 0..h {
        for x in 0..w {
            let pixel = match &shown.made {
                Ok(Made { image, .. }) => {
                    let (y, x) = (y * image.height / h, x * image.width / w);
                    image.rgb[(y * image.width + x) * 3..][..3].try_into().unwrap_or([0; 3])
                }
                Err(_) => [if (x / 8 + y / 8) % 2 == 0 { 225 } else { 205 }; 3],
            };
            let at = |i: usize, from: usize| (from + i * ZOOM, from + (i + 1) * ZOOM);
            c.fill(at(x, 0), at(y, top), pixel);
        }
    }
    // The arena; of it what the budget allows; of that what was used.
    let part = |n: usize| (n.min(arena) as u64 * wide as u64 / arena.max(1) as u64) as usize;
    c.fill((0, wide), (bar, bar + MEMORY), [90; 3]);
    c.fill((0, part(shown.budget)), (bar, bar + MEMORY), [215; 3]);
    if let Ok(m) = &shown.made {
        let colour = colour(m.tier.index).1;
        c.fill((0, part(m.used)), (bar, bar + MEMORY), colour);
        let share = |macs: u64| (macs.min(work) * wide as u64 / work.max(1)) as usize;
        let rows = (bar + MEMORY + 1, bar + MEMORY + WORK);
        c.fill((0, share(m.macs)), rows, colour);
        if let Some((_, done, low)) = &m.hotter {
            // From here on it was hotter; what was done in another tier has the colour of that one.
            c.fill((share(*done), wide), (0, HEAT), heat(then));
            if let Some(tier) = low {
                c.fill((share(*done), share(m.macs)), rows, self::colour(tier.index).1);
            }
        }
    }
    c.0
}

/// All frames, six to a row.
pub(crate) fn sheet(all: &[Shown], arena: usize, work: u64) -> Image {
    let first = all.iter().find_map(|s| s.made.as_ref().ok());
    let size = first.map_or((8, 8), |m| (m.image.height, m.image.width));
    let then = |i: usize| all.get(i + 1).unwrap_or(&all[i]).frame.heat();
    let cells = all.iter().enumerate().map(|(i, s)| cell(s, then(i), size, arena, work));
    let cells: Vec<Image> = cells.collect();
    Image::sheet(&cells, 6, 1)
}
