//! What a comparison found, in the forms that people and programs read.
//!
//! One [`Report`], one function a form. A number that could not be had is `null`, an empty cell or a dash, never 0.

mod card;
pub mod embedding;
mod html;
mod svg;
mod text;

pub mod gate;

use serde::{Deserialize, Serialize};

use crate::compare::Comparison;
use crate::device::Ran;
use crate::divergence::{Divergence, Estimate, Position};
pub use crate::encoded::Quantized;
use crate::tensors::TensorError;

pub use card::{Card, card};
pub use html::html;
pub use text::{csv, markdown, terminal};

/// What was compared, on what, and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this form; it grows when a field changes its meaning.
    pub schema: u32,
    /// The program and its version.
    pub program: String,
    /// The base that the others are compared with.
    pub base: Base,
    /// How it was measured.
    pub protocol: Protocol,
    /// The models that were compared, in the order they were asked for.
    pub models: Vec<ModelRow>,
    /// Where there were several texts, the same for each alone; the figures above are over all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Report>,
}

/// The model that the others are compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Base {
    /// Its name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// Bytes of tensor data; not known of a base of which only predictions were saved.
    pub bytes: Option<u64>,
    /// Bits per weight, NaN where that is not known.
    pub bits_per_weight: f64,
    /// Mean −ln p of the right token.
    pub mean_nll: Estimate,
    /// Perplexity.
    pub ppl: Estimate,
}

/// A text that models were compared on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Its name.
    pub name: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Chunks that were evaluated.
    pub chunks: usize,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Protocol {
    /// The text's name; of several, all of them.
    pub text: String,
    /// SHA-256 of the text; of several, of the list of theirs.
    pub text_sha256: String,
    /// The texts, in the order of their chunks.
    pub texts: Vec<Text>,
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Tokens of a chunk.
    pub context: usize,
    /// Chunks that were evaluated.
    pub chunks: usize,
    /// Positions of a chunk before this one are context only.
    pub first_scored: usize,
    /// Positions that were scored.
    pub positions: usize,
    /// The arithmetic, in words.
    pub arithmetic: String,
    /// Where it was computed, if not on the processor.
    #[serde(default)]
    pub device: Option<Ran>,
    /// Seconds of wall time.
    pub seconds: f64,
}

impl Protocol {
    /// The arithmetic, and the device where there was one.
    pub fn computed(&self) -> String {
        computed(&self.arithmetic, self.device.as_ref())
    }
}

/// The reports of several texts, or that of the one.
fn or_itself<'r, R>(report: &'r R, texts: &'r [R]) -> impl Iterator<Item = &'r R> {
    texts.is_empty().then_some(report).into_iter().chain(texts)
}

/// An arithmetic in words, and the device where there was one.
fn computed(arithmetic: &str, device: Option<&Ran>) -> String {
    device.map_or(arithmetic.to_owned(), |device| format!("{arithmetic}, on {device}"))
}

/// Where the importance matrix of a model came from, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of its file.
    pub file: String,
    /// What it was made of.
    pub datasets: Vec<String>,
    /// Chunks of it.
    pub chunks: Option<u64>,
    /// SHA-256 of its file.
    pub sha256: Option<String>,
}

/// One model that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct ModelRow {
    /// Its name: a type or a file.
    pub name: String,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Bits per weight.
    pub bits_per_weight: f64,
    /// The part that is quantized.
    pub quantized: Quantized,
    /// Bits of each weight of that part; NaN without any.
    pub quantized_bits_per_weight: f64,
    /// Where its importance matrix came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<Origin>,
    /// The statistics.
    pub divergence: Divergence,
    /// The error of each tensor whose type differs from the base's, where it was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorError>,
}

/// What a report says beside what was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The base's name.
    pub base: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// Bytes of the base's tensor data, where they are known.
    pub bytes: Option<u64>,
    /// How it was measured.
    pub protocol: Protocol,
    /// Positions of a chunk that are scored.
    pub scored: usize,
    /// The models that are compared.
    pub models: Vec<Compared>,
}

/// What is known of a compared model beside its predictions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Its name: a type or a file.
    pub name: String,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// The part that is quantized.
    pub quantized: Quantized,
    /// Where its importance matrix came from.
    pub importance: Option<Origin>,
    /// The error of each tensor, where it was measured.
    #[serde(skip)]
    pub tensors: Vec<TensorError>,
}

impl Facts {
    /// The report of what was found of these models, in the same order.
    pub fn report(self, found: &Comparison) -> Report {
        let mut texts = Vec::new();
        if self.protocol.texts.len() > 1 {
            let mut start = 0;
            for text in &self.protocol.texts {
                let positions = start..start + text.chunks * self.scored;
                start = positions.end;
                texts.push(self.on(text, positions.len()).report(&found.only(positions)));
            }
        }
        let bits = |bytes: u64| 8.0 * bytes as f64 / self.parameters.max(1) as f64;
        let mean_nll = Estimate::of(found.base_nll.iter().copied(), self.scored);
        let model = |(compared, positions): (Compared, &Vec<Position>)| ModelRow {
            bits_per_weight: bits(compared.bytes),
            name: compared.name,
            bytes: compared.bytes,
            quantized: compared.quantized,
            quantized_bits_per_weight: compared.quantized.bits_per_weight(),
            importance: compared.importance,
            divergence: Divergence::of(&found.base_nll, positions, self.scored),
            tensors: compared.tensors,
        };
        Report {
            schema: 1,
            program: concat!("evaluate ", env!("CARGO_PKG_VERSION")).into(),
            base: Base {
                name: self.base,
                architecture: self.architecture,
                parameters: self.parameters,
                bytes: self.bytes,
                bits_per_weight: self.bytes.map_or(f64::NAN, bits),
                mean_nll,
                ppl: mean_nll.exp(),
            },
            protocol: self.protocol,
            models: self.models.into_iter().zip(&found.models).map(model).collect(),
            texts,
        }
    }

