//! A disk that loses power. Its image lies on an XFS that can clone files in an instant: a photograph of the image, taken
//! while somebody writes, is what a disk holds after a power cut: everything that has reached the block device, and
//! nothing of what only the kernel knows. (The drive's own cache is treated as safe, which is kinder than some drives.)

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::programs;

/// Room for the images; the file is sparse.
const SHELF_BYTES: u64 = 4 << 30;
/// A disk; the file is sparse. XFS wants 300 MB at least.
const DISK_BYTES: u64 = 512 << 20;

/// What the disk is formatted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults.
    Ext4,
    /// XFS with its defaults.
    Xfs,
}

/// A disk that is mounted.
#[derive(Debug)]
pub struct PowerDisk {
    /// Dropped before the shelf it lies on.
    live: Mount,
    shelf: Mount,
    image: PathBuf,
    photographs: u32,
}

/// What a disk held at one moment.
#[derive(Debug)]
#[must_use]
pub struct Photograph {
    image: PathBuf,
}

#[derive(Debug)]
struct Mount {
    at: PathBuf,
}

impl PowerDisk {
    /// Makes a disk in this folder and mounts it. Only root can.
    pub fn new(folder: &Path, file_system: FileSystem) -> Result<Self> {
        programs::demand_root("A disk that loses power")?;
        let shelf_image = folder.join("shelf.img");
        sparse(&shelf_image, SHELF_BYTES)?;
        run("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&shelf_image])?;
        let shelf = Mount::new(&shelf_image, folder.join("shelf"))?;
        let image = shelf.at.join("disk-0.img");
        sparse(&image, DISK_BYTES)?;
        match file_system {
            FileSystem::Ext4 => run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&image])?,
            FileSystem::Xfs => run("mkfs.xfs", &["-q"], &[&image])?,
        }
        let live = Mount::new(&image, folder.join("disk"))?;
        Ok(Self {
            live,
            shelf,
            image,
            photographs: 0,
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.live.at
    }

    /// What the disk holds at this moment, while others go on writing.
    pub fn photograph(&mut self) -> Result<Photograph> {
        self.photographs += 1;
        let image = self.shelf.at.join(format!("disk-{}.img", self.photographs));
        run("cp", &["--reflink=always"], &[&self.image, &image])?;
        Ok(Photograph { image })
    }

    /// The power is back: the disk holds what the photograph shows. Nobody may have files open on it.
    pub fn restore(&mut self, photograph: Photograph) -> Result<()> {
        self.live.leave()?;
        fs::remove_file(&self.image).with_context(|| format!("{}", self.image.display()))?;
        self.image = photograph.image;
        self.live.enter(&self.image)
    }
}

impl Mount {
    fn new(image: &Path, at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at).with_context(|| format!("{}", at.display()))?;
        let mount = Self { at };
        mount.enter(image)?;
        Ok(mount)
    }

    /// Mounts; the file system replays its journal.
    fn enter(&self, image: &Path) -> Result<()> {
        run("mount", &["-o", "loop"], &[image, &self.at])
    }

    fn leave(&self) -> Result<()> {
        run("umount", &[], &[&self.at])
    }
}

impl Drop for Mount {
    /// What cannot be unmounted in time is unmounted as soon as nobody uses it.
    fn drop(&mut self) {
        if self.leave().is_err() {
            // Already unmounted, or nothing more that could be done here.
            run("umount", &["--lazy"], &[&self.at]).ok();
        }
    }
}

fn sparse(path: &Path, bytes: u64) -> Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("{}", path.display()))
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<()> {
    let output = Command::new(programs::system(program)?)
        .args(options)
        .args(paths)
        .output()
        .with_context(|| format!("{program} does not start"))?;
    ensure!(
        output.status.success(),
        "{program} {options:?} {paths:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
