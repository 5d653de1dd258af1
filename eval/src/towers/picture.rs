//! From an image file to what a tower reads: the size that its kind wants, resampled as Pillow does it, and normalized.

use std::io::Cursor;
use std::path::Path;

use gguf::{Error, Metadata, Result, Value};
use image::{ImageReader, Limits};
use serde_json::Value as Json;

use super::Pixels;

/// The longest side of an image.
const LONGEST: u32 = 1 << 15;

/// The largest image file.
const MOST_BYTES: u64 = 1 << 28;

/// An image of three colours.
#[derive(Clone, Debug)]
pub struct Picture {
    height: usize,
    width: usize,
    /// Row by row, three bytes a pixel.
    values: Vec<u8>,
}

/// Which size an image becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sizing {
    /// The tower's, whatever the image's form.
    Square,
    /// The shorter side becomes the tower's, and the middle is cut out.
    Crop,
    /// The longer side becomes the tower's, and grey fills the rest.
    Padded,
    /// Whole merged patches, in all from so many pixels to so many.
    Between { least: u64, most: u64, frames: u64 },
    /// From so many merged patches to so many, which the processor counts under these names.
    Tokens { least: u64, most: u64 },
    /// The longer side at most the tower's, then whole merged patches.
    Longest,
    /// As many merged patches as fit into this number.
    Budget(u64),
}

/// How pixels between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Bilinear,
    Bicubic,
    Lanczos,
}

/// How a kind of tower has its images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) sizing: Sizing,
    pub(super) filter: Filter,
}

/// What is known of the processing of images: from a folder's processor configuration, or from a projector file's keys.
#[derive(Clone, Debug)]
pub struct Processor {
    mean: [f32; 3],
    std: [f32; 3],
    rescale: f32,
    /// What the folder says; nothing of a projector file.
    says: Option<(String, Json)>,
    image_size: Option<u64>,
}

/// The patches of a tower.
pub(super) struct Grain {
    pub(super) patch: usize,
    pub(super) merge: usize,
}

impl Processor {
    /// The processing of a projector file: its keys.
    ///
    /// # Errors
    /// Means or deviations that are missing, or none.
    pub fn of_file(metadata: &Metadata) -> Result<Processor> {
        let numbers = |name: &str| -> Result<[f32; 3]> {
            let key = format!("clip.vision.{name}");
            let list = match metadata.get(&key) {
                Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_f64()).map(|v| v as f32).collect(),
                _ => Vec::new(),
            };
            three(&list).ok_or_else(|| Error::input(format!("{key} is not three numbers")))
        };
        Ok(Processor {
            mean: numbers("image_mean")?,
            std: deviations(numbers("image_std")?, "clip.vision.image_std")?,
            rescale: 1.0 / 255.0,
            says: None,
            image_size: metadata.u64("clip.vision.image_size"),
        })
    }

    /// The processing of a folder: its processor configuration over what its projector file would say.
    ///
    /// # Errors
    /// A configuration that is missing, no JSON, or without means and deviations.
    pub fn of_folder(folder: &Path, metadata: &Metadata) -> Result<Processor> {
        let mut own = None;
        for (name, inner) in [("preprocessor_config.json", ""), ("processor_config.json", "image_processor")] {
            let path = folder.join(name);
            let Some(read) = convert::json::read_optional(&path)? else { continue };
            let found = if inner.is_empty() { Some(read) } else { read.get(inner).cloned() };
            match found {
                Some(Json::Object(map)) => own = Some((name.to_owned(), Json::Object(map))),
                Some(_) => return Err(Error::input("is not a JSON object").at(path)),
                None => {}
            }
        }
        let (name, says) = own.ok_or_else(|| {
            Error::input("the folder has no preprocessor_config.json, which says how images are processed").at(folder)
        })?;
        let base = Processor::of_file(metadata)?;
        let numbers = |key: &str, usual: [f32; 3]| -> Result<[f32; 3]> {
            let Some(list) = says.get(key).filter(|v| !v.is_null()) else { return Ok(usual) };
            let list: Vec<f32> =
                list.as_array().into_iter().flatten().filter_map(Json::as_f64).map(|v| v as f32).collect();
            three(&list).ok_or_else(|| Error::input(format!("{name}: {key} is not three numbers")))
        };
        let flag = |key: &str| says.get(key).and_then(Json::as_bool).unwrap_or(true);
        let (mean, std) = match flag("do_normalize") {
            true => (numbers("image_mean", base.mean)?, numbers("image_std", base.std)?),
            false => ([0.0; 3], [1.0; 3]),
        };
        let rescale = says.get("rescale_factor").and_then(Json::as_f64).map_or(base.rescale, |v| v as f32);
        Ok(Processor {
            mean,
            std: deviations(std, &format!("{name}: image_std"))?,
            rescale: if flag("do_rescale") { rescale } else { 1.0 },
            says: Some((name, says)),
            image_size: base.image_size,
        })
    }

    fn number(&self, path: &[&str]) -> Option<u64> {
        let (_, says) = self.says.as_ref()?;
        path.iter().try_fold(says, |value, key| value.get(*key))?.as_u64()
    }

    fn filter(&self, usual: Filter) -> Filter {
        match self.number(&["resample"]) {
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            _ => usual,
        }
    }

    /// A size by the first of these names that the configuration has; a projector file has its own.
    fn size(&self, names: &[&[&str]]) -> Result<usize> {
        let stated = names.iter().find_map(|path| self.number(path));
        let size = match (&self.says, stated) {
            (_, Some(size)) => size,
            (None, None) => {
                self.image_size.ok_or_else(|| Error::input("the projector file has no clip.vision.image_size"))?
            }
            (Some((file, _)), None) => {
                let own = self.image_size.map_or(String::new(), |n| format!("; the tower's own is {n}"));
                return Err(Error::input(format!("{file} does not say to which size images are brought"))
                    .help(format!("it has no size{own}")));
            }
        };
        match usize::try_from(size) {
            Ok(size) if (1..=LONGEST as usize).contains(&size) => Ok(size),
            _ => Err(Error::input(format!("a size of {size} pixels is none"))),
        }
    }
}

