//! Where a model is computed: on the processor, or on a device that wgpu reaches (feature `gpu`).
//!
//! The layers know nothing of wgpu. They hold [`Values`], which are in memory or on a device, and ask a [`Device`] for
//! what it has a kernel for; whatever else they do to values brings these into memory first.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use convert::packed::Float;
use gguf::arch::{Activation, NormKind};
use gguf::{Error, ErrorKind, Result, TensorType};
use quantize::Levels;

use crate::layers::sight::Sight;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The processor.
    #[default]
    Cpu,
    /// The best device.
    Gpu,
    /// The best device that is none of software, else the processor; also when the device fails.
    Auto,
    /// The device with this number.
    Number(usize),
}

impl std::str::FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Choice> {
        match text {
            "cpu" => Ok(Choice::Cpu),
            "gpu" => Ok(Choice::Gpu),
            "auto" => Ok(Choice::Auto),
            number => number.parse().map(Choice::Number).map_err(|_| {
                Error::usage(format!(
                    "\"{text}\" is no device; cpu, gpu, auto and the numbers of `evaluate devices` are"
                ))
            }),
        }
    }
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    /// The number that it is asked for by.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// The interface: Vulkan, Metal or DirectX 12.
    pub backend: String,
    /// The driver with its version.
    pub driver: String,
    /// Bytes of its own memory, where that is known.
    pub memory: Option<u64>,
    /// Most bytes of a buffer that a kernel reads or writes.
    pub largest_binding: u64,
    /// Most bytes of a buffer.
    pub largest_buffer: u64,
    /// Bytes that the invocations of a workgroup share.
    pub workgroup_memory: u32,
    /// Most invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// What it lacks of what the kernels need.
    pub lacks: Option<String>,
}

/// The device that something was computed on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ran {
    /// Its name.
    pub name: String,
    /// The interface.
    pub backend: String,
    /// The driver with its version.
    pub driver: String,
}

impl Ran {
    /// The device with these facts.
    pub fn on(facts: &Facts) -> Ran {
        Ran { name: facts.name.clone(), backend: facts.backend.clone(), driver: facts.driver.clone() }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.driver)
    }
}

/// Values in the memory of a device.
pub struct Buffer(pub Box<dyn Any + Send + Sync>);

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffer")
    }
}

/// What a kernel reads: values in memory or on the device.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// In memory.
    Host(&'a [f32]),
    /// On the device.
    Device(&'a Buffer),
}

/// A matrix's rows as a device keeps them.
pub type Kept = OnceLock<Buffer>;

/// How a matrix is stored.
#[derive(Clone, Copy, Debug)]
pub enum Form<'m> {
    /// In memory as f32.
    Values(&'m [f32]),
    /// Blocks of a type.
    Blocks {
        /// The type.
        ty: TensorType,
        /// The blocks of all rows.
        bytes: &'m [u8],
    },
    /// Only a function knows.
    Function,
}

/// What a product does with a matrix.
#[derive(Clone, Copy)]
pub enum Multiplied<'m> {
    /// f32 on decoded rows.
    Exact,
    /// Integers, with activations rounded to 8 bits.
    Levels {
        /// The type's integer form.
        levels: &'static Levels,
        /// The blocks of all rows.
        bytes: &'m [u8],
    },
    /// f32 on decoded rows and activations rounded to this.
    Rounded(Float),
    /// The same, and the result rounded to it.
    Computed(Float),
    /// LLM.int8.
    Int8 {
        /// Activations above it are multiplied in 16 bits.
        threshold: f32,
    },
}

/// A matrix as a device takes it.
pub trait StoredMatrix: Sync {
    /// The tensor's name.
    fn name(&self) -> &str;

    /// The number of rows, over all experts.
    fn rows(&self) -> usize;

    /// Values in a row.
    fn cols(&self) -> usize;

    /// How it is stored.
    fn form(&self) -> Form<'_>;

    /// What a product does with it.
    fn multiplied(&self) -> Multiplied<'_>;

    /// These rows in f32.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    fn values(&self, rows: Range<usize>) -> Result<Vec<f32>>;
}

/// What a device does. Values have the shapes that the functions for the processor have, which the layers' code names.
pub trait Kernels: Send + Sync {
    /// What is known of it.
    fn facts(&self) -> &Facts;

    /// An error where something has failed before: of what is recorded, failures show later.
    fn state(&self) -> Result<()>;

