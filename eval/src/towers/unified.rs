//! What Gemma 4 Unified has in place of towers: embedders of patches and of sound, without layers.

use gguf::arch::NormKind;
use gguf::{Error, Result};

use super::grid::Pixels;
use super::project::{norm, one};
use super::{Image, Tower, vit};
use crate::layers::norm::normalize;

/// Norms of patches and of places; the one before the projection has the epsilon of the keys.
const LAYER: NormKind = NormKind::Layer(1e-5);

/// Patches of pixels, their places, and the projection.
pub(super) fn patches(tower: &Tower<'_>, pixels: &Pixels) -> Result<Vec<f32>> {
    let width = tower.width()?;
    let ends = tower.ends(&["v.patch_embd.weight", "v.position_embd.weight"])?;
    let columns = ends.need("v.patch_embd.weight")?.cols();
    let side = (columns / 3).isqrt();
    if side == 0 || side * side * 3 != columns {
        return Err(Error::input(format!(
            "v.patch_embd.weight takes {columns} values, which are no patch of three channels"
        )));
    }
    // Each of these is made of the one before.
    tower.check_held(pixels.values().len() / columns, 2 * columns.max(width))?;
    let (image, x) = cut(pixels, side)?;
    let x = norm(tower, "v.patch_norm.1", LAYER, x, columns)?;
    let x = one(tower, "v.patch_embd", &x)?;
    let mut x = norm(tower, "v.patch_norm.2", LAYER, x, width)?;
    if let Some(table) = ends.values("v.position_embd.weight")? {
        vit::add_axes(&table, &image, width, &mut x)?;
    }
    let x = norm(tower, "v.patch_norm.3", LAYER, x, width)?;
    projected(tower, "mm.input_projection", x)
}

/// Frames of sound, and the projection.
pub(super) fn sound(tower: &Tower<'_>, pixels: &Pixels) -> Result<Vec<f32>> {
    let width = tower.width()?;
    let (_, len) = pixels.matrix()?;
    if len != width {
        return Err(Error::input(format!("frames of {len} values are not of {width}, as the encoder takes them")));
    }
    tower.check_held(pixels.values().len() / width, 2 * width)?;
    projected(tower, "mm.a.input_projection", pixels.values().to_vec())
}

fn projected(tower: &Tower<'_>, name: &str, mut x: Vec<f32>) -> Result<Vec<f32>> {
    normalize(NormKind::Rms(tower.epsilon()), &mut x, tower.width()?, None, None);
    one(tower, name, &x)
}

/// The patches of an image, channel after channel, as the file's first layer takes them.
fn cut(pixels: &Pixels, side: usize) -> Result<(Image, Vec<f32>)> {
    let (area, values) = (side * side, pixels.values());
    if let Some((channels, height, width)) = pixels.image() {
        if channels != 3 || !height.is_multiple_of(side) || !width.is_multiple_of(side) {
            return Err(Error::input(format!(
                "an image of {channels} channels and {height} × {width} pixels is not a whole number of patches of {side} × {side}"
            )));
        }
        let image = Image::new(height / side, width / side, 1, 1);
        let mut x = Vec::with_capacity(values.len());
        for (y, at) in &image.places {
            for row in (0..3).flat_map(|c| (0..side).map(move |dy| (c * height + y * side + dy) * width)) {
                x.extend_from_slice(&values[row + at * side..][..side]);
            }
        }
        return Ok((image, x));
    }
    let (count, len) = pixels.matrix()?;
    if len != 3 * area {
        return Err(Error::input(format!(
            "patches of {len} values are not of {side} × {side} pixels of three channels"
        )));
    }
    let ((height, width), _) = pixels.grid(count, 1)?;
    // Colours of a pixel stand together there.
    let turned = values.chunks(len).flat_map(|patch| (0..len).map(|i| patch[i % area * 3 + i / area]));
    Ok((Image::new(height, width, 1, 1), turned.collect()))
}