fn three(list: &[f32]) -> Option<[f32; 3]> {
    list.get(..3)?.try_into().ok()
}

fn deviations(std: [f32; 3], place: &str) -> Result<[f32; 3]> {
    match std.iter().all(|v| *v > 0.0 && v.is_finite()) {
        true => Ok(std),
        false => Err(Error::input(format!("{place} is {std:?}: deviations are above 0"))),
    }
}

impl Picture {
    /// A PNG or JPEG file, whose pixels take at most so many bytes while they are read.
    ///
    /// # Errors
    /// A file that is none, damaged or too large.
    pub fn open(path: &Path, memory: u64) -> Result<Picture> {
        let fault = |e| Error::io(path, "read the image", e);
        let bytes = convert::json::read_at_most(path, MOST_BYTES)?;
        let wrong = |e: image::ImageError| {
            Error::input(format!("is no image that can be read: {e}")).at(path).help("give a PNG or JPEG file")
        };
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(fault)?;
        if reader.format().is_none() {
            return Err(Error::input("is no image").at(path).help("give a PNG or JPEG file"));
        }
        let mut limits = Limits::default();
        limits.max_image_width = Some(LONGEST);
        limits.max_image_height = Some(LONGEST);
        limits.max_alloc = Some(memory);
        reader.limits(limits);
        let image = reader.decode().map_err(wrong)?.into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(Error::input("is an image without pixels").at(path));
        }
        Ok(Picture { height, width, values: image.into_raw() })
    }

    /// What a tower reads of it.
    pub(super) fn pixels(&self, processor: &Processor, look: Look, grain: &Grain) -> Result<Pixels> {
        let filter = processor.filter(look.filter);
        let unit = grain.patch * grain.merge;
        let (h, w) = (self.height as f64, self.width as f64);
        // The processor of Idefics names what the whole image becomes apart from what its parts are cut from.
        let square: &[&[&str]] =
            &[&["max_image_size", "longest_edge"], &["size", "height"], &["size", "shortest_edge"], &["size"]];
        let ready = match look.sizing {
            Sizing::Square => {
                let side = processor.size(square)?;
                self.resized(side, side, filter)
            }
            Sizing::Crop => {
                let side = processor.size(&[&["size", "shortest_edge"], &["size", "height"], &["size"]])?;
                let longer = |a: f64, b: f64| ((side as f64 * a / b) as usize).max(1);
                let (height, width) = if h < w { (side, longer(w, h)) } else { (longer(h, w), side) };
                let cut = processor.size(&[
                    &["crop_size", "height"],
                    &["crop_size"],
                    &["size", "shortest_edge"],
                    &["size", "height"],
                    &["size"],
                ])?;
                self.resized(height, width, filter).middle(cut)
            }
            Sizing::Padded => {
                let side = processor.size(square)?;
                let scale = side as f64 / h.max(w);
                let of = |n: f64| ((n * scale) as usize).clamp(14.min(side), side);
                self.resized(of(h), of(w), filter).padded(side)
            }
            Sizing::Between { least, most, frames } => {
                let either =
                    |name: &str, edge: &str| processor.number(&[name]).or_else(|| processor.number(&["size", edge]));
                let least = either("min_pixels", "shortest_edge").unwrap_or(least);
                let most = either("max_pixels", "longest_edge").unwrap_or(most);
                let (height, width) = between((h, w), unit, (least, most), frames)?;
                self.resized(height, width, filter)
            }
            Sizing::Tokens { least, most } => {
                let area = (unit * unit) as u64;
                let tokens = |name: &str, usual: u64| processor.number(&[name]).unwrap_or(usual).saturating_mul(area);
                let bounds = (tokens("min_image_tokens", least), tokens("max_image_tokens", most));
                let (height, width) = between((h, w), unit, bounds, 1)?;
                self.resized(height, width, filter)
            }
            Sizing::Longest => {
                let longest = processor.size(&[&["size", "longest_edge"], &["size"]])? as f64;
                let ratio = (h.max(w) / longest).max(1.0);
                let of = |n: f64| ((n / ratio).floor() as usize).max(1).div_ceil(unit) * unit;
                self.resized(of(h), of(w), filter)
            }
            Sizing::Budget(tokens) => {
                let tokens = processor.number(&["max_soft_tokens"]).unwrap_or(tokens).clamp(1, 1 << 20) as f64;
                let factor = (tokens * (unit * unit) as f64 / (h * w)).sqrt();
                let of = |n: f64| (factor * n / unit as f64).floor() as usize * unit;
                let most = tokens as usize * unit;
                let (height, width) = match (of(h), of(w)) {
                    (0, 0) => return Err(Error::input("the image has no room for a single patch")),
                    (0, _) => (unit, ((w / h).floor() as usize * unit).min(most)),
                    (_, 0) => (((h / w).floor() as usize * unit).min(most), unit),
                    both => both,
                };
                self.resized(height, width, filter)
            }
        };
        ready.normalized(processor)
    }

    fn normalized(&self, processor: &Processor) -> Result<Pixels> {
        let area = self.height * self.width;
        let mut values = vec![0.0; 3 * area];
        for (i, pixel) in self.values.chunks_exact(3).enumerate() {
            for (c, v) in pixel.iter().enumerate() {
                values[c * area + i] = (f32::from(*v) * processor.rescale - processor.mean[c]) / processor.std[c];
            }
        }
        Pixels::new(values, &[3, self.height, self.width], None)
    }

    /// The middle square; black where the image is smaller.
    fn middle(&self, side: usize) -> Picture {
        let from = |n: usize| (n as i64 - side as i64).div_euclid(2);
        let (top, left) = (from(self.height), from(self.width));
        self.placed(side, [0; 3], |y, x| (y as i64 + top, x as i64 + left))
    }

    /// In the middle of a grey square.
    fn padded(&self, side: usize) -> Picture {
        let (top, left) = ((side - self.height) / 2, (side - self.width) / 2);
        self.placed(side, [127; 3], |y, x| (y as i64 - top as i64, x as i64 - left as i64))
    }

    fn placed(&self, side: usize, ground: [u8; 3], from: impl Fn(usize, usize) -> (i64, i64)) -> Picture {
        let mut values = Vec::with_capacity(side * side * 3);
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let (y, x) = from(y, x);
            let inside = (0..self.height as i64).contains(&y) && (0..self.width as i64).contains(&x);
            let at = |y: i64, x: i64| (y as usize * self.width + x as usize) * 3;
            values.extend_from_slice(if inside { &self.values[at(y, x)..][..3] } else { &ground });
        }
        Picture { height: side, width: side, values }
    }

    /// Resampled to another size, one axis after the other, each rounded to whole values.
    fn resized(&self, height: usize, width: usize, filter: Filter) -> Picture {
        let mut now = self.clone();
        if width != now.width {
            let shares = filter.shares(now.width, width);
            let mut values = Vec::with_capacity(now.height * width * 3);
            for row in now.values.chunks_exact(now.width * 3) {
                for (first, share) in &shares {
                    values.extend(mixed(share, |i, c| row[(first + i) * 3 + c]));
                }
            }
            now = Picture { width, values, ..now };
        }
        if height != now.height {
            let shares = filter.shares(now.height, height);
            let mut values = Vec::with_capacity(height * width * 3);
            for (first, share) in &shares {
                for x in 0..width {
                    values.extend(mixed(share, |i, c| now.values[((first + i) * width + x) * 3 + c]));
                }
            }
            now = Picture { height, values, ..now };
        }
        now
    }
}

