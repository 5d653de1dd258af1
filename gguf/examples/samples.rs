//! Writes the keys of every architecture's tiny model, as files without tensors: `samples FOLDER`. What llama.cpp's
//! loader takes for each key that is absent is computed from them (`.ci/architectures --defaults`).

use std::path::Path;

fn main() -> gguf::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    for row in gguf::arch::all() {
        let Some(metadata) = gguf::arch::sample(row) else { continue };
        let bytes = gguf::write::to_bytes(&metadata, &[], |_| Ok(Vec::new()))?;
        let path = Path::new(&folder).join(format!("{}.gguf", row.name));
        std::fs::write(&path, bytes).map_err(|e| gguf::Error::input("cannot be written").caused_by(e).at(&path))?;
    }
    Ok(())
}
