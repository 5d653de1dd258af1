//! Finished layers on disk, so that a run that was stopped goes on where it was.
//!
//! Beside the output lies a folder `OUTPUT.optimize` until the run is done: a file for each finished layer, and
//! `state.json`, which says what run they belong to (by a digest of the model, the types, the text and the options) and
//! what their bytes must be. A file counts only when its digest is in the state, which is written after it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::digest::sha256;
use gguf::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Stage;

/// One finished layer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Finished {
    /// Its tensors in the order of the file: position in the source, bytes.
    pub tensors: Vec<(usize, u64)>,
    /// Mean squares of the inputs: position in the source, values behind the tensors' bytes.
    pub importance: Vec<(usize, u64)>,
    /// What became of its stages.
    pub stages: Vec<Stage>,
    /// SHA-256 of the file.
    sha256: String,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    digest: String,
    layers: Vec<Finished>,
}

/// The folder of a run.
pub struct Store {
    folder: PathBuf,
    state: State,
}

impl Store {
    /// Opens the folder for an output. With `resume`, layers that an earlier run with the same digest finished are kept.
    ///
    /// # Errors
    /// A folder that cannot be written; with `resume`, one of another run.
    pub fn open(output: &Path, digest: &str, resume: bool) -> Result<Store> {
        let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = output.with_file_name(format!("{name}.optimize"));
        let mut store = Store { folder, state: State { digest: digest.to_owned(), layers: Vec::new() } };
        if let (true, Ok(text)) = (resume, fs::read_to_string(store.state_path())) {
            let state: State = serde_json::from_str(&text)
                .map_err(|e| Error::input("is no state of a run").caused_by(e.to_string()).at(store.state_path()))?;
            if state.digest != digest {
                return Err(Error::input("the finished layers are of another model, text or options")
                    .at(&store.folder)
                    .help("give the same model and options, or begin anew without --resume"));
            }
            store.state = state;
        }
        fs::create_dir_all(&store.folder).map_err(|e| Error::io(&store.folder, "create the folder", e))?;
        Ok(store)
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn state_path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    fn layer_path(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("layer-{layer:04}"))
    }

    /// Layers that are finished.
    pub fn finished(&self) -> &[Finished] {
        &self.state.layers
    }

    /// Keeps a layer: the bytes of its tensors and the importance of their columns.
    ///
    /// # Errors
    /// What writing meets.
    pub fn add(
        &mut self,
        tensors: &[(usize, &[u8])],
        importance: &[(usize, &[f32])],
        stages: Vec<Stage>,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        tensors.iter().for_each(|t| bytes.extend_from_slice(t.1));
        importance.iter().for_each(|i| bytes.extend(i.1.iter().flat_map(|v| v.to_le_bytes())));
        let path = self.layer_path(self.state.layers.len());
        write(&path, &bytes)?;
        self.state.layers.push(Finished {
            tensors: tensors.iter().map(|t| (t.0, t.1.len() as u64)).collect(),
            importance: importance.iter().map(|i| (i.0, i.1.len() as u64)).collect(),
            stages,
            sha256: sha256(&bytes),
        });
        let state = serde_json::to_vec(&self.state).map_err(|e| Error::usage(e.to_string()))?;
        write(&self.state_path(), &state)
    }

    /// The tensors of a finished layer, and the importance of their columns.
    ///
    /// # Errors
    /// A file that is missing or not what was written.
    #[allow(clippy::type_complexity)]
    pub fn read(&self, layer: usize) -> Result<(Vec<(usize, Vec<u8>)>, Vec<(usize, Vec<f32>)>)> {
        let path = self.layer_path(layer);
        let finished = &self.state.layers[layer];
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        if sha256(&bytes) != finished.sha256 {
            return Err(Error::input("is not what was written").at(&path).help("begin anew without --resume"));
        }
        let mut rest = bytes.as_slice();
        let mut take = |len: u64| -> &[u8] {
            let (taken, behind) = rest.split_at((len as usize).min(rest.len()));
            rest = behind;
            taken
        };
        let tensors = finished.tensors.iter().map(|&(tensor, len)| (tensor, take(len).to_vec())).collect();
        let importance = finished
            .importance
            .iter()
            .map(|&(tensor, len)| {
                let values = take(4 * len).as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
                (tensor, values)
            })
            .collect();
        Ok((tensors, importance))
    }

    /// Removes the folder: the output is whole.
    ///
    /// # Errors
    /// What removing meets.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, "remove the folder", e))
    }
}

/// Writes a file so that it is there as a whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let failed = |e| Error::io(path, "write", e);
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_back_for_the_same_run_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.gguf");
        let mut store = Store::open(&output, "one", false).unwrap();
        let stage = Stage { tensors: vec!["a".into()], errors: Some((0.1, 0.05)), plain: false };
        store.add(&[(3, &[1, 2, 3]), (5, &[4])], &[(3, &[0.5, 2.0])], vec![stage]).unwrap();
        let again = Store::open(&output, "one", true).unwrap();
        assert_eq!(again.finished().len(), 1);
        assert_eq!(again.finished()[0].stages[0].errors, Some((0.1, 0.05)));
        let (tensors, importance) = again.read(0).unwrap();
        assert_eq!(tensors, [(3, vec![1, 2, 3]), (5, vec![4])]);
        assert_eq!(importance, [(3, vec![0.5, 2.0])]);
        assert!(Store::open(&output, "two", true).is_err());
        fs::write(again.layer_path(0), [0; 12]).unwrap();
        assert!(again.read(0).is_err());
        assert!(Store::open(&output, "one", false).unwrap().finished().is_empty());
        again.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
