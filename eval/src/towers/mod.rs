//! Towers that see and hear: what a projector file computes, up to the vectors that enter the text model.
//!
//! A row of [`KINDS`] is one kind of projector: how its tower reads what it is given, the form of its layers, and what
//! stands behind them. The arithmetic is that of the transformers library; where llama.cpp's differs, the row says so.

mod grid;
mod picture;
mod project;
mod speech;
mod unified;
mod vit;
mod whisper;

pub use grid::{Pixels, Resize};
pub use picture::{Picture, Processor};

use self::picture::{Filter, Look, Sizing};

use gguf::arch::NormKind;
use gguf::{Error, Metadata, Result, Value};

use self::vit::Vit;
use crate::layers::Part;
use crate::weights::Weights;

pub use gguf::projector::Sense;

/// An activation of towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The Gaussian error linear unit by its definition.
    Gelu,
    /// The same through tanh.
    GeluTanh,
    /// x · σ(1.702 x).
    GeluQuick,
    /// x · σ(x).
    Silu,
}

impl Act {
    fn apply(self, x: &mut [f32]) {
        use gguf::arch::Activation;
        match self {
            Act::Gelu => crate::layers::ffn::activate(Activation::Gelu, x),
            Act::GeluTanh => crate::layers::ffn::activate(Activation::GeluTanh, x),
            Act::Silu => crate::layers::ffn::activate(Activation::Silu, x),
            Act::GeluQuick => x.iter_mut().for_each(|x| *x *= crate::layers::ffn::sigmoid(1.702 * *x)),
        }
    }
}

/// A kind of projector.
#[derive(Debug)]
pub struct Kind {
    /// Its name under `clip.projector_type` or the key of its sense.
    pub name: &'static str,
    /// What its tower perceives.
    pub sense: Sense,
    /// How it computes.
    run: Run,
    /// Where llama.cpp computes something else.
    pub differs: &'static str,
}

