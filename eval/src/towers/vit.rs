//! Transformers over patches of an image.

use std::f32::consts::PI;
use std::ops::Range;

use gguf::arch::NormKind;
use gguf::{Error, Result, Value};
use rayon::prelude::*;

use super::grid::{Pixels, Resize};
use super::picture::{Filter, Grain, Look, Picture, Processor, Sizing};
use super::{Act, Image, Tower, normed};
use crate::layers::{Part, add, attention::attend_spans, norm::normalize};
use crate::matmul::{Order, product};
use crate::numeric;
use crate::weights::Matrix;

/// The form of a tower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vit {
    /// Whether norms divide by the root mean square alone.
    pub(super) rms: bool,
    /// Which form of GELU its models have.
    pub(super) gelu: Act,
    /// Its models have that one whatever the keys say.
    pub(super) always: bool,
    /// Where the token that stands for the whole image is, if there is one.
    pub(super) class: Class,
    /// How learned positions fit other grids.
    pub(super) positions: Resize,
    /// Positions are the sum of a table for each axis (Gemma 4).
    pub(super) axes: bool,
    /// How queries and keys are rotated.
    pub(super) rotation: Option<Rotation>,
    /// Patches that are merged follow each other.
    pub(super) blocks: bool,
    /// The colours of a flattened patch come last.
    pub(super) channels_last: bool,
    /// Pixels are from 0 to 1 and become −1 to 1.
    pub(super) centred: bool,
    /// Most layers attend within windows.
    pub(super) windows: bool,
    /// Scores of attention are not scaled, and values are normalized (Gemma 4).
    pub(super) plain: bool,
    /// The norm before the feed-forward part.
    pub(super) second: &'static str,
    /// The key of how many patches are merged along a side, and what holds without it.
    pub(super) merge: (&'static str, usize),
    /// What becomes of an image before the tower reads it.
    pub(super) look: Look,
}

/// Where the class token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    None,
    First,
    Last,
}

/// A rotation by the places along two axes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// Which dimensions are rotated together.
    pub(super) pairs: Pairs,
    /// The first half of the angles is that of the column.
    pub(super) column_first: bool,
    /// The halves take every other frequency.
    pub(super) alternating: bool,
    /// What is added to a place.
    pub(super) offset: usize,
    /// The base.
    pub(super) base: f32,
}

/// Dimensions that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Those of the halves of a head.
    Halves,
    /// Neighbours.
    Neighbours,
    /// Those of the halves of each half.
    Quarters,
}

const AXES: Rotation =
    Rotation { pairs: Pairs::Halves, column_first: false, alternating: false, offset: 0, base: 10_000.0 };

pub(super) const SIGLIP: Vit = Vit {
    rms: false,
    gelu: Act::GeluTanh,
    always: false,
    class: Class::None,
    positions: Resize::Fixed,
    axes: false,
    rotation: None,
    blocks: false,
    channels_last: false,
    centred: false,
    windows: false,
    plain: false,
    second: "ln2",
    merge: ("projector.scale_factor", 1),
    look: Look { sizing: Sizing::Square, filter: Filter::Bicubic },
};

pub(super) const CLIP: Vit = Vit {
    gelu: Act::Gelu,
    class: Class::First,
    look: Look { sizing: Sizing::Crop, filter: Filter::Bicubic },
    ..SIGLIP
};

pub(super) const INTERN: Vit = Vit { gelu: Act::Gelu, class: Class::First, ..SIGLIP };

pub(super) const LLAMA4: Vit = Vit {
    gelu: Act::Gelu,
    class: Class::Last,
    rotation: Some(Rotation { pairs: Pairs::Neighbours, column_first: true, offset: 1, ..AXES }),
    second: "attn_post_norm",
    look: Look { sizing: Sizing::Square, filter: Filter::Bilinear },
    ..SIGLIP
};

pub(super) const PIXTRAL: Vit = Vit {
    rms: true,
    gelu: Act::Gelu,
    rotation: Some(Rotation { pairs: Pairs::Neighbours, alternating: true, ..AXES }),
    merge: ("spatial_merge_size", 1),
    look: Look { sizing: Sizing::Longest, filter: Filter::Bicubic },
    ..SIGLIP
};