    /// The same of one of the texts alone.
    fn on(&self, text: &Text, positions: usize) -> Facts {
        let compared = |m: &Compared| Compared { tensors: Vec::new(), ..m.clone() };
        Facts {
            base: self.base.clone(),
            architecture: self.architecture.clone(),
            protocol: Protocol {
                text: text.name.clone(),
                text_sha256: text.sha256.clone(),
                texts: vec![text.clone()],
                tokens: text.tokens,
                chunks: text.chunks,
                positions,
                ..self.protocol.clone()
            },
            models: self.models.iter().map(compared).collect(),
            ..*self
        }
    }
}

impl Report {
    /// The report as a JSON document; see `docs/report.md` for its fields.
    pub fn json(&self) -> serde_json::Value {
        // Only maps with keys that are no strings fail to serialize, and there is none. NaN becomes null.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }

    /// The report of each text: itself where there is one.
    pub fn by_text(&self) -> impl Iterator<Item = &Report> {
        or_itself(self, &self.texts)
    }

    /// What the bits per weight of models are made of, by their names, where a hundredth of the weights or more is not quantized.
    pub fn made_of(&self) -> Vec<(&str, String)> {
        let all = self.base.parameters;
        let mut told = Vec::new();
        for m in &self.models {
            let (part, share) = (m.quantized, m.quantized.weights as f64 / all as f64);
            let rest = all.saturating_sub(part.weights);
            if part.weights == 0 || rest == 0 || share >= 0.99 {
                continue;
            }
            let (own, share) = (part.bits_per_weight(), 100.0 * share);
            let bits = 8.0 * m.bytes.saturating_sub(part.bytes) as f64 / rest as f64;
            let of =
                format!("{own:.3} bits in the {share:.1} % of the weights that are quantized, {bits:.2} in the others");
            told.push((m.name.as_str(), of));
        }
        told
    }

    /// The models that no other one beats in both size and KL divergence, by position in `models`.
    pub fn pareto_front(&self) -> Vec<usize> {
        pareto_front(self.models.iter().map(|m| (m.bits_per_weight, m.divergence.kld.value)).collect())
    }
}

/// Which of these, of a size and a cost each, no other one beats in both.
fn pareto_front(costs: Vec<(f64, f64)>) -> Vec<usize> {
    let beats = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 <= b.1 && (a.0 < b.0 || a.1 < b.1);
    (0..costs.len()).filter(|&i| !costs.iter().any(|other| beats(other, &costs[i]))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with made-up but consistent numbers.
    pub(crate) fn sample() -> Report {
        let base_nll: Vec<f64> = (0..400).map(|i| 3.0 + f64::from(i % 13) * 0.2).collect();
        let model = |name: &str, bits: f64, noise: f32| {
            let positions: Vec<Position> = base_nll
                .iter()
                .enumerate()
                .map(|(i, nll)| Position {
                    nll: nll + f64::from(noise) * ((i % 7) as f64 - 2.5),
                    kld: noise * (1 + i % 5) as f32,
                    delta_p: noise * ((i % 3) as f32 - 1.0),
                    same_top: i % 50 != 0,
                })
                .collect();
            ModelRow {
                name: name.into(),
                bytes: (bits * 4_196_608.0 / 8.0) as u64,
                bits_per_weight: bits,
                quantized: Quantized { weights: 4_196_608, bytes: 2_360_592 },
                quantized_bits_per_weight: 4.5,
                importance: None,
                divergence: Divergence::of(&base_nll, &positions, 200),
                tensors: Vec::new(),
            }
        };
        let mean_nll = Estimate::of(base_nll.iter().copied(), 200);
        Report {
            schema: 1,
            program: "evaluate 0.1.0".into(),
            base: Base {
                name: "tiny-llama".into(),
                architecture: "llama".into(),
                parameters: 4_196_608,
                bytes: Some(8_393_216),
                bits_per_weight: 16.0,
                mean_nll,
                ppl: mean_nll.exp(),
            },
            protocol: Protocol {
                text: "sample.txt".into(),
                text_sha256: "00".repeat(32),
                texts: Vec::new(),
                tokens: 1024,
                context: 512,
                chunks: 2,
                first_scored: 256,
                positions: 400,
                arithmetic: "f32 on decoded weights".into(),
                device: None,
                seconds: 1.5,
            },
            models: vec![model("Q8_0", 8.5, 0.0001), model("Q4_K_M", 5.1, 0.01), model("Q4_0", 5.2, 0.02)],
            texts: Vec::new(),
        }
    }

    #[test]
    fn the_front_leaves_out_what_is_larger_and_worse() {
        assert_eq!(sample().pareto_front(), [0, 1]);
    }

    #[test]
    fn what_stays_in_sixteen_bits_is_told_apart() {
        let mut report = sample();
        assert!(report.made_of().is_empty(), "all is quantized");
        report.models[1].bytes = 2_097_152 / 2 + 2 * 2_099_456;
        report.models[1].quantized = Quantized { weights: 2_097_152, bytes: 2_097_152 / 2 };
        let told = "4.000 bits in the 50.0 % of the weights that are quantized, 16.00 in the others";
        assert_eq!(report.made_of(), [("Q4_K_M", told.to_owned())]);
    }

    #[test]
    fn missing_numbers_are_null() {
        let mut report = sample();
        report.models[0].divergence.ppl.error = f64::NAN;
        assert!(report.json()["models"][0]["divergence"]["ppl"]["error"].is_null());
    }
}
