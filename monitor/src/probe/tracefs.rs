//! Where the kernel describes its tracepoints.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const MOUNT_POINT: &str = "/sys/kernel/tracing";

/// Path of a mounted tracefs; mounts it at its usual place where nobody has.
pub fn find_or_mount() -> io::Result<PathBuf> {
    for place in [MOUNT_POINT, "/sys/kernel/debug/tracing"] {
        if Path::new(place).join("events/sched").is_dir() {
            return Ok(place.into());
        }
    }
    nix::mount::mount(Some("tracefs"), MOUNT_POINT, Some("tracefs"), nix::mount::MsFlags::empty(), None::<&str>)?;
    Ok(MOUNT_POINT.into())
}

/// Whether this kernel has a tracepoint.
pub fn has(tracefs: &Path, event: &str) -> bool {
    tracefs.join("events").join(event).exists()
}

/// Byte offset of a field in the records of a tracepoint, from the event's own `format` file.
pub fn field_offset(tracefs: &Path, event: &str, field: &str) -> io::Result<u32> {
    let path = tracefs.join("events").join(event).join("format");
    let format = fs::read_to_string(&path)?;
    parse_field_offset(&format, field)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no field `{field}` in {}", path.display())))
}

/// A line reads `field:unsigned long clone_flags; offset:32; size:8; signed:0;`, with tabs.
fn parse_field_offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let name = parts.next()?.rsplit(' ').next()?.split('[').next()?;
        let offset = parts.next()?.strip_prefix("offset:")?;
        (name == field).then(|| offset.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::parse_field_offset;

    const FORMAT: &str = "name: task_newtask\nID: 155\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;\n\
        \tfield:__data_loc char[] filename;\toffset:28;\tsize:4;\tsigned:0;\n\
        \tfield:unsigned long clone_flags;\toffset:32;\tsize:8;\tsigned:0;\n";

    #[test]
    fn finds_fields_by_name() {
        assert_eq!(parse_field_offset(FORMAT, "pid"), Some(8));
        assert_eq!(parse_field_offset(FORMAT, "comm"), Some(12));
        assert_eq!(parse_field_offset(FORMAT, "filename"), Some(28));
        assert_eq!(parse_field_offset(FORMAT, "clone_flags"), Some(32));
        assert_eq!(parse_field_offset(FORMAT, "absent"), None);
    }
}