pub(super) const GEMMA4: Vit = Vit {
    rms: true,
    always: true,
    axes: true,
    rotation: Some(Rotation { pairs: Pairs::Quarters, column_first: true, base: 100.0, ..AXES }),
    channels_last: true,
    centred: true,
    plain: true,
    merge: ("projector.scale_factor", 3),
    look: Look { sizing: Sizing::Budget(280), filter: Filter::Bicubic },
    ..SIGLIP
};

pub(super) const QWEN2: Vit = Vit {
    gelu: Act::Gelu,
    rotation: Some(AXES),
    blocks: true,
    merge: ("spatial_merge_size", 2),
    look: Look { sizing: Sizing::Between { least: 56 * 56, most: 28 * 28 * 1280, frames: 1 }, filter: Filter::Bicubic },
    ..SIGLIP
};

pub(super) const QWEN25: Vit = Vit { rms: true, windows: true, ..QWEN2 };

pub(super) const EXAONE: Vit = QWEN25;

pub(super) const QWEN3: Vit = Vit { gelu: Act::GeluTanh, positions: Resize::Corners, ..QWEN2 };

pub(super) const PADDLE: Vit = Vit {
    positions: Resize::Linear,
    rotation: Some(AXES),
    merge: ("projector.scale_factor", 2),
    look: Look {
        sizing: Sizing::Between { least: 384 * 384, most: 28 * 28 * 3600, frames: 1 },
        filter: Filter::Bicubic,
    },
    ..SIGLIP
};

pub(super) const GLM4: Vit = Vit {
    rms: true,
    positions: Resize::Cubic,
    look: Look {
        sizing: Sizing::Between { least: 112 * 112, most: 28 * 28 * 15_000, frames: 2 },
        filter: Filter::Bicubic,
    },
    ..QWEN2
};

/// Pixels along a side of a window where the file does not say: what Qwen2.5-VL was trained with.
const WINDOW: usize = 112;

/// Patches in the order of the tokens, `[patches, 3 · side · side]` for each frame.
struct Patches {
    image: Image,
    frames: Vec<Vec<f32>>,
    note: Option<String>,
}

/// What all layers share.
struct Layers<'t> {
    tower: &'t Tower<'t>,
    norm: NormKind,
    act: Act,
    heads: usize,
    kv_heads: usize,
    len: usize,
    width: usize,
    turns: Option<Turns>,
}

/// Cosines and sines of each token, and the dimensions that they turn.
struct Turns {
    pairs: Pairs,
    half: usize,
    angles: Vec<(f32, f32)>,
}