#[derive(Debug)]
enum Run {
    /// A tower over patches of an image, and what projects its output.
    Image(Vit, fn(&Tower<'_>, &Image, Vec<f32>) -> Result<Vec<f32>>),
    /// Whisper's encoder over a log-mel spectrogram, and what projects its output.
    Whisper(bool, fn(&Tower<'_>, Vec<f32>) -> Result<Vec<f32>>),
    /// Another computation of its own.
    Own(fn(&Tower<'_>, &Pixels) -> Result<Vec<f32>>),
}

/// The patches of an image in the order of the tower's tokens.
#[derive(Debug)]
pub(crate) struct Image {
    /// Rows and columns of patches.
    pub(crate) height: usize,
    /// Columns.
    pub(crate) width: usize,
    /// Row and column of each token.
    pub(crate) places: Vec<(usize, usize)>,
    /// How many patches become one vector, along each side.
    pub(crate) merge: usize,
}

const fn image(
    name: &'static str,
    vit: Vit,
    project: fn(&Tower<'_>, &Image, Vec<f32>) -> Result<Vec<f32>>,
    differs: &'static str,
) -> Kind {
    Kind { name, sense: Sense::Vision, run: Run::Image(vit, project), differs }
}

const fn whisper(
    name: &'static str,
    halved: bool,
    project: fn(&Tower<'_>, Vec<f32>) -> Result<Vec<f32>>,
    differs: &'static str,
) -> Kind {
    Kind { name, sense: Sense::Audio, run: Run::Whisper(halved, project), differs }
}

/// What llama.cpp does of every unit that transformers computes by the error function.
const TANH: &str = "llama.cpp computes the projector's GELU through tanh";

/// Every kind that is computed.
#[rustfmt::skip]
pub static KINDS: &[Kind] = &[
    image("mlp", vit::CLIP, project::llava, TANH),
    image("gemma3", Vit { look: Look { sizing: Sizing::Square, filter: Filter::Bilinear }, ..vit::SIGLIP }, project::gemma3, ""),
    image("gemma4v", vit::GEMMA4, project::gemma4, ""),
    image("idefics3", Vit {
        positions: Resize::Buckets, look: Look { sizing: Sizing::Square, filter: Filter::Lanczos }, ..vit::SIGLIP
    }, project::idefics3, ""),
    image("lfm2", Vit {
        positions: Resize::Smoothed, channels_last: true,
        look: Look { sizing: Sizing::Tokens { least: 64, most: 256 }, filter: Filter::Bilinear }, ..vit::SIGLIP
    }, project::lfm2, TANH),
    image("janus_pro", Vit {
        gelu: Act::Gelu, look: Look { sizing: Sizing::Padded, filter: Filter::Bicubic }, ..vit::SIGLIP
    }, project::janus, TANH),
    image("internvl", vit::INTERN, project::internvl, TANH),
    image("llama4", vit::LLAMA4, project::llama4,
        "llama.cpp takes the norm before the feed-forward part for one behind the attention, as the converter names it"),
    image("pixtral", vit::PIXTRAL, project::pixtral, TANH),
    image("lightonocr", vit::PIXTRAL, project::pixtral, TANH),
    image("qwen2vl_merger", vit::QWEN2, project::qwen2, TANH),
    image("qwen2.5vl_merger", vit::QWEN25, project::qwen2,
        "llama.cpp's windows are of 112 pixels and its projector's GELU goes through tanh"),
    image("qwen2.5o", vit::QWEN25, project::qwen2,
        "llama.cpp's windows are of 112 pixels and its norms subtract the mean"),
    image("exaone4_5", vit::EXAONE, project::qwen2, TANH),
    image("qwen3vl_merger", vit::QWEN3, project::qwen2, TANH),
    image("ling3vl", vit::QWEN3, project::ling, TANH),
    image("paddleocr", vit::PADDLE, project::paddle,
        "llama.cpp smooths the positions of other grids and computes the projector's GELU through tanh"),
    image("glm4v", vit::GLM4, project::glm4, ""),
    image("glm5v", vit::GLM4, project::glm4, ""),
    Kind { name: "gemma4uv", sense: Sense::Vision, run: Run::Own(unified::patches), differs: "" },
    whisper("qwen2a", true, project::linear, ""),
    whisper("musicflamingo", true, project::two_layers, ""),
    whisper("voxtral", false, project::voxtral, ""),
    whisper("ultravox", false, project::ultravox, ""),
    whisper("meralion", false, project::meralion, ""),
    Kind { name: "gemma4ua", sense: Sense::Audio, run: Run::Own(unified::sound), differs: "" },
    Kind { name: "granite_speech", sense: Sense::Audio, run: Run::Own(speech::granite), differs: "" },
];

/// The vectors that enter the text model.
#[derive(Clone, Debug)]
pub struct Features {
    /// `[rows, cols]`, row-major.
    pub values: Vec<f32>,
    /// How many vectors.
    pub rows: usize,
    /// How wide each is.
    pub cols: usize,
    /// What is to be said of them.
    pub notes: Vec<String>,
}

/// A projector file's tower of one sense.
pub struct Tower<'a> {
    weights: &'a dyn Weights,
    metadata: &'a Metadata,
    kind: &'static Kind,
    /// Bytes of the values that are held at once.
    memory: u64,
}

impl std::fmt::Debug for Tower<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tower({})", self.kind.name)
    }
}

/// The kind that a projector file names for a sense.
fn named(metadata: &Metadata, sense: Sense) -> Option<&str> {
    let has = metadata.bool(&format!("clip.has_{}_encoder", sense.name())) == Some(true);
    let own = metadata.str(&format!("clip.{}.projector_type", sense.name()));
    own.or_else(|| metadata.str("clip.projector_type")).filter(|_| has)
}

impl<'a> Tower<'a> {
    /// The tower of a projector file: that of this sense, else the first that it has.
    ///
    /// # Errors
    /// No projector file, no tower of that sense, or a kind that is not computed.
    pub fn new(metadata: &'a Metadata, weights: &'a dyn Weights, sense: Option<Sense>) -> Result<Tower<'a>> {
        if metadata.architecture() != Some("clip") {
            let arch = metadata.architecture().unwrap_or("none");
            return Err(Error::input(format!("is no projector file: its architecture is {arch}, not clip"))
                .help("`convert DIR --mmproj` writes one; a checkpoint folder does as well"));
        }
        let senses = [Sense::Vision, Sense::Audio];
        let found = senses.into_iter().filter(|s| sense.is_none_or(|wanted| wanted == *s));
        let (sense, name) = found.into_iter().find_map(|s| Some((s, named(metadata, s)?))).ok_or_else(|| {
            let which = sense.map_or("vision or audio", Sense::name);
            Error::input(format!("the projector file has no {which} tower with a projector_type"))
        })?;
        let kind = KINDS.iter().find(|kind| kind.name == name && kind.sense == sense).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().filter(|k| k.sense == sense).map(|k| k.name).collect();
            Error::input(format!("the {} projector {name} is not computed", sense.name()))
                .help(format!("computed are {}", known.join(", ")))
        })?;
        Ok(Tower { weights, metadata, kind, memory: u64::MAX })
    }

    /// The same tower within so many bytes, on top of one layer as it is stored.
    pub fn within(self, memory: u64) -> Tower<'a> {
        Tower { memory, ..self }
    }

    /// Refuses more tokens than memory has room for, of each of which so many values are held.
    fn check_held(&self, tokens: usize, values: usize) -> Result<()> {
        let bytes = bytes_of(tokens.saturating_mul(values));
        if bytes <= self.memory {
            return Ok(());
        }
        let [bytes, memory] = [bytes, self.memory].map(gguf::text::bytes);
        let what = if self.kind.sense == Sense::Vision { "patches" } else { "frames" };
        Err(Error::usage(format!("a layer over {tokens} {what} takes {bytes}, of {memory} there are"))
            .help("give the tower less at once, or a larger --max-memory"))
    }

    /// What `work` makes of rows `[tokens, width]`, of as many at once as memory has room for: each row takes `wide`
    /// values meanwhile, beside three of its width that are held of all.
    fn by_groups(
        &self,
        rows: &[f32],
        width: usize,
        wide: usize,
        work: impl Fn(&[f32]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let tokens = rows.len() / width.max(1);
        let left = self.memory.saturating_sub(bytes_of(tokens.saturating_mul(3 * width)));
        let group = usize::try_from(left / bytes_of(wide).max(1)).unwrap_or(usize::MAX).clamp(1, tokens.max(1));
        if group >= tokens {
            return work(rows);
        }
        let mut out = Vec::with_capacity(rows.len());
        for group in rows.chunks(group * width) {
            out.extend(work(group)?);
        }
        Ok(out)
    }

    /// Its kind.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// A key of the tower, by its name behind `clip.vision.` or `clip.audio.`.
    fn value(&self, key: &str) -> Option<&Value> {
        let full = format!("clip.{}.{key}", self.kind.sense.name());
        let beyond = self.weights.beyond().iter().find(|(own, _)| *own == full).map(|(_, value)| value);
        self.metadata.get(&full).or(beyond)
    }

    fn number(&self, key: &str) -> Option<usize> {
        usize::try_from(self.value(key)?.as_u64()?).ok()
    }

    fn need(&self, key: &str) -> Result<usize> {
        let full = format!("clip.{}.{key}", self.kind.sense.name());
        match self.number(key) {
            Some(n) if (1..=1 << 24).contains(&n) => Ok(n),
            Some(n) => Err(Error::input(format!("{full} is {n}"))),
            None => Err(Error::input(format!("the projector file has no {full}"))),
        }
    }

    fn epsilon(&self) -> f32 {
        self.value("attention.layer_norm_epsilon").and_then(Value::as_f64).unwrap_or(1e-6) as f32
    }

    /// Keeps gates and what they multiply within the bound that the keys have, if there is one.
    ///
    /// # Errors
    /// A bound that is no number.
    fn bound(&self, gate: &mut [f32], up: &mut [f32]) -> Result<()> {
        let Some(most) = self.value("swiglu_clamp").and_then(Value::as_f64).map(|most| most as f32) else {
            return Ok(());
        };
        if most.is_nan() {
            return Err(Error::input("the key swiglu_clamp of the projector is not a number"));
        }
        gate.iter_mut().for_each(|v| *v = v.min(most));
        up.iter_mut().for_each(|v| *v = v.clamp(-most.abs(), most.abs()));
        Ok(())
    }

    /// The width of the tower.
    fn width(&self) -> Result<usize> {
        self.need("embedding_length")
    }

    /// The tower's activation: of a kind's own two forms of GELU, the one that its models have.
    fn activation(&self, gelu: Act) -> Act {
        let says = |key: &str| self.metadata.bool(key) == Some(true);
        match (says("clip.use_gelu"), says("clip.use_silu")) {
            (true, _) => gelu,
            (_, true) => Act::Silu,
            _ => Act::GeluQuick,
        }
    }

    /// Tensors outside of the layers.
    fn ends(&self, names: &[&str]) -> Result<Part<'a>> {
        Part::pick(self.weights, "", names)
    }

    /// All tensors whose name begins like this.
    fn part(&self, prefix: &str) -> Result<Part<'a>> {
        Part::load(self.weights, prefix, None)
    }