/// Bits behind the point of a share.
const POINT: u32 = 22;

fn mixed(shares: &[i64], value: impl Fn(usize, usize) -> u8) -> [u8; 3] {
    [0, 1, 2].map(|c| {
        let sum: i64 = shares.iter().enumerate().map(|(i, share)| share * i64::from(value(i, c))).sum();
        ((sum + (1 << (POINT - 1))) >> POINT).clamp(0, 255) as u8
    })
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }

    /// For each place along a side, the first of the places it is made of and their shares.
    fn shares(self, from: usize, to: usize) -> Vec<(usize, Vec<i64>)> {
        let scale = from as f64 / to as f64;
        let wide = scale.max(1.0);
        let support = self.support() * wide;
        (0..to)
            .map(|i| {
                let center = (i as f64 + 0.5) * scale;
                let first = ((center - support + 0.5) as i64).max(0) as usize;
                let end = ((center + support + 0.5) as usize).min(from);
                let shares: Vec<f64> = (first..end).map(|j| self.at((j as f64 - center + 0.5) / wide)).collect();
                let sum: f64 = shares.iter().sum();
                let whole = |share: f64| (share / sum * f64::from(1 << POINT)).round() as i64;
                (first, shares.into_iter().map(whole).collect())
            })
            .collect()
    }
}