    /// Brings values to the device.
    fn upload(&self, x: &[f32]) -> Result<Buffer>;

    /// Brings values into memory.
    fn download(&self, x: &Buffer) -> Result<Vec<f32>>;

    /// `x · wᵀ` for these rows of `w`, on the device if `x` is there and there is room for it.
    fn product(&self, x: Operand<'_>, w: &dyn StoredMatrix, kept: &Kept, rows: Range<usize>) -> Result<Product>;

    /// The most values of a buffer.
    fn largest(&self) -> usize;

    /// Whether so many values should be on the device: there is room for what a layer makes of them too.
    fn room(&self, len: usize) -> bool;

    /// A copy.
    fn copy(&self, x: &Buffer) -> Result<Buffer>;

    /// An operation on each value of `x`, in place, with the one of `y` at its place.
    fn change(&self, operation: Elementwise, x: &Buffer, y: Option<(Operand<'_>, Place)>) -> Result<()>;

    /// As [`crate::layers::norm::normalize`].
    fn normalize(
        &self,
        kind: NormKind,
        x: &Buffer,
        len: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Result<()>;

    /// Rotates heads in place.
    fn rotate(&self, rotation: &Rotation<'_>, kept: &Kept, x: &Buffer) -> Result<()>;

    /// `len` columns of rows of `width`, from one on.
    fn columns(&self, x: &Buffer, width: usize, first: usize, len: usize) -> Result<Buffer>;

    /// These rows, each with its factor.
    fn gather(&self, x: &Buffer, width: usize, list: &[u32], factors: &[f32]) -> Result<Buffer>;

    /// Adds each row, with its factor, to a row of `y`; no row of `y` is named twice.
    fn scatter(&self, x: &Buffer, width: usize, list: &[u32], factors: &[f32], y: &Buffer) -> Result<()>;

    /// Attention: queries of the first rows to keys and values of the second, the first query at a position.
    fn attend(
        &self,
        a: &Attention<'_>,
        q: &Buffer,
        kv: (&Buffer, &Buffer),
        jobs: &[(Range<usize>, Range<usize>, usize)],
    ) -> Result<Buffer>;

    /// The largest magnitude; infinite or no number where a value is.
    fn magnitude(&self, x: &Buffer) -> Result<f32>;

    /// Says something once.
    fn say_once(&self, what: &str);
}

/// An operation on each value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elementwise {
    /// `x + s · y`.
    AddScaled(f32),
    /// `s · x`.
    Scale(f32),
    /// `x · y`.
    Multiply,
    /// `x / y`.
    Divide,
    /// `x` within ± this.
    Clamp(f32),
    /// An activation without a gate.
    Activate(Activation),
    /// `x` by its gate `y`.
    Gated(Activation),
    /// `x · σ(y)`.
    Sigmoid,
    /// `x` rounded to this, to the nearest, halves to even.
    Round(Float),
}

/// Where value `i` finds the other of its operation: at `i / inner % outer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Neighbours that share one.
    pub inner: usize,
    /// How many there are.
    pub outer: usize,
}

/// A rotation of the start of each head.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Pairs of a head.
    pub half: usize,
    /// Whether neighbours make a pair, else values `half` apart.
    pub neighbours: bool,
    /// Cosine and sine of each pair, position after position.
    pub angles: &'a [[f32; 2]],
    /// Of each token.
    pub positions: &'a [u32],
    /// Heads of a token.
    pub heads: usize,
    /// Values of a head.
    pub len: usize,
}

/// What attention needs to know of the heads.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values of a key.
    pub key_len: usize,
    /// Values of a value.
    pub value_len: usize,
    /// Scores are multiplied with it.
    pub scale: f32,
    /// Scores are kept within it by a hyperbolic tangent.
    pub cap: Option<f32>,
    /// Which keys a query sees.
    pub sight: Sight,
    /// Of each head, what a step of distance adds to a score.
    pub slopes: Option<&'a [f32]>,
    /// Of each head, a score without a value.
    pub sinks: Option<&'a [f32]>,
    /// What distances add to scores.
    pub biases: Option<Biases>,
}

/// Biases of distances from `-reach` to `reach`, head after head.
#[derive(Debug)]
pub struct Biases {
    /// The largest distance.
    pub reach: usize,
    /// The biases.
    pub values: Vec<f32>,
}

/// What a product gives.
#[derive(Debug)]
pub enum Product {
    /// Values in memory.
    Host(Vec<f32>),
    /// So many on the device.
    Device(Buffer, usize),
}

/// A device that was opened. Copies are the same device.
#[derive(Clone)]
pub struct Device(Arc<dyn Kernels>);

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.facts().name)
    }
}

