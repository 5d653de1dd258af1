//! The one error of the whole pipeline.
//!
//! Every crate to the right of this one uses the same type, so that a fault deep in a shard of a checkpoint
//! reaches the person with its file, tensor and way out, and a program needs one place to choose an exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is, which is what exit codes and callers want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that makes no sense (exit code 2).
    Usage,
    /// The input is malformed, incomplete or unsupported (exit code 3).
    Input,
    /// The system failed: I/O, no space, no permission (exit code 4).
    System,
    /// The user interrupted the work (exit code 130 by convention of shells).
    Interrupted,
}

/// What went wrong, where, and the way out.
///
/// [`Display`](fmt::Display) prints one line, `file: message (at byte N): cause`; [`Error::help`] is the line after it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    tensor: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind. The message names the rule and the offender.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            offset: None,
            tensor: None,
            help: None,
            source: None,
        }))
    }

    /// The input is malformed, incomplete or unsupported.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Input, message)
    }

    /// The caller asked for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }

    /// An I/O error on a file. Missing files and wrong file kinds are faults of the input, the rest of the system.
    pub fn io(path: impl AsRef<Path>, doing: &str, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof => ErrorKind::Input,
            io::ErrorKind::Interrupted => ErrorKind::Interrupted,
            _ => ErrorKind::System,
        };
        Error::new(kind, format!("cannot {doing}")).at(path).caused_by(source)
    }

    /// The same error with the file it happened in (the innermost one named wins).
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Error {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// The same error with the byte of the file it was found at.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Error {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// The same error with the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.0.help.get_or_insert_with(|| help.into());
        self
    }

    /// The same error with what it is about in front.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Error {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// The same error with the tensor it happened in (the innermost one named wins).
    #[must_use]
    pub fn in_tensor(mut self, name: impl fmt::Display) -> Error {
        if self.0.tensor.is_some() {
            return self;
        }
        let name = name.to_string();
        self = self.about(format_args!("tensor {name}"));
        self.0.tensor = Some(name);
        self
    }

    /// The same error of a file that has got, or would have got, this name: it wins over the one that is named.
    #[must_use]
    pub fn of_file(mut self, path: impl AsRef<Path>) -> Error {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone, without file and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message and the way out on one line, as readers of arguments give it.
    pub fn on_one_line(&self) -> String {
        match self.way_out() {
            Some(help) => format!("{}: {help}", self.message()),
            None => self.message().to_owned(),
        }
    }

    /// The file, where one is known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The tensor, where one is known.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The byte of the file, where one is known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The way out, where one is known.
    pub fn way_out(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", crate::quote::path(path))?;
        }
        f.write_str(&crate::quote::text(&self.0.message))?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at byte {offset})")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {}", crate::quote::text(&source.to_string()))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} error: {self}", self.0.kind)?;
        if let Some(help) = &self.0.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The cause is part of the message already; what lies behind it is not.
        self.0.source.as_deref().and_then(StdError::source)
    }
}
