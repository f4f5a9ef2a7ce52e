//! The few things the spool asks of a disk, so that its tests can have one that fills up, tears and loses power.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look at; it must exist.
    Read,
    /// To change; it must exist.
    Change,
    /// To change; made if it is not there.
    Make,
    /// Anew and empty.
    Fresh,
}

/// One directory.
pub trait Disk: Send {
    /// Takes the directory for as long as the value lives; false if somebody else has it.
    fn lock(&mut self) -> io::Result<bool>;
    /// The names of what is in it, in no order; names that are not UTF-8 are not ours and left out.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file of it.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; what had that name before is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// A file's path as a message shows it; the empty name stands for the directory.
    fn show(&self, name: &str) -> String;
}

/// One open file.
pub trait DiskFile: Send {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads some bytes; 0 is the end.
    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes some of the bytes, at least one.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// Cuts or lengthens it.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes its bytes survive a power cut; its name is the directory's matter.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all the bytes, however short the single writes are.
///
/// # Errors
/// As the first write that fails; part of the bytes may be written.
pub fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, at) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A directory of the file system.
pub struct RealDisk {
    path: PathBuf,
    /// Held, so that the lock is.
    lock: Option<File>,
}

impl RealDisk {
    /// The directory, made with its parents if it is not there, for the owner only: records may tell what others should not know.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(path: &Path) -> io::Result<RealDisk> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // Some file systems cannot sync a directory; then the name is as durable as they make it.
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        Ok(RealDisk::at(path))
    }

    /// The directory as it is.
    pub fn at(path: &Path) -> RealDisk {
        RealDisk { path: path.to_owned(), lock: None }
    }
}

impl Disk for RealDisk {
    fn lock(&mut self) -> io::Result<bool> {
        // Opened and not emptied: it may be somebody else's at the moment.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join(super::LOCK))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).mode(0o600);
        options.create(matches!(access, Access::Make | Access::Fresh)).truncate(access == Access::Fresh);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        match File::open(&self.path)?.sync_all() {
            // The file system has no such thing as syncing a directory (some network file systems).
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            result => result,
        }
    }

    fn show(&self, name: &str) -> String {
        if name.is_empty() { self.path.display().to_string() } else { self.path.join(name).display().to_string() }
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, room, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, at)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