/// Sides that are multiples of `unit` with from so many pixels to so many, near the form of the image; pixels of several
/// frames count together.
fn between((h, w): (f64, f64), unit: usize, (least, most): (u64, u64), frames: u64) -> Result<(usize, usize)> {
    let (unit, frames) = (unit as f64, frames as f64);
    let (least, most) = (least as f64, most as f64);
    // With frames, small images are enlarged first.
    let grow = if frames > 1.0 && (h < unit || w < unit) { (unit / h).max(unit / w) } else { 1.0 };
    let (h, w) = if grow == 1.0 { (h, w) } else { ((h * grow).floor(), (w * grow).floor()) };
    if h.max(w) / h.min(w) > 200.0 {
        return Err(Error::input(format!("an image of {h} × {w} is more than 200 times as long as wide")));
    }
    let near = |n: f64| (n / unit).round_ties_even() * unit;
    let (mut height, mut width) = (near(h), near(w));
    if frames * height * width > most {
        let beta = (frames * h * w / most).sqrt();
        let down = |n: f64| unit.max((n / beta / unit).floor() * unit);
        (height, width) = (down(h), down(w));
    } else if frames * height * width < least {
        let beta = (least / (frames * h * w)).sqrt();
        let up = |n: f64| (n * beta / unit).ceil() * unit;
        (height, width) = (up(h), up(w));
    }
    let most_side = f64::from(LONGEST);
    if !(height >= unit && width >= unit && height <= most_side && width <= most_side) {
        return Err(Error::input(format!("an image of {h} × {w} pixels would become {height} × {width}")));
    }
    Ok((height as usize, width as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> Picture {
        let values = (0..height * width * 3).map(|i| ((i * 89 + i / 7 * 31) % 256) as u8).collect();
        Picture { height, width, values }
    }

    #[test]
    fn sizes_are_those_of_the_processors() {
        assert_eq!(between((480.0, 640.0), 28, (3136, 12_845_056), 1).unwrap(), (476, 644));
        assert_eq!(between((10.0, 10.0), 28, (3136, 12_845_056), 1).unwrap(), (56, 56));
        assert_eq!(between((4000.0, 6000.0), 28, (3136, 1_003_520), 1).unwrap(), (812, 1204));
        assert!(between((1.0, 1000.0), 28, (3136, 12_845_056), 1).is_err());
    }

    #[test]
    fn equal_colours_stay_and_sizes_are_kept() {
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let flat = Picture { height: 5, width: 7, values: vec![93; 105] };
            let made = flat.resized(16, 3, filter);
            assert_eq!((made.height, made.width, made.values.len()), (16, 3, 144));
            assert!(made.values.iter().all(|v| *v == 93));
        }
        let same = ramp(6, 9);
        assert_eq!(same.resized(6, 9, Filter::Bicubic).values, same.values);
    }

    #[test]
    fn what_is_smaller_than_its_square_is_filled_up() {
        let image = ramp(2, 4);
        let made = image.padded(4);
        assert_eq!(made.values[..3], [127; 3]);
        assert_eq!(made.values[12..15], image.values[..3]);
        assert_eq!(image.middle(2).values[..3], image.values[3..6]);
    }
}
