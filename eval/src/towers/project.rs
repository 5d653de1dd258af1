//! What stands between a tower and the text model.

use gguf::arch::NormKind;
use gguf::{Error, Result};

use super::grid::{merged, pooled};
use super::vit::linear as clipped;
use super::{Act, Image, Tower, normed};
use crate::layers::norm::normalize;

/// The epsilon of norms that have none of their own in the keys.
const EPSILON: f32 = 1e-5;

/// Two linear layers with an activation between them.
fn mlp(tower: &Tower<'_>, [first, second]: [&str; 2], act: Act, x: &[f32]) -> Result<Vec<f32>> {
    let mut y = one(tower, first, x)?;
    act.apply(&mut y);
    one(tower, second, &y)
}

/// One linear layer.
pub(super) fn one(tower: &Tower<'_>, name: &str, x: &[f32]) -> Result<Vec<f32>> {
    let names = ["weight", "bias", "scale", "input_min", "input_max", "output_min", "output_max"];
    let names = names.map(|end| format!("{name}.{end}"));
    let part = tower.ends(&names.each_ref().map(String::as_str))?;
    clipped(&part, name, x)
}

/// A norm of its own outside of layers.
pub(super) fn norm(tower: &Tower<'_>, name: &str, kind: NormKind, x: Vec<f32>, len: usize) -> Result<Vec<f32>> {
    let part = tower.ends(&[&format!("{name}.weight"), &format!("{name}.bias")])?;
    normed(&part, kind, name, x, len)
}

pub(super) fn llava(tower: &Tower<'_>, _: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    if let Some(gguf::Value::Array(layers)) = tower.value("feature_layer")
        && layers.len() > 1
    {
        return Err(Error::input("a projector over several layers of the tower is not computed"));
    }
    mlp(tower, ["mm.0", "mm.2"], Act::Gelu, &x)
}

pub(super) fn gemma3(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let width = tower.width()?;
    let x = pooled(&x, (image.height, image.width), width, image.merge);
    let x = norm(tower, "mm.soft_emb_norm", NormKind::Rms(tower.epsilon()), x, width)?;
    let part = tower.ends(&["mm.input_projection.weight"])?;
    let weight = part.need("mm.input_projection.weight")?;
    // The matrix stands the other way round.
    let (rows, cols) = (weight.rows(), weight.cols());
    if rows != width {
        return Err(Error::input(format!("tensor mm.input_projection.weight has {rows} rows, not {width}")));
    }
    let weight = weight.to_f32()?;
    let mut out = vec![0.0; x.len() / width * cols];
    for (x, out) in x.chunks(width).zip(out.chunks_mut(cols)) {
        for (v, row) in x.iter().zip(weight.chunks(cols)) {
            crate::numeric::add_scaled(out, row, *v);
        }
    }
    Ok(out)
}

pub(super) fn gemma4(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let width = tower.width()?;
    let mut x = pooled(&x, (image.height, image.width), width, image.merge);
    let root = (width as f32).sqrt();
    x.iter_mut().for_each(|v| *v *= root);
    let part = tower.ends(&["v.std_bias", "v.std_scale"])?;
    if part.has("v.std_bias") && part.has("v.std_scale") {
        let (bias, scale) = (part.values_of("v.std_bias", width)?, part.values_of("v.std_scale", width)?);
        for row in x.chunks_mut(width) {
            row.iter_mut().zip(bias.iter().zip(&scale)).for_each(|(v, (b, s))| *v = (*v - b) * s);
        }
    }
    normalize(NormKind::Rms(tower.epsilon()), &mut x, width, None, None);
    one(tower, "mm.input_projection", &x)
}

/// The merged patches of a tower that has them row by row.
fn unshuffled(tower: &Tower<'_>, image: &Image, x: &[f32]) -> Result<Vec<f32>> {
    Ok(merged(x, (image.height, image.width), tower.width()?, image.merge))
}

pub(super) fn idefics3(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    one(tower, "mm.model.fc", &unshuffled(tower, image, &x)?)
}

pub(super) fn lfm2(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let mut x = unshuffled(tower, image, &x)?;
    if tower.ends(&["mm.input_norm.weight"])?.has("mm.input_norm.weight") {
        let len = tower.width()? * image.merge * image.merge;
        x = norm(tower, "mm.input_norm", NormKind::Layer(EPSILON), x, len)?;
    }
    mlp(tower, ["mm.1", "mm.2"], Act::Gelu, &x)
}

pub(super) fn janus(tower: &Tower<'_>, _: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    mlp(tower, ["mm.0", "mm.1"], Act::Gelu, &x)
}

pub(super) fn internvl(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let x = unshuffled(tower, image, &x)?;
    let len = tower.width()? * image.merge * image.merge;
    let x = norm(tower, "mm.model.mlp.0", NormKind::Layer(EPSILON), x, len)?;
    mlp(tower, ["mm.model.mlp.1", "mm.model.mlp.3"], Act::Gelu, &x)
}

pub(super) fn llama4(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let x = unshuffled(tower, image, &x)?;
    let mut x = mlp(tower, ["mm.model.mlp.1", "mm.model.mlp.2"], Act::Gelu, &x)?;
    Act::Gelu.apply(&mut x);
    one(tower, "mm.model.fc", &x)
}