impl Vit {
    /// The states behind the last layer and its norm, without the class token, in the order of the tokens.
    pub(super) fn run(&self, tower: &Tower<'_>, pixels: &Pixels) -> Result<(Image, Vec<f32>, Vec<String>)> {
        let (merge, guessed) = self.merge(tower, pixels)?;
        let Patches { image, frames, note } = self.patches(tower, pixels, merge)?;
        let width = tower.width()?;
        let heads = tower.need("attention.head_count")?;
        let len = tower.number("attention.head_dim").filter(|n| *n > 0).unwrap_or(width / heads);
        let kv_heads = tower.number("attention.head_count_kv").filter(|n| *n > 0).unwrap_or(heads);
        if len == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::input(format!("{heads} heads of {len} with {kv_heads} for keys are none")));
        }
        let norm = self.norm(tower);
        let count = image.places.len();
        // States and their norm; queries, keys and values with what they were cut from, or with what attention makes.
        let (wide, all) = (heads * len, (heads + 2 * kv_heads) * len);
        tower.check_held(count + 1, 2 * width + (2 * all).max(all + 2 * wide))?;
        let mut x = self.embedded(tower, &image, &frames)?;
        drop(frames);
        let order = if self.windows { windows(tower, &image)? } else { None };
        let mut places = image.places.clone();
        if let Some((order, _)) = &order {
            x = gathered(&x, order, width);
            places = order.iter().map(|i| image.places[*i]).collect();
        }
        let turns = self.rotation.map(|rotation| self.turns(tower, rotation, &places, len)).transpose()?;
        let act = if self.always { self.gelu } else { tower.activation(self.gelu) };
        let layers = Layers { tower, norm, act, heads, kv_heads, len, width, turns };
        let tokens = x.len() / width;
        let period = tower.number("n_wa_pattern").unwrap_or(0);
        for layer in 0..tower.need("block_count")? {
            let all = 0..tokens;
            let spans = match &order {
                Some((_, spans)) if period > 0 && (layer + 1) % period != 0 => &spans[..],
                _ => std::slice::from_ref(&all),
            };
            layers.run(self, layer, &mut x, spans)?;
        }
        let ends = tower.ends(&["v.post_ln.weight", "v.post_ln.bias"])?;
        if ends.has("v.post_ln.weight") {
            x = normed(&ends, norm, "v.post_ln", x, width)?;
        }
        match self.class {
            Class::None => {}
            Class::First => drop(x.drain(..width)),
            Class::Last => x.truncate(count * width),
        }
        if let Some((order, _)) = &order {
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(i, from)| back[*from] = i);
            x = gathered(&x, &back, width);
        }
        Ok((image, x, [guessed, note, deep(tower)].into_iter().flatten().collect()))
    }

    /// What the tower reads of an image.
    pub(super) fn pixels(&self, tower: &Tower<'_>, picture: &Picture, processor: &Processor) -> Result<Pixels> {
        let merge = tower.number(self.merge.0).unwrap_or(self.merge.1).max(1);
        picture.pixels(processor, self.look, &Grain { patch: tower.need("patch_size")?, merge })
    }

    /// How many patches are merged along a side. Where the file does not say and the usual number does not fit the
    /// image, the least that does.
    fn merge(&self, tower: &Tower<'_>, pixels: &Pixels) -> Result<(usize, Option<String>)> {
        let (key, usual) = self.merge;
        if let Some(stated) = tower.number(key).filter(|n| *n > 0) {
            return Ok((stated, None));
        }
        if usual <= 2 || pixels.image().is_some() {
            return Ok((usual, None));
        }
        let (count, _) = pixels.matrix()?;
        let fits =
            |n: &usize| pixels.grid(count, *n).is_ok_and(|((h, w), _)| h.is_multiple_of(*n) && w.is_multiple_of(*n));
        let found = [usual].into_iter().chain(2..=8).find(fits).unwrap_or(usual);
        let note = || format!("the file does not say how many patches are merged; {found} × {found} fit the image");
        Ok((found, (found != usual).then(note)))
    }

    fn norm(&self, tower: &Tower<'_>) -> NormKind {
        // The large tower of InternVL has other norms than the small one.
        let large = tower.kind.name == "internvl" && tower.number("embedding_length") == Some(3200);
        if self.rms || large { NormKind::Rms(tower.epsilon()) } else { NormKind::Layer(tower.epsilon()) }
    }

    fn patches(&self, tower: &Tower<'_>, pixels: &Pixels, merge: usize) -> Result<Patches> {
        let side = tower.need("patch_size")?;
        let area = side * side;
        let whole = 3 * area;
        let step = if self.blocks { merge } else { 1 };
        if let Some((channels, height, width)) = pixels.image() {
            if channels != 3 {
                return Err(Error::input(format!("an image of {channels} channels is not one of three")));
            }
            if !height.is_multiple_of(side * merge) || !width.is_multiple_of(side * merge) {
                return Err(Error::input(format!(
                    "an image of {height} × {width} pixels is not a whole number of patches of {side} × {side}{}",
                    if merge > 1 { format!(", of which {merge} × {merge} are merged") } else { String::new() }
                )));
            }
            let image = Image::new(height / side, width / side, merge, step);
            let values = pixels.values();
            let mut frame = Vec::with_capacity(values.len());
            for (y, x) in &image.places {
                for row in (0..3).flat_map(|c| (0..side).map(move |dy| (c * height + y * side + dy) * width)) {
                    frame.extend_from_slice(&values[row + x * side..][..side]);
                }
            }
            return Ok(Patches { image, frames: vec![frame], note: None });
        }
        let (count, len) = pixels.matrix()?;
        let frames = match len {
            _ if len == whole => 1,
            _ if len == 2 * whole => 2,
            _ => {
                return Err(Error::input(format!(
                    "patches of {len} values are not of {side} × {side} pixels of three channels"
                )));
            }
        };
        let ((height, width), note) = pixels.grid(count, merge)?;
        if !height.is_multiple_of(merge) || !width.is_multiple_of(merge) {
            return Err(Error::input(format!("{height} × {width} patches cannot be merged {merge} × {merge}")));
        }
        let image = Image::new(height, width, merge, step);
        let frame = |t: usize| -> Vec<f32> {
            let take = |patch: &[f32]| -> Vec<f32> {
                (0..whole)
                    .map(|i| match (self.channels_last, i / area, i % area) {
                        (true, c, pixel) => patch[(t * area + pixel) * 3 + c],
                        (false, c, pixel) => patch[(c * frames + t) * area + pixel],
                    })
                    .collect()
            };
            pixels.values().chunks(len).flat_map(take).collect()
        };
        Ok(Patches { image, frames: (0..frames).map(frame).collect(), note })
    }

    /// Patches with their positions, and the class token.
    fn embedded(&self, tower: &Tower<'_>, image: &Image, frames: &[Vec<f32>]) -> Result<Vec<f32>> {
        let width = tower.width()?;
        let part = tower.ends(&[
            "v.patch_embd.weight",
            "v.patch_embd.weight.1",
            "v.patch_embd.bias",
            "v.class_embd",
            "v.position_embd.weight",
            "v.norm_embd.weight",
            "v.norm_embd.bias",
            "v.pre_ln.weight",
            "v.pre_ln.bias",
        ])?;
        let count = image.places.len();
        let columns = frames[0].len() / count;
        let mut x = vec![0.0; count * width];
        let names = ["v.patch_embd.weight", "v.patch_embd.weight.1"];
        for (i, name) in names.into_iter().enumerate().filter(|(i, name)| *i == 0 || part.has(name)) {
            let weight = Matrix::from_f32(name, part.values_of(name, width * columns)?, columns);
            // A single image is its own second frame.
            let frame = frames.get(i).unwrap_or(&frames[0]);
            let y = match self.centred {
                true => {
                    product(&frame.iter().map(|v| 2.0 * v - 1.0).collect::<Vec<_>>(), &weight, 0..width, Order::Fixed)?
                }
                false => product(frame, &weight, 0..width, Order::Fixed)?,
            };
            add(&mut x, &y);
        }
        if part.has("v.patch_embd.bias") {
            let bias = part.values_of("v.patch_embd.bias", width)?;
            x.par_chunks_mut(width).for_each(|row| numeric::add_scaled(row, &bias, 1.0));
        }
        let norm = self.norm(tower);
        if part.has("v.norm_embd.weight") {
            x = normed(&part, norm, "v.norm_embd", x, width)?;
        }
        let table = part.values("v.position_embd.weight")?;
        let mut class = match self.class {
            Class::None => None,
            _ => Some(part.values_of("v.class_embd", width)?),
        };
        if let Some(table) = table {
            let extra = usize::from(class.is_some());
            let rows = table.len() / width;
            if self.axes {
                add_axes(&table, image, width, &mut x)?;
            } else {
                let side = rows.saturating_sub(extra).isqrt();
                if side == 0 || (side * side + extra) * width != table.len() {
                    return Err(Error::input(format!("v.position_embd.weight of {rows} positions is no square grid")));
                }
                let start = if self.class == Class::First { width } else { 0 };
                let own = &table[start..][..side * side * width];
                let grid = self.positions.positions(own, side, width, (image.height, image.width))?;
                for ((y, at), row) in image.places.iter().zip(x.chunks_mut(width)) {
                    numeric::add_scaled(row, &grid[(y * image.width + at) * width..][..width], 1.0);
                }
                if let Some(class) = &mut class {
                    let at = if self.class == Class::First { 0 } else { side * side * width };
                    numeric::add_scaled(class, &table[at..][..width], 1.0);
                }
            }
        }
        match (self.class, class) {
            (Class::First, Some(class)) => drop(x.splice(..0, class)),
            (_, Some(class)) => x.extend(class),
            _ => {}
        }
        if part.has("v.pre_ln.weight") {
            x = normed(&part, norm, "v.pre_ln", x, width)?;
        }
        Ok(x)
    }

    fn turns(&self, tower: &Tower<'_>, rotation: Rotation, places: &[(usize, usize)], len: usize) -> Result<Turns> {
        if !len.is_multiple_of(4) {
            return Err(Error::input(format!("heads of {len} dimensions cannot be rotated along two axes")));
        }
        let stated = tower.metadata.f64("clip.rope.freq_base").map(|base| base as f32);
        let beyond = tower.value("rope.freq_base").and_then(Value::as_f64).map(|base| base as f32);
        let base = stated.or(beyond).filter(|base| *base > 0.0).unwrap_or(rotation.base);
        let (half, quarter) = (len / 2, len / 4);
        let exponent = |j: usize| {
            let own = j % quarter;
            match rotation.alternating {
                true => (4 * own + 2 * (j / quarter)) as f32 / len as f32,
                false => 2.0 * own as f32 / half as f32,
            }
        };
        let frequencies: Vec<f32> = (0..half).map(|j| 1.0 / base.powf(exponent(j))).collect();
        let none = vec![(1.0, 0.0); half];
        let mut angles = Vec::with_capacity((places.len() + 1) * half);
        if self.class == Class::First {
            angles.extend_from_slice(&none);
        }
        for (y, x) in places {
            angles.extend(frequencies.iter().enumerate().map(|(j, f)| {
                let place = if (j < quarter) == rotation.column_first { x } else { y };
                let angle = ((place + rotation.offset) as f32 * f) % (2.0 * PI);
                (angle.cos(), angle.sin())
            }));
        }
        if self.class == Class::Last {
            angles.extend_from_slice(&none);
        }
        Ok(Turns { pairs: rotation.pairs, half, angles })
    }
}