impl Device {
    /// A device with these kernels.
    pub fn new(kernels: impl Kernels + 'static) -> Device {
        Device(Arc::new(kernels))
    }

    /// Does work on a device, or on the processor where there is none. Where `auto` was asked for and the system
    /// fails, `say` is given a line and the work is done again on the processor. Also gives where it was done.
    ///
    /// # Errors
    /// Those of the work.
    pub fn work<T>(
        device: Option<&Device>,
        choice: Choice,
        say: fn(&str),
        mut work: impl FnMut(Option<&Device>) -> Result<T>,
    ) -> Result<(T, Option<Ran>)> {
        let Some(device) = device else { return Ok((work(None)?, None)) };
        match work(Some(device)) {
            Err(e) if choice == Choice::Auto && e.kind() == ErrorKind::System => {
                say(&format!("note: {}: the processor is used", e.message()));
                Ok((work(None)?, None))
            }
            done => Ok((done?, Some(Ran::on(device.facts())))),
        }
    }

    /// What is known of it.
    pub fn facts(&self) -> &Facts {
        self.0.facts()
    }

    /// An error where it has failed.
    ///
    /// # Errors
    /// What failed first.
    pub fn state(&self) -> Result<()> {
        self.0.state()
    }

    /// What it does.
    pub fn kernels(&self) -> &dyn Kernels {
        &*self.0
    }
}

/// Values in memory or on a device. They read as a slice wherever they are: what is only on a device is brought into
/// memory then. A failure of the device shows in [`Device::state`], which is asked behind each layer; the values are
/// zeros until then.
#[derive(Debug)]
pub struct Values {
    len: usize,
    host: OnceLock<Vec<f32>>,
    device: Option<(Device, Buffer)>,
}

impl Values {
    /// Values on a device.
    pub fn on(device: &Device, buffer: Buffer, len: usize) -> Values {
        Values { len, host: OnceLock::new(), device: Some((device.clone(), buffer)) }
    }

    /// Where they are on a device.
    pub fn resident(&self) -> Option<(&Device, &Buffer)> {
        self.device.as_ref().map(|(device, buffer)| (device, buffer))
    }

    /// The same to be changed there: what is in memory of them is no longer right.
    pub fn changing(&mut self) -> Option<(&Device, &Buffer)> {
        if self.device.is_some() {
            self.host = OnceLock::new();
        }
        self.resident()
    }

