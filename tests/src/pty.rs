//! A program at a terminal of its own, whose screen can be read and whose keys can be pressed.

use std::{
    io::{Read as _, Write},
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use vt100::Parser;

use crate::daemon::{LIMIT, until};

/// A terminal of 80 by 24, which understands what an xterm does.
pub struct Terminal {
    master: Box<dyn MasterPty>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<Parser>>,
}

/// What the parser takes.
fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has lines and columns")
}

const fn size(columns: u16, lines: u16) -> PtySize {
    PtySize { rows: lines, cols: columns, pixel_width: 0, pixel_height: 0 }
}

impl Terminal {
    /// Starts a program at it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let pair = native_pty_system().openpty(size(80, 24)).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(program);
        command.args(arguments);
        command.env("TERM", "xterm");
        command.env_remove("NO_COLOR");
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).expect("starting a program at a terminal");
        let screen = Arc::new(Mutex::new(Parser::new(cells(24), cells(80), 0)));
        let (mut output, seen) = (pair.master.try_clone_reader().expect("a terminal's output"), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).process(&buffer[..length]);
            }
        });
        let keys = pair.master.take_writer().expect("a terminal's input");
        Self { master: pair.master, keys, child, screen }
    }

    fn parser(&self) -> MutexGuard<'_, Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines that are seen, without trailing blanks.
    pub fn lines(&self) -> Vec<String> {
        let parser = self.parser();
        let (_, columns) = parser.screen().size();
        parser.screen().rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect()
    }

    /// Whether anything is drawn in a colour.
    pub fn has_colours(&self) -> bool {
        let parser = self.parser();
        let (lines, columns) = parser.screen().size();
        let mut cells = (0..lines.get()).flat_map(|line| (0..columns.get()).map(move |column| (line, column)));
        cells.any(|(line, column)| {
            let cell = parser.screen().cell(line, column);
            cell.is_some_and(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
        })
    }

    /// Whether it is as a shell wants it: its own screen, and a cursor.
    pub fn is_restored(&self) -> bool {
        let parser = self.parser();
        !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
    }

    /// Waits until a line is as wanted, and gives it.
    ///
    /// # Panics
    /// When none is within [`LIMIT`].
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let found = until(|| self.lines().into_iter().find(|line| wanted(line)));
        found.unwrap_or_else(|| panic!("no line with {what} after {LIMIT:?}:\n{}", self.lines().join("\n")))
    }

    /// Presses keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("pressing keys");
    }

    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.parser().screen_mut().set_size(cells(lines), cells(columns));
        self.master.resize(size(columns, lines)).expect("resizing a terminal");
    }

    /// # Panics
    /// When the program is gone.
    pub fn pid(&self) -> u32 {
        self.child.process_id().expect("a process")
    }

    /// The exit code, once the program has ended.
    ///
    /// # Panics
    /// When it has not within [`LIMIT`].
    pub fn wait(&mut self) -> u32 {
        let ended = until(|| self.child.try_wait().expect("waiting for a child"));
        ended.unwrap_or_else(|| panic!("still running after {LIMIT:?}:\n{}", self.lines().join("\n"))).exit_code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