/// Adds what a table has for the column and for the row of each place.
pub(super) fn add_axes(table: &[f32], image: &Image, width: usize, x: &mut [f32]) -> Result<()> {
    let side = table.len() / width / 2;
    if image.height.max(image.width) > side {
        return Err(Error::input(format!(
            "the tower has positions for {side} patches along a side, the image has {} × {}",
            image.height, image.width
        )));
    }
    for ((y, at), row) in image.places.iter().zip(x.chunks_mut(width)) {
        numeric::add_scaled(row, &table[at * width..][..width], 1.0);
        numeric::add_scaled(row, &table[(side + y) * width..][..width], 1.0);
    }
    Ok(())
}

impl Image {
    pub(super) fn new(height: usize, width: usize, merge: usize, step: usize) -> Image {
        let mut places = Vec::with_capacity(height * width);
        for y in (0..height).step_by(step) {
            for x in (0..width).step_by(step) {
                places.extend((0..step).flat_map(|dy| (0..step).map(move |dx| (y + dy, x + dx))));
            }
        }
        Image { height, width, places, merge }
    }
}

/// What is said of layers whose states enter the text model by themselves.
fn deep(tower: &Tower<'_>) -> Option<String> {
    let list = match tower.value("is_deepstack_layers")? {
        Value::Array(list) => list,
        _ => return None,
    };
    let count = list.iter().filter(|v| v.as_bool() == Some(true)).count();
    (count > 0)
        .then(|| format!("{count} layers also feed the text model's first layers directly; these vectors are left out"))
}