    /// What the tower reads of an image.
    ///
    /// # Errors
    /// A tower that hears, a processor that does not say what its kind needs.
    pub fn pixels(&self, picture: &Picture, processor: &Processor) -> Result<Pixels> {
        match &self.kind.run {
            Run::Image(vit, _) => vit.pixels(self, picture, processor),
            _ if self.kind.sense == Sense::Vision => {
                Err(Error::usage(format!("pictures are not prepared for projectors of the kind {}", self.kind.name))
                    .help("give its patches by --pixels"))
            }
            _ => {
                Err(Error::usage("a tower that hears does not take an image").help("give its spectrogram by --pixels"))
            }
        }
    }

    /// The vectors that enter the text model.
    ///
    /// # Errors
    /// Pixels that do not fit, tensors or keys that are missing or of other sizes.
    pub fn features(&self, pixels: &Pixels) -> Result<Features> {
        let mut notes = Vec::new();
        let values = match &self.kind.run {
            Run::Image(vit, project) => {
                let (image, x, note) = vit.run(self, pixels)?;
                notes.extend(note);
                project(self, &image, x)?
            }
            Run::Whisper(halved, project) => project(self, whisper::run(self, pixels, *halved)?)?,
            Run::Own(run) => run(self, pixels)?,
        };
        let cols = self.out(&values)?;
        Ok(Features { rows: values.len() / cols, cols, values, notes })
    }

