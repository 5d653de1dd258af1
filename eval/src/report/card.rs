//! The quality card: a block of Markdown for a model's page.

use std::fmt::Write as _;

use gguf::cli::count;

use super::text::markdown;
use super::{Origin, Report};

/// What a card says beside the report.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The commands that measure the same, a line each, without paths of a machine.
    pub commands: Vec<String>,
}

/// The report as a card: the table, digests of the texts, where importance matrices came from, commands.
pub fn card(report: &Report, card: &Card) -> String {
    let (base, protocol) = (&report.base, &report.protocol);
    let mut out = format!("## What the precision cost\n\n{}", markdown(report));
    // Writing to a string cannot fail.
    out += "\n### Texts\n\n| text | SHA-256 | tokens | chunks |\n| :-- | :-- | --: | --: |\n";
    for text in &protocol.texts {
        let (name, tokens) = (text.name.replace('|', "\\|"), count(text.tokens as u64));
        let _ = writeln!(out, "| {name} | `{}` | {tokens} | {} |", text.sha256, text.chunks);
    }
    let origins: Vec<(&str, &Origin)> =
        report.models.iter().filter_map(|m| Some((m.name.as_str(), m.importance.as_ref()?))).collect();
    out += "\n### Importance matrix\n\n";
    if origins.is_empty() {
        out += "None was used, as far as the files say.\n";
    }
    let mut told: Vec<(&Origin, Vec<&str>)> = Vec::new();
    for (name, origin) in origins {
        match told.iter_mut().find(|(other, _)| *other == origin) {
            Some((_, names)) => names.push(name),
            None => told.push((origin, vec![name])),
        }
    }
    for (origin, names) in told {
        let _ = write!(out, "- {}: `{}`", names.join(", "), origin.file);
        if !origin.datasets.is_empty() {
            let _ = write!(out, " of {}", origin.datasets.join(", "));
        }
        if let Some(chunks) = origin.chunks {
            let _ = write!(out, ", {} chunks", count(chunks));
        }
        if let Some(sha256) = &origin.sha256 {
            let _ = write!(out, ", SHA-256 `{sha256}`");
        }
        out.push('\n');
    }
    if !card.commands.is_empty() {
        out += "\n### How to measure it again\n\n```sh\n";
        card.commands.iter().for_each(|command| _ = writeln!(out, "{command}"));
        out += "```\n";
    }
    out + &format!(
        "\nMeasured with {}, {}: {} against {} ({} weights).\n",
        report.program,
        protocol.computed(),
        report.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        base.name,
        count(base.parameters),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Text;
    use crate::report::tests::sample;

    #[test]
    fn a_card_has_table_digests_origin_and_commands() {
        let mut report = sample();
        report.protocol.texts = vec![Text { name: "a|b.txt".into(), sha256: "ab".repeat(32), tokens: 1024, chunks: 2 }];
        let origin = Origin { file: "i.gguf".into(), datasets: vec!["c.txt".into()], chunks: Some(24), sha256: None };
        report.models[1].importance = Some(origin.clone());
        report.models[2].importance = Some(origin);
        let text = card(&report, &Card { commands: vec!["evaluate compare m --text a".into()] });
        for part in [
            "| model |",
            "| a\\|b.txt | `abab",
            "- Q4_K_M, Q4_0: `i.gguf` of c.txt, 24 chunks\n",
            "```sh\nevaluate compare m --text a\n```",
            "evaluate 0.1.0",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(card(&sample(), &Card::default()).contains("None was used"));
    }
}