fn gathered(x: &[f32], order: &[usize], width: usize) -> Vec<f32> {
    order.iter().flat_map(|i| x[i * width..][..width].iter().copied()).collect()
}

/// Tokens window by window, and where each window is; nothing where one holds all.
type Windows = Option<(Vec<usize>, Vec<Range<usize>>)>;

fn windows(tower: &Tower<'_>, image: &Image) -> Result<Windows> {
    let pixels = tower.number("window_size").unwrap_or(WINDOW);
    let side = pixels / image.merge / tower.need("patch_size")?;
    let (height, width) = (image.height / image.merge, image.width / image.merge);
    if side == 0 {
        return Err(Error::input(format!("a window of {pixels} pixels is smaller than its patches")));
    }
    if tower.number("n_wa_pattern").unwrap_or(0) == 0 || (height <= side && width <= side) {
        return Ok(None);
    }
    let each = image.merge * image.merge;
    let (mut order, mut spans) = (Vec::with_capacity(image.places.len()), Vec::new());
    for top in (0..height).step_by(side) {
        for left in (0..width).step_by(side) {
            let start = order.len();
            for y in top..(top + side).min(height) {
                for x in left..(left + side).min(width) {
                    let unit = (y * width + x) * each;
                    order.extend(unit..unit + each);
                }
            }
            spans.push(start..order.len());
        }
    }
    Ok(Some((order, spans)))
}

