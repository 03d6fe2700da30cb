//! The loop around it all, and the terminal, which is left as it was found.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    draw, keys,
    keys::Wish,
    link,
    link::{Ask, Heard},
    model::Model,
    text::clean,
};
use crate::{api::client::Client, engine::AccountStatus};

/// How long keys are waited for before the daemon's answers are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How it came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Somebody wanted out.
    Quit,
    /// A signal of that number came.
    Signal(u8),
}

/// Restores the terminal when it goes, also while a panic unwinds.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        // Also makes a panic restore the terminal before it says anything.
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What fails here has nobody left to be told to: a terminal that is gone.
        self.0.show_cursor().ok();
        ratatui::try_restore().ok();
    }
}

/// Draws and takes keys until somebody wants out.
///
/// # Errors
/// When there is no terminal, or it goes away.
pub fn run(client: Client, interval: Duration, look: draw::Look) -> io::Result<End> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), usize::try_from(number).unwrap_or_default())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let ((asks, asked), (hears, heard)) = (mpsc::channel(), mpsc::channel());
    let link = thread::spawn(move || runtime.block_on(link::keep(&client, interval, &asked, &hears)));
    let mut screen = Screen::open()?;
    let mut model = Model::default();
    let start = Instant::now();
    let mut followed = None;
    loop {
        screen.0.draw(|frame| draw::draw(&model, look, frame.area(), frame.buffer_mut()))?;
        if is_pressed()?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
        {
            match keys::press(&mut model, key) {
                Some(Wish::Quit) => return Ok(End::Quit),
                Some(Wish::Order(order)) => {
                    model.message = Some(format!("ordering for {} ...", order.account));
                    tell(&asks, Ask::Order(order))?;
                }
                None => {}
            }
        }
        hear(&mut model, &heard, start);
        if link.is_finished() {
            return Err(gone());
        }
        if model.selected() != followed {
            followed = model.selected();
            tell(&asks, Ask::Look(followed.clone()))?;
        }
        if let Ok(number @ 1..) = u8::try_from(signal.load(Ordering::Relaxed)) {
            return Ok(End::Signal(number));
        }
    }
}

/// Whether there is something to read; a signal ends the wait, too.
fn is_pressed() -> io::Result<bool> {
    match event::poll(TICK) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        polled => polled,
    }
}

/// It ends before the screen only by a panic, which has said why.
fn gone() -> io::Error {
    io::Error::other("the thread that asks the daemon has ended")
}

fn tell(asks: &Sender<Ask>, ask: Ask) -> io::Result<()> {
    asks.send(ask).map_err(|_| gone())
}

fn hear(model: &mut Model, heard: &Receiver<Heard>, start: Instant) {
    for heard in heard.try_iter() {
        match heard {
            Heard::Seen(seen) => model.seen(*seen, start.elapsed()),
            Heard::Processes(task, processes) => model.processes((task, processes)),
            Heard::Away(why) => model.away(clean(&why), start.elapsed()),
            Heard::Refused(why) => model.message = Some(format!("REFUSED: {}", clean(&why))),
            Heard::Ordered(status) => model.message = Some(done(&status)),
        }
    }
}

fn done(status: &AccountStatus) -> String {
    let in_force = match (&status.action, &status.reason) {
        (Some(action), Some(reason)) => format!("in force: {action} ({reason})"),
        _ => "nothing in force".to_owned(),
    };
    clean(&format!("done: {}: {in_force}", status.account))
}
