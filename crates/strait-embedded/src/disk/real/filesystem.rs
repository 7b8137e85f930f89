//! Which file systems a data directory may be on.

use std::fs;
use std::io;
use std::path::Path;

/// Network file systems by the magic number that `statfs` gives (linux/magic.h and the file systems' own sources).
const NETWORK: [(u32, &str); 10] = [
    (0x6969, "nfs"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x517B, "smb"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "ceph"),
    (0x5346_414F, "afs"),
    (0x7375_7245, "coda"),
    (0x0BD0_0BD0, "lustre"),
    (0x4750_4653, "gpfs"),
];
const FUSE: u32 = 0x6573_5546;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58F6;
const OVERLAY: u32 = 0x794C_7630;
/// FUSE types that are the file systems of a disk here.
const LOCAL_FUSE: [&str; 3] = ["fuseblk", "fuse.ntfs-3g", "fuse.lowntfs-3g"];

/// Refuses network file systems by name; returns what to warn about.
pub(super) fn check(dir: &fs::File, path: &Path) -> io::Result<Vec<String>> {
    let magic = rustix::fs::fstatfs(dir)?.f_type as u32;
    let fuse = if magic == FUSE { fuse_type(dir)? } else { None };
    match judge(magic, fuse.as_deref()) {
        Judgement::Fine => Ok(Vec::new()),
        Judgement::Warn(what) => Ok(vec![format!("{}: {what}", path.display())]),
        Judgement::Refuse(name) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} is on {name}, a network file system: its locks and fsyncs do not keep the data safe; \
                 choose a directory on a local disk",
                path.display()
            ),
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Fine,
    Warn(&'static str),
    Refuse(String),
}

fn judge(magic: u32, fuse: Option<&str>) -> Judgement {
    if let Some((_, name)) = NETWORK.iter().find(|(number, _)| *number == magic) {
        return Judgement::Refuse((*name).to_owned());
    }
    match (magic, fuse) {
        (TMPFS | RAMFS, _) => {
            Judgement::Warn("tmpfs: everything in it is lost when the machine restarts")
        }
        (OVERLAY, _) => Judgement::Warn(
            "overlay: what is in it usually goes with the container; mount a volume for data",
        ),
        (FUSE, Some(name)) if LOCAL_FUSE.contains(&name) => Judgement::Warn(
            "a FUSE file system: whether its fsync reaches the disk depends on its program",
        ),
        (FUSE, name) => Judgement::Refuse(name.unwrap_or("fuse").to_owned()),
        _ => Judgement::Fine,
    }
}

/// The type of a FUSE file system, for example `fuse.sshfs`, from the table of mounts (proc(5), `mountinfo`).
fn fuse_type(dir: &fs::File) -> io::Result<Option<String>> {
    let dev = rustix::fs::fstat(dir)?.st_dev;
    let dev = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    Ok(type_in(&fs::read_to_string("/proc/self/mountinfo")?, &dev))
}

fn type_in(mounts: &str, dev: &str) -> Option<String> {
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(dev))?;
    let (_, after) = line.split_once(" - ")?;
    after.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_by_name() {
        assert_eq!(judge(0x6969, None), Judgement::Refuse("nfs".into()));
        assert_eq!(
            judge(FUSE, Some("fuse.sshfs")),
            Judgement::Refuse("fuse.sshfs".into())
        );
        assert_eq!(judge(FUSE, None), Judgement::Refuse("fuse".into()));
        assert!(matches!(judge(FUSE, Some("fuseblk")), Judgement::Warn(_)));
        assert!(matches!(judge(TMPFS, None), Judgement::Warn(_)));
        assert_eq!(judge(0xEF53, None), Judgement::Fine, "ext4");
    }

    #[test]
    fn the_type_of_a_mount_is_found_by_its_device() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      36 22 0:52 / /mnt/far rw,nosuid shared:9 - fuse.sshfs me@far:/ rw,user_id=0\n";
        assert_eq!(type_in(mounts, "0:52").as_deref(), Some("fuse.sshfs"));
        assert_eq!(type_in(mounts, "0:5"), None);
    }
}