pub(super) fn pixtral(tower: &Tower<'_>, image: &Image, mut x: Vec<f32>) -> Result<Vec<f32>> {
    let part = tower.ends(&["mm.patch_merger.weight"])?;
    if part.has("mm.patch_merger.weight") {
        let (width, each) = (tower.width()?, image.merge * image.merge);
        let x_normed = norm(tower, "mm.input_norm", NormKind::Rms(tower.epsilon()), x, width)?;
        let rows = merged(&x_normed, (image.height, image.width), width, image.merge);
        // Values of one channel follow each other.
        let turned: Vec<f32> = rows
            .chunks(width * each)
            .flat_map(|row| (0..width * each).map(|i| row[i % each * width + i / each]))
            .collect();
        x = one(tower, "mm.patch_merger", &turned)?;
    }
    mlp(tower, ["mm.1", "mm.2"], Act::Gelu, &x)
}

/// Merged patches follow each other.
pub(super) fn qwen2(tower: &Tower<'_>, _: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    mlp(tower, ["mm.0", "mm.2"], Act::Gelu, &x)
}

/// A norm of each patch before they are merged.
pub(super) fn ling(tower: &Tower<'_>, _: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let x = norm(tower, "mm.input_norm", NormKind::Layer(tower.epsilon()), x, tower.width()?)?;
    mlp(tower, ["mm.0", "mm.2"], Act::Gelu, &x)
}

/// The same of a tower that has patches row by row.
pub(super) fn paddle(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let x = norm(tower, "mm.input_norm", NormKind::Layer(EPSILON), x, tower.width()?)?;
    mlp(tower, ["mm.1", "mm.2"], Act::Gelu, &unshuffled(tower, image, &x)?)
}

pub(super) fn glm4(tower: &Tower<'_>, image: &Image, x: Vec<f32>) -> Result<Vec<f32>> {
    let (width, each) = (tower.width()?, image.merge * image.merge);
    let part = tower.ends(&["mm.patch_merger.weight", "mm.patch_merger.bias"])?;
    // A convolution over the merged patches, whose values of one channel follow each other.
    let turned: Vec<f32> =
        x.chunks(width * each).flat_map(|row| (0..width * each).map(|i| row[i % each * width + i / each])).collect();
    let kernel = part.need("mm.patch_merger.weight")?.to_f32()?;
    let out = kernel.len() / (width * each);
    let kernel = crate::weights::Matrix::from_f32("mm.patch_merger.weight", kernel, width * each);
    let mut x = crate::matmul::product(&turned, &kernel, 0..out, crate::matmul::Order::Fixed)?;
    let bias = part.values_of("mm.patch_merger.bias", out)?;
    x.chunks_mut(out).for_each(|row| crate::numeric::add_scaled(row, &bias, 1.0));
    let x = one(tower, "mm.model.fc", &x)?;
    let mut x = norm(tower, "mm.post_norm", NormKind::Layer(EPSILON), x, out)?;
    Act::Gelu.apply(&mut x);
    let mut gate = one(tower, "mm.gate", &x)?;
    let mut up = one(tower, "mm.up", &x)?;
    tower.bound(&mut gate, &mut up)?;
    tower.activation(Act::Gelu).apply(&mut gate);
    up.iter_mut().zip(&gate).for_each(|(up, gate)| *up *= gate);
    one(tower, "mm.down", &up)
}

pub(super) fn linear(tower: &Tower<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
    one(tower, "mm.a.fc", &x)
}

pub(super) fn two_layers(tower: &Tower<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
    mlp(tower, ["mm.a.mlp.1", "mm.a.mlp.2"], Act::Gelu, &x)
}

/// So many frames become one; the last are filled up with zeros.
fn stacked(tower: &Tower<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
    let wide = tower.width()? * tower.need("projector.stack_factor")?;
    x.resize(x.len().next_multiple_of(wide), 0.0);
    Ok(x)
}

pub(super) fn voxtral(tower: &Tower<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
    two_layers(tower, stacked(tower, x)?)
}

pub(super) fn ultravox(tower: &Tower<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
    const ROOT: NormKind = NormKind::Rms(1e-6);
    let wide = tower.width()? * tower.need("projector.stack_factor")?;
    let x = norm(tower, "mm.a.norm_pre", ROOT, stacked(tower, x)?, wide)?;
    let x = one(tower, "mm.a.mlp.1", &x)?;
    let part = tower.ends(&["mm.a.mlp.1.weight"])?;
    let both = part.need("mm.a.mlp.1.weight")?.rows();
    let half = both / 2;
    let mut out = Vec::with_capacity(x.len() / 2);
    for row in x.chunks(both.max(1)) {
        let (values, gate) = row.split_at(half);
        let mut gate = gate.to_vec();
        Act::Silu.apply(&mut gate);
        out.extend(values.iter().zip(&gate).map(|(v, g)| v * g));
    }
    let mid = tower.ends(&["mm.a.norm_mid.weight"])?.has("mm.a.norm_mid.weight");
    let out = if mid { norm(tower, "mm.a.norm_mid", ROOT, out, half)? } else { out };
    one(tower, "mm.a.mlp.2", &out)
}

pub(super) fn meralion(tower: &Tower<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
    let wide = tower.width()? * tower.need("projector.stack_factor")?;
    let x = stacked(tower, x)?;
    let x = norm(tower, "mm.a.norm_pre", NormKind::Layer(tower.epsilon()), x, wide)?;
    let mut x = one(tower, "mm.a.mlp.0", &x)?;
    Act::Silu.apply(&mut x);
    let mut gate = one(tower, "mm.a.mlp.1", &x)?;
    Act::Silu.apply(&mut gate);
    let mut pool = one(tower, "mm.a.mlp.2", &x)?;
    pool.iter_mut().zip(&gate).for_each(|(pool, gate)| *pool *= gate);
    one(tower, "mm.a.mlp.3", &pool)
}
