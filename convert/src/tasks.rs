//! Adapters that a checkpoint holds beside its weights, one for each task (Jina v3): files of their own.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Component, Path};

use gguf::{Error, Metadata, Result, Shape, Source, TensorInfo, TensorType, Value};

use crate::transform::{self, Rows};

/// What a class says of one task.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What the matrices are multiplied with, times their rank.
    pub alpha: f32,
    /// What stands in front of the texts of this task.
    pub prefix: Option<String>,
    /// The matrices, by their names in the file.
    pub tensors: Vec<(String, Rows)>,
}

/// The adapter of a task as a GGUF file, all of it in f32.
#[derive(Debug)]
pub struct TaskAdapter {
    name: String,
    metadata: Metadata,
    infos: Vec<TensorInfo>,
    rows: Vec<Rows>,
}

impl TaskAdapter {
    pub(crate) fn new(architecture: &str, task: Task) -> Result<TaskAdapter> {
        // The name becomes part of a file's.
        let mut parts = Path::new(&task.name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || task.name.contains(|c: char| c.is_control() || c == '/' || c == '\\') {
            let shown = task.name.escape_debug();
            return Err(Error::input(format!("config.json: the task \"{shown}\" has no name that a file can have")));
        }
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture);
        metadata.set("general.type", "adapter");
        metadata.set("adapter.type", "lora");
        metadata.set("adapter.lora.alpha", task.alpha);
        metadata.set("adapter.lora.task_name", task.name.as_str());
        if let Some(prefix) = task.prefix {
            metadata.set("adapter.lora.prompt_prefix", Value::from(prefix));
        }
        let mut infos = Vec::with_capacity(task.tensors.len());
        for (name, rows) in &task.tensors {
            let shape: Vec<u64> = rows.shape().iter().rev().copied().collect();
            let shape = Shape::new(&shape).map_err(|e| e.in_tensor(name))?;
            infos.push(TensorInfo::new(name.clone(), shape, TensorType::F32)?);
        }
        let rows = task.tensors.into_iter().map(|(_, rows)| rows).collect();
        Ok(TaskAdapter { name: task.name, metadata, infos, rows })
    }

    /// The task.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its file is called beside that of the model.
    pub fn file_name(&self, model: &str) -> String {
        format!("lora-{}-{model}", self.name)
    }
}

impl Source for TaskAdapter {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        transform::rows_of(&self.infos, &self.rows, tensor, rows)
    }

    fn unrounded(&self, tensor: usize, rows: Range<u64>) -> Result<Option<Vec<f32>>> {
        transform::unrounded(&self.infos, &self.rows, tensor, rows)
    }
}
