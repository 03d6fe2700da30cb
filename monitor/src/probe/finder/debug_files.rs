//! Separate debug files, which distributions ship beside stripped programs.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{
    contents::Contents,
    image::{self, Depth, Image},
};

const DIRECTORY: &str = "usr/lib/debug";
/// A larger file is summed up to here only, and will not match.
const MAX_SUMMED: u64 = 4 << 30;

/// A debug file of the image, verified to belong to it.
#[derive(Debug)]
pub struct DebugFile {
    pub path: PathBuf,
    pub contents: Contents,
}

/// Looks under `root` for the debug file of the `image` that lies at `path`: by build id, then by the name it gives.
pub fn find(image: &Image<'_>, path: &Path, root: &Path) -> Option<DebugFile> {
    let by_id = image.build_id.and_then(by_build_id).map(|relative| root.join(DIRECTORY).join(relative));
    let directory = path.parent().unwrap_or(Path::new("/"));
    let below = root.join(DIRECTORY).join(directory.strip_prefix("/").unwrap_or(directory));
    let by_name = image.debug_link().into_iter().flat_map(|(name, checksum)| {
        let name = Path::new(OsStr::from_bytes(name));
        // A name that leads elsewhere is none.
        let name = name.file_name().filter(|file| *file == name.as_os_str()).map(PathBuf::from);
        let places = [directory.to_owned(), directory.join(".debug"), below.clone()];
        name.into_iter().flat_map(move |name| places.clone().map(|place| (place.join(&name), checksum)))
    });
    let candidates = by_id.map(|path| (path, None)).into_iter().chain(by_name.map(|(path, sum)| (path, Some(sum))));
    candidates.into_iter().find_map(|(candidate, checksum)| verified(&candidate, image.build_id, checksum))
}

fn by_build_id(id: &[u8]) -> Option<PathBuf> {
    let hexadecimal = hexadecimal(id);
    let (first, rest) = hexadecimal.split_at_checked(2)?;
    (!rest.is_empty()).then(|| PathBuf::from(format!(".build-id/{first}/{rest}.debug")))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// It belongs to the image if both have the same build id; where there is none, if its checksum is the one that the image names.
fn verified(path: &Path, build_id: Option<&[u8]>, checksum: Option<u32>) -> Option<DebugFile> {
    let mut file = super::open(path).ok()?;
    let contents = image::read(&mut file, Depth::Names).ok()?;
    let debug = Image::parse(&contents).ok()?;
    let belongs = match (build_id, debug.build_id) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => checksum.is_some_and(|expected| checksum_of(path) == Some(expected)),
    };
    belongs.then(|| DebugFile { path: path.to_owned(), contents })
}

fn checksum_of(path: &Path) -> Option<u32> {
    use std::io::Read as _;
    let mut file = super::open(path).ok()?.take(MAX_SUMMED);
    let mut checksum = flate2::Crc::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(checksum.sum()),
            read => checksum.update(buffer.get(..read)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_ids_become_paths() {
        assert_eq!(by_build_id(&[0xab, 0xcd, 0x01]), Some(".build-id/ab/cd01.debug".into()));
        assert_eq!(by_build_id(&[0xab]), None);
        assert_eq!(by_build_id(&[]), None);
    }
}
