//! The guest: a minimal Debian 12 with the distribution's kernel, built once and kept in a directory named by the hash of its recipe.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::command;

const SUITE: &str = "bookworm";
const PACKAGES: &str = "systemd,systemd-sysv,systemd-container,dbus,udev,kmod,initramfs-tools,zstd,curl,ca-certificates,openssl,libssl3,procps";
const KERNEL: &str = "linux-image-amd64";
/// MiB of its disk.
const DISK: u32 = 1024;

/// What is done to the tree before the kernel is installed: an initial file system with no more than this machine needs.
const BEFORE: &str = r"
printf 'MODULES=list\nCOMPRESS=zstd\nBUSYBOX=n\n' > etc/initramfs-tools/conf.d/lean
printf 'virtio_pci\nvirtio_blk\next4\n' >> etc/initramfs-tools/modules
";

/// What is done after it.
const AFTER: &str = r"
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc/* usr/share/locale/* usr/share/man/*
mkdir -p usr/share/man/man1
for modules in lib/modules/*; do
    version=${modules##*/}
    cd $modules/kernel
    rm -rf sound drivers/gpu drivers/media drivers/infiniband drivers/scsi drivers/iio drivers/staging drivers/isdn drivers/input \
        drivers/hid drivers/usb drivers/video drivers/leds drivers/md drivers/mmc drivers/mtd drivers/bluetooth drivers/ata \
        drivers/hwmon drivers/net/wireless drivers/net/ethernet drivers/net/usb drivers/net/phy drivers/net/can \
        fs/ocfs2 fs/gfs2 fs/xfs fs/btrfs fs/nfs fs/nfsd fs/ceph fs/smb fs/f2fs fs/jfs fs/reiserfs fs/afs fs/udf
    cd - > /dev/null
    chroot . depmod $version
done
echo guest > etc/hostname
printf '127.0.0.1 localhost guest\n::1 localhost\n' > etc/hosts
printf '/dev/vda / ext4 noatime 0 1\n/dev/vdb /payload ext4 ro 0 0\n' > etc/fstab
mkdir payload
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' > etc/systemd/journald.conf.d/guest.conf
cat > etc/systemd/system/guest.service <<END
[Unit]
Description=Checks of Tollgate
After=multi-user.target
RequiresMountsFor=/payload
FailureAction=poweroff-force

[Service]
Type=exec
ExecStart=/payload/run
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1

[Install]
WantedBy=multi-user.target
END
chroot . systemctl --quiet enable guest.service
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service systemd-pstore.service \
    getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyS1.service systemd-timesyncd.service dpkg-db-backup.timer; do
    ln -sf /dev/null etc/systemd/system/$unit
done
";

/// Files of a guest.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub disk: PathBuf,
}

/// The guest of this recipe, built if it is not there.
pub fn find_or_build(target: &Path) -> Result<Guest> {
    let mut hasher = DefaultHasher::new();
    (SUITE, PACKAGES, KERNEL, DISK, BEFORE, AFTER).hash(&mut hasher);
    let home = target.join(format!("vm-{:016x}", hasher.finish()));
    if !home.is_dir() {
        build(&home)?;
    }
    Ok(Guest { kernel: home.join("vmlinuz"), initrd: home.join("initrd.img"), disk: home.join("disk.img") })
}

fn build(home: &Path) -> Result<()> {
    println!("vm: building a Debian 12 guest in {} (two minutes or three)", home.display());
    let scratch = home.with_extension("new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let tree = scratch.join("tree");
    fs::create_dir_all(&tree)?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]).arg(&tree).arg(archive()?);
    command::quietly(&mut debootstrap)?;
    in_tree(&tree, BEFORE)?;
    // Its scripts look at /proc, in a mount namespace that goes with them.
    let install = format!(
        "mount -t proc proc proc; export DEBIAN_FRONTEND=noninteractive; chroot . apt-get update -qq; \
         chroot . apt-get install -y -qq --no-install-recommends {KERNEL}"
    );
    in_tree(&tree, &install)?;
    for (file, name) in [("boot/vmlinuz-", "vmlinuz"), ("boot/initrd.img-", "initrd.img")] {
        let found = fs::read_dir(tree.join("boot"))?.flatten().map(|entry| entry.path());
        let prefix = tree.join(file).display().to_string();
        let path = found.filter(|path| path.display().to_string().starts_with(&prefix)).max();
        fs::copy(path.with_context(|| format!("the kernel's package has no {file}*"))?, scratch.join(name))?;
    }
    in_tree(&tree, AFTER)?;
    make_image(&tree, &scratch.join("disk.img"), "root", DISK)?;
    fs::remove_dir_all(&tree)?;
    fs::rename(&scratch, home).with_context(|| format!("cannot put the guest into {}", home.display()))
}

/// The archive that this machine takes its own packages of the suite from.
fn archive() -> Result<String> {
    let filters = ["Created-By: Packages", &format!("Codename: {SUITE}"), "Component: main"];
    let listed =
        command::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).args(filters))?;
    let first = listed.lines().next().map(str::to_owned);
    first
        .with_context(|| format!("no package source of this machine is of Debian's {SUITE}: the guest cannot be built"))
}

/// Runs a script at the root of the tree.
fn in_tree(tree: &Path, script: &str) -> Result<()> {
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-ec", script]).current_dir(tree);
    command::quietly(&mut shell)
}

/// A file system of so many MiB with what is in a directory.
pub fn make_image(directory: &Path, image: &Path, label: &str, mebibytes: u32) -> Result<()> {
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-L", label, "-d"]).arg(directory).arg(image);
    mkfs.arg(format!("{mebibytes}M"));
    command::quietly(&mut mkfs)
}
