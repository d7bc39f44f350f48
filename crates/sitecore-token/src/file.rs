//! Reads small files defensively: a path may be a pipe, a folder or a huge file.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::Path,
};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    text,
};

/// Larger than any login file or secret.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads an id or a secret from a file, without a byte order mark and surrounding white space.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if this is not a regular file that can be read, if it is
/// larger than 1 MiB, or if its text is not an id or a secret. The error names the file and what to
/// do.
#[doc(hidden)]
pub fn read_credential(path: &Path) -> Result<SecretString> {
    let place = path.display().to_string();
    let file = open(path, true).map_err(|error| {
        Error::config(format!("cannot read {place}; check the path and its permissions"))
            .with_source(error)
    })?;
    let bytes = read(file, &place)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Error::config(format!(
            "{place} is not UTF-8; save it as UTF-8 (in PowerShell with `-Encoding utf8`)"
        ))
    })?;
    Ok(SecretString::from(text::check(&place, text)?))
}

/// Reads an open file to its end. `place` is its name for messages.
pub(crate) fn read(mut file: File, place: &str) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |error: io::Error| {
        Error::config(format!("cannot read {place}; check its file system")).with_source(error)
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Error::config(format!(
            "{place} is not a regular file; use the path of a regular file"
        )));
    }
    if metadata.len() > MAX_BYTES {
        return Err(Error::config(format!(
            "{place} is larger than {MAX_BYTES} bytes; check the path"
        )));
    }
    // Large enough, because a buffer that grows leaves copies behind.
    let capacity = metadata.len() as usize + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.by_ref().take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Opens a file without blocking, in case the path is a pipe.
#[cfg(unix)]
pub(crate) fn open(path: &Path, follow_symlink: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;

    let mut flags = OFlags::NONBLOCK;
    flags.set(OFlags::NOFOLLOW, !follow_symlink);
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(not(unix))]
pub(crate) fn open(path: &Path, follow_symlink: bool) -> io::Result<File> {
    if !follow_symlink && path.symlink_metadata()?.is_symlink() {
        return Err(io::Error::other("a symbolic link"));
    }
    File::open(path)
}

/// Returns why a file is not trusted: another user owns it, or others can change it.
#[cfg(unix)]
#[doc(hidden)]
#[must_use]
pub fn distrust(metadata: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt as _;

    if metadata.uid() != rustix::process::geteuid().as_raw() {
        Some(
            "belongs to another user and is not trusted; log in again as the user that runs this program",
        )
    } else if metadata.mode() & 0o022 != 0 {
        Some("can be changed by other users and is not trusted; run `chmod go-w` on it")
    } else {
        None
    }
}

/// On other systems, the folder's own permissions must protect the file.
#[cfg(not(unix))]
#[doc(hidden)]
#[must_use]
pub fn distrust(_: &Metadata) -> Option<&'static str> {
    None
}