/// A linear layer that keeps what enters and what leaves between bounds, where it has any.
pub(super) fn linear(part: &Part<'_>, name: &str, x: &[f32]) -> Result<Vec<f32>> {
    let bound = |which: &str| -> Result<Option<f32>> {
        Ok(part.values(&format!("{name}.{which}"))?.and_then(|v| v.first().copied()))
    };
    let clamped = |x: &[f32], (low, high): (Option<f32>, Option<f32>)| -> Vec<f32> {
        let (low, high) = (low.unwrap_or(f32::NEG_INFINITY), high.unwrap_or(f32::INFINITY));
        x.iter().map(|v| v.max(low).min(high)).collect()
    };
    let (into, out) = ((bound("input_min")?, bound("input_max")?), (bound("output_min")?, bound("output_max")?));
    let y = match into {
        (None, None) => part.linear(name, x)?,
        into => part.linear(name, &clamped(x, into))?,
    };
    Ok(if out == (None, None) { y } else { clamped(&y, out) })
}

impl Layers<'_> {
    fn run(&self, vit: &Vit, number: usize, x: &mut [f32], spans: &[Range<usize>]) -> Result<()> {
        let part = self.tower.part(&format!("v.blk.{number}."))?;
        let width = self.width;
        let tokens = x.len() / width;
        let h = normed(&part, self.norm, "ln1", x.to_vec(), width)?;
        let (mut q, mut k, mut v) = self.queries_keys_values(&part, &h, tokens)?;
        self.head_norm(&part, "attn_q_norm", &mut q, self.heads)?;
        self.head_norm(&part, "attn_k_norm", &mut k, self.kv_heads)?;
        if vit.plain {
            normalize(self.norm, &mut v, self.len, None, None);
        }
        if let Some(turns) = &self.turns {
            turns.turn(&mut q, self.heads);
            turns.turn(&mut k, self.kv_heads);
        }
        let scale = if vit.plain { 1.0 } else { 1.0 / (self.len as f32).sqrt() };
        let spans: Vec<_> = spans.iter().map(|span| (span.clone(), span.clone())).collect();
        let made = attend_spans((self.heads, self.kv_heads, self.len), scale, &q, &k, &v, &spans);
        drop((h, q, k, v));
        let mut made = linear(&part, "attn_out", &made)?;
        scaled(&part, "ls1.weight", &mut made, width)?;
        if vit.second != "attn_post_norm" && part.has("attn_post_norm.weight") {
            made = normed(&part, self.norm, "attn_post_norm", made, width)?;
        }
        join(x, &made)?;
        let h = normed(&part, self.norm, vit.second, x.to_vec(), width)?;
        let mut made = self.feed_forward(&part, &h)?;
        if part.has("ffn_post_norm.weight") {
            made = normed(&part, self.norm, "ffn_post_norm", made, width)?;
        }
        scaled(&part, "ls2.weight", &mut made, width)?;
        join(x, &made)?;
        scaled(&part, "out_scale.weight", x, width)?;
        part.release(self.tower.weights);
        Ok(())
    }

    fn queries_keys_values(&self, part: &Part<'_>, h: &[f32], tokens: usize) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        let (wide, narrow) = (self.heads * self.len, self.kv_heads * self.len);
        if !part.has("attn_qkv.weight") {
            let one = |name: &str, rows: usize| {
                let y = linear(part, name, h)?;
                if y.len() == tokens * rows { Ok(y) } else { Err(misfit(name, rows)) }
            };
            return Ok((one("attn_q", wide)?, one("attn_k", narrow)?, one("attn_v", narrow)?));
        }
        let all = wide + 2 * narrow;
        let y = linear(part, "attn_qkv", h)?;
        if y.len() != tokens * all {
            return Err(misfit("attn_qkv", all));
        }
        let columns = |from: usize, len: usize| y.chunks(all).flat_map(|row| row[from..from + len].to_vec()).collect();
        Ok((columns(0, wide), columns(wide, narrow), columns(wide + narrow, narrow)))
    }

    /// A norm of each head, or of all together.
    fn head_norm(&self, part: &Part<'_>, name: &str, x: &mut [f32], heads: usize) -> Result<()> {
        let Some(weight) = part.values(&format!("{name}.weight"))? else { return Ok(()) };
        let len = if weight.len() == self.len { self.len } else { heads * self.len };
        if weight.len() != len {
            return Err(misfit(name, len));
        }
        let bias = part.values(&format!("{name}.bias"))?;
        normalize(self.norm, x, len, Some(&weight), bias.as_deref());
        Ok(())
    }

    fn feed_forward(&self, part: &Part<'_>, h: &[f32]) -> Result<Vec<f32>> {
        // Old files name the projections the other way round.
        let swapped =
            part.need("ffn_up.weight")?.cols() != self.width && part.need("ffn_up.weight")?.rows() == self.width;
        let (up, down) = if swapped { ("ffn_down", "ffn_up") } else { ("ffn_up", "ffn_down") };
        let rows = part.need(&format!("{up}.weight"))?.rows();
        self.tower.by_groups(h, self.width, 3 * rows, |h| {
            let mut inner = linear(part, up, h)?;
            if part.has("ffn_gate.weight") {
                let mut gate = linear(part, "ffn_gate", h)?;
                if gate.len() != inner.len() {
                    return Err(misfit("ffn_gate", inner.len() / (h.len() / self.width)));
                }
                self.tower.bound(&mut gate, &mut inner)?;
                gate.par_chunks_mut(1 << 14).for_each(|gate| self.act.apply(gate));
                inner.iter_mut().zip(&gate).for_each(|(up, gate)| *up *= gate);
            } else {
                inner.par_chunks_mut(1 << 14).for_each(|inner| self.act.apply(inner));
            }
            linear(part, down, &inner)
        })
    }
}