    /// The width of the vectors: that of the text model, which CLIP's files do not say.
    fn out(&self, values: &[f32]) -> Result<usize> {
        let stated = match self.kind.name {
            "mlp" => self.ends(&["mm.2.weight"])?.need("mm.2.weight")?.rows(),
            _ => self.need("projection_dim")?,
        };
        if stated == 0 || values.is_empty() || !values.len().is_multiple_of(stated) {
            let name = self.kind.sense.name();
            return Err(Error::input(format!(
                "the projector's output is not {stated} wide, as clip.{name}.projection_dim says"
            )));
        }
        Ok(stated)
    }
}

fn bytes_of(values: usize) -> u64 {
    (values as u64).saturating_mul(size_of::<f32>() as u64)
}

/// A norm over the whole of `len` values.
fn normed(part: &Part<'_>, kind: NormKind, name: &str, mut x: Vec<f32>, len: usize) -> Result<Vec<f32>> {
    let weight = part.values_of(&format!("{name}.weight"), len)?;
    let bias = part.values(&format!("{name}.bias"))?;
    if bias.as_ref().is_some_and(|bias| bias.len() != len) || !x.len().is_multiple_of(len.max(1)) {
        return Err(Error::input(format!("tensor {name}.bias does not fit its weights")));
    }
    crate::layers::norm::normalize(kind, &mut x, len, Some(&weight), bias.as_deref());
    Ok(x)
}
