//! The devices of this machine that wgpu reaches, and how one is opened (feature `gpu`).

use gguf::Result;

use crate::device::{Choice, Device, Facts};

/// The devices of this machine, the best first.
///
/// # Errors
/// A build without the feature `gpu`.
pub fn list() -> Result<Vec<Facts>> {
    #[cfg(feature = "gpu")]
    return Ok(crate::gpu::devices());
    #[cfg(not(feature = "gpu"))]
    Err(without_feature())
}

#[cfg(not(feature = "gpu"))]
fn without_feature() -> gguf::Error {
    gguf::Error::usage("this program was built without the feature \"gpu\"")
        .help("use --device cpu, or build it with `cargo build --release --features gpu`")
}

/// Opens what was asked for; `None` is the processor. At most so many bytes of the device's memory are used. `say`
/// is given a line where `auto` finds nothing, and what the device has no kernel for.
///
/// # Errors
/// No such device, one that lacks what the kernels need, or a build without the feature `gpu`.
pub fn open(choice: Choice, memory: Option<u64>, say: fn(&str)) -> Result<Option<Device>> {
    if choice == Choice::Cpu {
        return Ok(None);
    }
    #[cfg(feature = "gpu")]
    let opened = crate::gpu::open(choice, crate::gpu::Options { memory, binding: None, say });
    #[cfg(not(feature = "gpu"))]
    let opened = {
        let _ = memory;
        Err(without_feature())
    };
    match opened {
        Err(e) if choice == Choice::Auto => {
            say(&format!("note: {}: the processor is used", e.message()));
            Ok(None)
        }
        opened => opened.map(Some),
    }
}
