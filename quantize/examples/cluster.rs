//! How long a model of 671 billion parameters takes on 1 to 64 machines: the table of `docs/cluster/README.md`.
//!
//!     cargo run --release -p downcast-quantize --example cluster -- q4_k_m
//!
//! The tensors are those of DeepSeek V3, by its row in the table of architectures; the plan is that of `quantize`, the
//! parts those of `quantize --part`. What a machine does at once is what it can: reading, encoding and writing overlap,
//! so a part takes as long as the slowest of them.

use std::process::ExitCode;

use gguf::arch;
use gguf::{Error, Metadata, Result, Shape, TensorInfo, TensorType, Value};
use quantize::parts;
use quantize::plan::{Options, Plan};

/// The keys of DeepSeek V3 that its tensors follow from.
const KEYS: &[(&str, u32)] = &[
    ("block_count", 61),
    ("context_length", 163_840),
    ("embedding_length", 7168),
    ("feed_forward_length", 18_432),
    ("attention.head_count", 128),
    ("attention.head_count_kv", 1),
    ("attention.q_lora_rank", 1536),
    ("attention.kv_lora_rank", 512),
    ("attention.key_length", 576),
    ("attention.value_length", 512),
    ("attention.key_length_mla", 192),
    ("attention.value_length_mla", 128),
    ("rope.dimension_count", 64),
    ("leading_dense_block_count", 3),
    ("expert_feed_forward_length", 2048),
    ("expert_count", 256),
    ("expert_shared_count", 1),
    ("expert_used_count", 8),
    ("expert_group_count", 8),
    ("expert_group_used_count", 4),
    ("expert_gating_func", 2),
    ("vocab_size", 129_280),
];

/// Cores of a machine.
const CORES: f64 = 16.0;
/// What a machine's link to the storage carries, in bytes a second: 25 Gbit/s.
const LINK: f64 = 3.1e9;
/// What the shared storage carries for all machines together, in bytes a second.
const STORAGE: f64 = 20e9;
/// What a disk of its own carries, for the machine that works alone.
const DISK: f64 = 3.1e9;
/// Seconds until a task runs, opens the checkpoint and has its plan.
const START: f64 = 20.0;
/// SHA-256 of a core, in bytes a second.
const SHA: f64 = 1.5e9;
/// An hour of such a machine.
const PRICE: f64 = 0.80;

fn model() -> Result<(Metadata, Vec<TensorInfo>)> {
    let row = arch::find("deepseek2").ok_or_else(|| Error::usage("there is no row deepseek2"))?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", row.name);
    for (key, value) in KEYS {
        metadata.set(format!("{}.{key}", row.name), *value);
    }
    metadata.set("deepseek2.attention.layer_norm_rms_epsilon", 1e-6_f32);
    metadata.set("deepseek2.rope.freq_base", 10_000.0_f32);
    metadata.set("deepseek2.expert_weights_scale", 2.5_f32);
    metadata.set("deepseek2.expert_weights_norm", Value::Bool(true));
    let (dims, faults) = row.dims(&|key| metadata.get(key), Default::default());
    if let Some(fault) = faults.first() {
        return Err(Error::input(format!("{}: {}", fault.subject, fault.message)));
    }
    let mut tensors = Vec::new();
    for (name, slot) in row.plan(&dims).slots(&dims) {
        let shape: Vec<u64> = slot.shape.iter().map(|d| d.get()).collect();
        if slot.need == arch::Need::Required && shape.iter().all(|&d| d > 0) {
            let ty = if shape.len() > 1 { TensorType::BF16 } else { TensorType::F32 };
            tensors.push(TensorInfo::new(name, Shape::new(&shape)?, ty)?);
        }
    }
    Ok((metadata, tensors))
}

/// Seconds of one part: reading and writing beside encoding, and what comes before and after.
fn seconds(plan: &Plan, part: usize, machines: usize) -> f64 {
    let of = |f: &dyn Fn(&quantize::plan::Planned) -> u64| -> f64 {
        plan.tensors.iter().filter(|t| t.shard == part).map(|t| f(t) as f64).sum()
    };
    let read = of(&|t| t.from.bytes_for(t.info.elements()).unwrap_or(0));
    let written = of(&|t| t.info.bytes());
    let encode = of(&parts::encoding) * 1e-12 / CORES;
    let link = if machines == 1 { DISK } else { LINK.min(STORAGE / machines as f64) };
    // The file is read once more for its digest, from memory or the storage.
    START + encode.max((read + written) / link) + written / SHA.min(link)
}

fn run(types: &str) -> Result<()> {
    let (metadata, tensors) = model()?;
    let plan = Plan::new(&metadata, &tensors, types.parse()?, &Options::default(), None)?;
    let largest = plan.tensors.iter().map(|t| t.info.elements()).max().unwrap_or(0);
    println!(
        "{} tensors, {:.1} B weights, {:.0} GiB in BF16, {:.0} GiB as {}; the largest tensor has {:.2} B weights",
        plan.tensors.len(),
        plan.elements() as f64 / 1e9,
        tensors.iter().map(TensorInfo::bytes).sum::<u64>() as f64 / (1_u64 << 30) as f64,
        plan.file_bytes()? as f64 / (1_u64 << 30) as f64,
        plan.file_type.name,
        largest as f64 / 1e9,
    );
    println!("machines  slowest part   speed-up  of the ideal   largest part's share   machine-hours    cost");
    let mut alone = 0.0;
    for machines in [1_usize, 2, 4, 8, 16, 32, 64] {
        let mut plan = plan.clone();
        parts::assign(&mut plan, machines)?;
        let each: Vec<f64> = (0..machines).map(|part| seconds(&plan, part, machines)).collect();
        let slowest = each.iter().copied().fold(0.0, f64::max);
        if machines == 1 {
            alone = slowest;
        }
        let costs: Vec<u64> =
            (0..machines).map(|part| plan.tensors.iter().filter(|t| t.shard == part).map(parts::cost).sum()).collect();
        let share = *costs.iter().max().unwrap_or(&0) as f64 * machines as f64 / costs.iter().sum::<u64>() as f64;
        let hours = each.iter().sum::<f64>() / 3600.0;
        println!(
            "{machines:>8}  {:>10.1} s   {:>6.1} x  {:>10.0} %   {:>12.2} x mean   {hours:>13.2}   {:>5.2} $",
            slowest,
            alone / slowest,
            100.0 * alone / slowest / machines as f64,
            share,
            hours * PRICE,
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let types = std::env::args().nth(1).unwrap_or_else(|| "q4_k_m".to_owned());
    match run(&types) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
