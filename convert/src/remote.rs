//! Names of models and files on the Hugging Face hub.

use gguf::{Error, Result};

/// The beginning of names on the hub.
pub(crate) const SCHEME: &str = "hf://";

/// A model or file on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// One file instead of the checkpoint.
    pub file: Option<String>,
}

impl Remote {
    /// Reads `hf://OWNER/NAME[/FILE][@REVISION]`, where the beginning may be missing.
    ///
    /// # Errors
    /// Text of another form.
    pub fn parse(text: &str) -> Result<Remote> {
        let form = || {
            Error::usage(format!("\"{}\" is not of the form hf://OWNER/NAME[/FILE][@REVISION]", text.escape_debug()))
        };
        let name = text.strip_prefix(SCHEME).unwrap_or(text);
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let mut parts = name.split('/');
        let repository = [parts.next(), parts.next()].into_iter().flatten().collect::<Vec<_>>();
        let file: Vec<&str> = parts.collect();
        let is_revision = !revision.is_empty() && revision.split('/').all(is_part);
        if repository.len() != 2 || !repository.iter().chain(&file).all(|p| is_part(p)) || !is_revision {
            return Err(form());
        }
        let file = (!file.is_empty()).then(|| file.join("/"));
        Ok(Remote { repository: repository.join("/"), revision: revision.to_owned(), file })
    }

    /// The folder of the repository in a cache.
    pub fn folder_name(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether this is a name between slashes that leads nowhere else.
pub(crate) fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && part.chars().all(plain) && !part.starts_with('.') && !part.contains("..")
}
