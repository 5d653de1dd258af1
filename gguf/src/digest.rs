//! SHA-256 of bytes and of files, in hexadecimal digits.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result, quote};

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    quote::hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, with its number of bytes. `read` is told of bytes as they are read.
///
/// # Errors
/// What opening and reading meet.
pub fn sha256_file(path: &Path, mut read: impl FnMut(u64)) -> Result<(String, u64)> {
    let failed = |e| Error::io(path, "read", e);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok((quote::hex(&hash.finalize()), bytes)),
            n => {
                hash.update(&piece[..n]);
                bytes += n as u64;
                read(n as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut seen = 0;
        assert_eq!(sha256_file(&path, |n| seen += n).unwrap(), (known.to_owned(), 3));
        assert_eq!((sha256(b"abc").as_str(), seen), (known, 3));
        assert!(sha256_file(&folder.path().join("none"), |_| ()).is_err());
    }
}