    /// What a kernel reads.
    pub fn operand(&self) -> Operand<'_> {
        match &self.device {
            Some((_, buffer)) => Operand::Device(buffer),
            None => Operand::Host(self),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values in memory, to be changed there.
    pub fn host(&mut self) -> &mut Vec<f32> {
        let _: &[f32] = self;
        self.device = None;
        self.host.get_mut().unwrap_or_else(|| unreachable!("the values were brought into memory"))
    }

    /// The values in memory alone, or what failed on the way there.
    ///
    /// # Errors
    /// A device that failed.
    pub fn fetched(self) -> Result<Vec<f32>> {
        let device = self.device.as_ref().map(|(device, _)| device.clone());
        let values = self.into_vec();
        device.map_or(Ok(()), |device| device.state())?;
        Ok(values)
    }

    /// The values in memory alone.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(self.host())
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.host.get_or_init(|| match &self.device {
            Some((device, buffer)) => device.0.download(buffer).unwrap_or_else(|_| vec![0.0; self.len]),
            None => Vec::new(),
        })
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Values {
        Values { len: values.len(), host: OnceLock::from(values), device: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Forward;
    use crate::model::Model;
    use crate::weights::{Matrix, OnDevice, SourceWeights};

    /// A device that holds one value after the other and then is lost.
    struct Lost(Facts);

    fn lost<T>() -> Result<T> {
        Err(Error::new(ErrorKind::System, "the device was lost"))
    }

    impl Kernels for Lost {
        fn facts(&self) -> &Facts {
            &self.0
        }
        fn state(&self) -> Result<()> {
            lost()
        }
        fn upload(&self, _: &[f32]) -> Result<Buffer> {
            Ok(Buffer(Box::new(())))
        }
        fn download(&self, _: &Buffer) -> Result<Vec<f32>> {
            lost()
        }
        fn product(&self, _: Operand<'_>, w: &dyn StoredMatrix, _: &Kept, rows: Range<usize>) -> Result<Product> {
            assert!(rows.end <= w.rows());
            Ok(Product::Device(Buffer(Box::new(())), rows.len()))
        }
        fn largest(&self) -> usize {
            1 << 20
        }
        fn room(&self, _: usize) -> bool {
            true
        }
        fn copy(&self, _: &Buffer) -> Result<Buffer> {
            Ok(Buffer(Box::new(())))
        }
        fn change(&self, _: Elementwise, _: &Buffer, _: Option<(Operand<'_>, Place)>) -> Result<()> {
            Ok(())
        }
        fn normalize(&self, _: NormKind, _: &Buffer, _: usize, _: Option<&[f32]>, _: Option<&[f32]>) -> Result<()> {
            lost()
        }
        fn rotate(&self, _: &Rotation<'_>, _: &Kept, _: &Buffer) -> Result<()> {
            lost()
        }
        fn columns(&self, _: &Buffer, _: usize, _: usize, _: usize) -> Result<Buffer> {
            lost()
        }
        fn gather(&self, _: &Buffer, _: usize, _: &[u32], _: &[f32]) -> Result<Buffer> {
            lost()
        }
        fn scatter(&self, _: &Buffer, _: usize, _: &[u32], _: &[f32], _: &Buffer) -> Result<()> {
            lost()
        }
        fn attend(
            &self,
            _: &Attention<'_>,
            _: &Buffer,
            _: (&Buffer, &Buffer),
            _: &[(Range<usize>, Range<usize>, usize)],
        ) -> Result<Buffer> {
            lost()
        }
        fn magnitude(&self, _: &Buffer) -> Result<f32> {
            lost()
        }
        fn say_once(&self, _: &str) {}
    }

    fn device() -> Device {
        Device::new(Lost(Facts {
            number: 0,
            name: "lost".into(),
            kind: "software",
            backend: "none".into(),
            driver: "none".into(),
            memory: None,
            largest_binding: 0,
            largest_buffer: 0,
            workgroup_memory: 0,
            workgroup_invocations: 0,
            lacks: None,
        }))
    }

    #[test]
    fn with_auto_a_device_that_is_lost_leaves_the_work_to_the_processor() {
        let source = convert::open(&fixtures::path("models/tiny-llama"), &convert::Options::default()).unwrap();
        let model = Model::new(source.metadata(), &SourceWeights(&source)).unwrap();
        let hidden = |device: Option<&Device>| {
            let weights = OnDevice::new(SourceWeights(&source), device);
            Forward::new(&model, &weights).hidden(&[vec![1, 2, 3].into()])
        };
        let device = device();
        let error = Device::work(Some(&device), Choice::Gpu, |_| (), hidden).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::System, "the device was lost"));
        let (found, ran) = Device::work(Some(&device), Choice::Auto, |_| (), hidden).unwrap();
        assert_eq!(ran, None);
        assert_eq!(found, hidden(None).unwrap());
    }

    #[test]
    fn values_that_cannot_be_brought_back_are_told_of() {
        let values = || Values::on(&device(), Buffer(Box::new(())), 3);
        assert_eq!(*values(), [0.0; 3]);
        assert!(values().fetched().is_err());
    }

    #[test]
    fn devices_are_asked_for_by_name_or_number() {
        let parsed: Vec<Choice> = ["cpu", "gpu", "auto", "3"].iter().map(|c| c.parse().unwrap()).collect();
        assert_eq!(parsed, [Choice::Cpu, Choice::Gpu, Choice::Auto, Choice::Number(3)]);
        assert!("cuda".parse::<Choice>().unwrap_err().message().contains("evaluate devices"));
    }

    #[test]
    fn a_matrix_gives_its_rows_however_it_is_stored() {
        let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let of = values.clone();
        let decode = move |rows: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&of[rows.start * 2..rows.end * 2]);
            Ok(())
        };
        let (plain, function) = (Matrix::from_f32("w", values, 2), Matrix::from_fn("w", 3, 2, Arc::new(decode)));
        for matrix in [plain, function] {
            assert_eq!(StoredMatrix::values(&matrix, 1..3).unwrap(), [2.0, 3.0, 4.0, 5.0]);
        }
    }
}