fn misfit(name: &str, rows: usize) -> Error {
    Error::input(format!("tensor {name}.weight is not one of {rows} rows, as the keys say"))
}

/// Multiplies each row with a tensor's values, where it exists; one value serves all.
fn scaled(part: &Part<'_>, name: &str, x: &mut [f32], width: usize) -> Result<()> {
    match part.values(name)? {
        None => Ok(()),
        Some(one) if one.len() == 1 => {
            numeric::scale(x, one[0]);
            Ok(())
        }
        Some(all) if all.len() == width => {
            x.par_chunks_mut(width).for_each(|row| numeric::multiply(row, &all));
            Ok(())
        }
        Some(all) => Err(Error::input(format!("tensor {name} has {} values, not {width}", all.len()))),
    }
}

/// Adds what a part of a layer made.
pub(super) fn join(x: &mut [f32], made: &[f32]) -> Result<()> {
    if x.len() != made.len() {
        return Err(Error::input(format!("a layer made {} values of {}", made.len(), x.len())));
    }
    add(x, made);
    Ok(())
}

impl Turns {
    fn turn(&self, x: &mut [f32], heads: usize) {
        let len = self.half * 2;
        let quarter = self.half / 2;
        x.par_chunks_mut(heads * len).zip(self.angles.par_chunks(self.half)).for_each(|(token, angles)| {
            for head in token.chunks_mut(len) {
                for (j, (cos, sin)) in angles.iter().enumerate() {
                    let (a, b) = match self.pairs {
                        Pairs::Halves => (j, j + self.half),
                        Pairs::Neighbours => (2 * j, 2 * j + 1),
                        Pairs::Quarters => {
                            let first = j / quarter * self.half + j % quarter;
                            (first, first + quarter)
                        }
                    };
                    let (p, q) = (head[a], head[b]);
                    head[a] = p * cos - q * sin;
                    head[b] = q * cos + p * sin;
                }
            }
        });
    }
}
