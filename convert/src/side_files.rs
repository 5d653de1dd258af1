//! The files beside the weights that a conversion reads, by their names.

/// Endings of configurations, tokenizers and templates.
const ENDINGS: &[&str] = &[".json", ".model", ".jinja", ".tiktoken"];

/// Other names: vocabularies in plain text, the model card, Mistral's tokenizers by version.
const NAMES: &[&str] = &["vocab.txt", "merges.txt", "README.md"];

/// The folder of chat templates that have names.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// Whether a file beside the weights is read where it is there.
pub(crate) fn is_side(name: &str) -> bool {
    let of_mistral = || name.starts_with("tokenizer.model.v");
    let index = name.ends_with(".index.json") && name != "model.safetensors.index.json";
    (ENDINGS.iter().any(|e| name.ends_with(e)) || NAMES.contains(&name) || LICENSES.contains(&name) || of_mistral())
        && !index
}

/// Names of the licence, which a Modelfile quotes; the first that is there counts.
pub(crate) const LICENSES: [&str; 3] = ["LICENSE", "LICENSE.txt", "LICENSE.md"];

/// Whether a file in a folder of the checkpoint is read: that of a module of an embedding model, `1_Pooling/config.json`,
/// or a chat template of a name.
pub(crate) fn is_module(folder: &str, name: &str) -> bool {
    if folder == TEMPLATES {
        return name.ends_with(".jinja");
    }
    let numbered = folder.starts_with(|c: char| c.is_ascii_digit()) && folder.contains('_');
    numbered && (name == "config.json" || name == "model.safetensors")
}
