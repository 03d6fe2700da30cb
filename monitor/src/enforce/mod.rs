//! Decisions become effects: the gate in the kernel, signals, and the task's cgroup.
//!
//! In: a decision. Out: its effect, confirmed.
//!
//! **Invariant:** every effect can be repeated without harm, and a kill is not reported as done before the cgroup and every process that
//! ever belonged to the task are seen gone.

mod attributes;
mod cgroup;
mod cpu;
mod freeze;
mod gate;
mod sockets;
mod stop;
mod wake;

pub use attributes::{AttributeError, label_of, write_label};
pub use cgroup::{Cgroup, CgroupError, Hierarchy};
pub use cpu::{QuotaBefore, cpu_used, cpu_used_by, forget_cpu_limit, limit_cpu, unlimit_cpu};
pub use freeze::{FreezeError, freeze, thaw};
pub use gate::{Gates, GatesError};
pub use sockets::{SocketsError, Which, end_connections, end_sockets, has_local_connections};
pub use stop::{Held, KillError, Killed, held_state, kill_process, kill_task, resume, stop};
pub use wake::send_again;
