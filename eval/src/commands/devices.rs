//! `evaluate devices`.

use eval::device::Facts;
use gguf::cli::{Common, Exit, print};
use gguf::{Error, ErrorKind, Result};
use serde_json::json;

/// List the devices that models can be evaluated on
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate devices
  evaluate devices --json
  evaluate perplexity Tiny-Llama-4.2M-Q4_K_M.gguf --text sample.txt --device gpu")]
pub struct Args {}

/// Runs the command.
pub fn run(_: &Args, common: &Common) -> Result<Exit> {
    let devices = eval::devices::list()?;
    if devices.is_empty() {
        return Err(Error::new(
            ErrorKind::System,
            "there is no device: no Vulkan, Metal or DirectX 12 driver was found",
        )
        .help("install the driver of the graphics processor, or Mesa's Vulkan drivers for one of software"));
    }
    if common.wants_document() {
        super::print_document(common, "devices", &[], &[], json!({ "devices": devices }))?;
    } else {
        print(&table(&devices))?;
    }
    Ok(Exit::Done)
}

fn table(devices: &[Facts]) -> String {
    let size = |bytes: u64| gguf::cli::bytes(bytes);
    devices
        .iter()
        .map(|d| {
            let memory = d.memory.map_or("unknown".to_owned(), size);
            let lacks = d.lacks.as_ref().map_or(String::new(), |lacks| format!("   cannot be used: {lacks}\n"));
            format!(
                "{}  {} ({})\n   driver   {}, {}\n   memory   {memory}; at most {} in a binding, {} in a buffer\n   \
                 limits   {} invocations and {} shared in a workgroup\n{lacks}",
                d.number,
                d.name,
                d.kind,
                d.backend,
                d.driver,
                size(d.largest_binding),
                size(d.largest_buffer),
                d.workgroup_invocations,
                size(d.workgroup_memory.into()),
            )
        })
        .collect()
}
