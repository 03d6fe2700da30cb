//! The daemon as a service: what it tells systemd, and a configuration that is read again.
//!
//! Outside systemd there is nobody to tell, and nothing is.

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;

use super::{daemon::Args, one_line};
use crate::{
    api::Rights,
    config::Config,
    engine::{Command, Handle},
};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be told: {error}");
    }
}

pub fn ready() {
    tell(&[NotifyState::Ready]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells systemd that the engine works, as often as the unit wants to hear it (`WatchdogSec=`): it is asked each time, so one that hangs is
/// not kept alive by a thread that does not.
pub async fn watchdog(engine: Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // As sd_watchdog_enabled(3) advises, and once more, for an answer that comes late.
    let every = limit / 3;
    loop {
        let answer = tokio::time::timeout(every, engine.ask(|reply| Command::Ping { reply })).await;
        match answer {
            Ok(Some(())) => tell(&[NotifyState::Watchdog]),
            // It ends.
            Ok(None) => return,
            Err(_) => tracing::warn!("the engine has not answered for {every:?}"),
        }
        tokio::time::sleep(every).await;
    }
}

/// Reads the configuration again at each `SIGHUP`. One that is wrong changes nothing.
pub async fn reload(mut signals: Signal, args: Args, mut config: Config, engine: Handle, rights: Rights) {
    while signals.recv().await.is_some() {
        let now = NotifyState::monotonic_usec_now();
        tell(&std::iter::once(NotifyState::Reloading).chain(now.ok()).collect::<Vec<_>>());
        let said = match args.load() {
            Ok(new) => {
                let unchanged = config.needs_restart(&new);
                let answer = engine.ask(|reply| Command::Configure { config: Box::new(new.clone()), reply }).await;
                if answer.is_none() {
                    return;
                }
                if let Err(error) = rights.set(new.users.clone()) {
                    tracing::error!("who may use the socket could not be set: {error}");
                }
                for key in &unchanged {
                    tracing::warn!("[{key}] has changed: that takes effect when the daemon is started again");
                }
                tracing::info!("the configuration was read again");
                // What needs a restart is compared with what holds.
                config = Config {
                    daemon: config.daemon,
                    cgroup: config.cgroup,
                    kernel: config.kernel,
                    metrics: config.metrics,
                    webhook: config.webhook,
                    ..new
                };
                "the configuration was read again".to_owned()
            }
            Err(error) => {
                let error = one_line(&error.into());
                tracing::error!("the configuration was not read again, and the one before holds: {error}");
                format!("reload failed: {error}")
            }
        };
        tell(&[NotifyState::Ready, NotifyState::Status(&said)]);
    }
}
