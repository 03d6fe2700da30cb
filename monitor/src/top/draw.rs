//! What is seen of the model.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    model::{Dialog, Link, Model, Sort, TaskLine},
    text::{clean, elapsed, fit, fit_right, short},
    tree,
};

/// Whether colours add to what is said in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Plain,
    Colours,
}

/// Columns beside the name of a task.
const STATE: usize = 9;
const SPENT: usize = 10;
const RATE: usize = 9;
const BAR: usize = 10;
/// The bar in its brackets, and the percentage.
const BUDGET: usize = BAR + 8;
const CALLS: usize = 6;
const MARK: usize = 2;
/// With the spaces between the columns.
const BESIDE: usize = MARK + STATE + SPENT + RATE + BUDGET + CALLS + 5;
/// What a name needs at least, before other columns are cut off.
const NAME: usize = 8;
/// Lines that are always there: title, header, separator, message, keys.
const FIXED: usize = 5;

const KEYS: &str = "q quit  ? help  arrows select  p pause  r resume  a approve  k kill  s sort";

const HELP: [&str; 13] = [
    "up, down, PgUp, PgDn, Home, End   select a task",
    "p   pause: the task is frozen until it is resumed",
    "r   resume: what a pause or a decision without a limit holds goes on",
    "a   approve: the task may spend so much more, in USD;",
    "    without an amount, its calls that wait for a yes may go",
    "k   kill: the task is stopped for good",
    "s   sort by spend, percent of the cap, name, burn rate; a star marks it",
    "q   quit; tasks and daemon go on",
    "",
    "$/HOUR is over the last minute seen here, `-` for less than 5 seconds of it.",
    "BUDGET is what counts toward the cap of the whole task, in percent of it.",
    "Agents are processes that have made calls, below those that started them.",
    "Any key closes this.",
];

/// A line with how it is written.
struct Row {
    text: String,
    style: Style,
}

impl Row {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new() }
    }

    fn reversed(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().add_modifier(Modifier::REVERSED) }
    }

    fn bold(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().add_modifier(Modifier::BOLD) }
    }
}

/// Draws a frame. What finds no room is cut off at the right, and tasks and agents at the bottom.
pub fn draw(model: &Model, look: Look, area: Rect, buffer: &mut Buffer) {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    for (row, y) in rows(model, look, width, height).into_iter().zip(area.top()..area.bottom()) {
        buffer.set_stringn(area.x, y, fit(&row.text, width), width, row.style);
    }
}

/// A frame of its own size, without what only a person needs.
pub fn plain(model: &Model, width: u16) -> String {
    let columns = usize::from(width);
    let details = details(model);
    let height = FIXED + model.tasks.len().max(1) + details.len();
    let area = Rect::new(0, 0, width, u16::try_from(height).unwrap_or(u16::MAX));
    let mut rows = rows(model, Look::Plain, columns, usize::from(area.height));
    // Keys, and the line for messages.
    rows.truncate(rows.len().saturating_sub(2));
    let lines: Vec<String> = rows.iter().map(|row| fit(&row.text, columns).trim_end().to_owned()).collect();
    lines.join("\n").trim_end().to_owned()
}

fn rows(model: &Model, look: Look, width: usize, height: usize) -> Vec<Row> {
    let mut rows = vec![title(model, width)];
    let room = height.saturating_sub(FIXED);
    if model.dialog == Some(Dialog::Help) {
        rows.extend(HELP.iter().take(height.saturating_sub(3)).map(|line| Row::new(*line)));
    } else {
        let details = details(model);
        // Details get what tasks leave, and up to half of the room if they need it.
        let for_tasks = model.tasks.len().max(1).min(room.saturating_sub(details.len()).max(room.div_ceil(2)));
        let selected = model.selected_line().map_or(0, |(index, _)| index);
        let first = (selected + 1).saturating_sub(for_tasks);
        rows.push(Row::bold(header(model.sort, width)));
        let shown = model.tasks.iter().skip(first).take(for_tasks);
        rows.extend(shown.map(|line| task(model, look, line, width)));
        if model.tasks.is_empty() {
            rows.push(Row::new(match model.link {
                Link::Answers => "  no tasks; start one with `tollgate run --task NAME --budget USD -- COMMAND`",
                _ => "  nothing is known yet",
            }));
        }
        rows.push(separator(model, first, for_tasks, width));
        rows.extend(details.into_iter().map(Row::new).take(room.saturating_sub(for_tasks)));
    }
    rows.truncate(height.saturating_sub(2));
    rows.resize_with(height.saturating_sub(2), || Row::new(""));
    rows.push(message(model));
    rows.push(Row::reversed(fit(KEYS, width)));
    rows
}

fn title(model: &Model, width: usize) -> Row {
    let Some(daemon) = &model.daemon else { return Row::reversed(fit("tollgate top", width)) };
    let rate = model.total_rate().map_or_else(|| "-".to_owned(), |rate| format!("{}/hour", short(rate)));
    let alive = model.tasks.iter().filter(|line| !matches!(line.state.as_str(), "stopped" | "ended")).count();
    let spent = short(model.tasks.iter().map(|line| line.spent_usd).sum());
    let away = if matches!(model.link, Link::Away { .. }) { " AWAY: as it was last seen" } else { "" };
    let text = format!(
        "tollgate {}{away}  up {}  {alive} of {} tasks run  spent {spent}  {rate}",
        clean(&daemon.version),
        elapsed(daemon.uptime_s),
        model.tasks.len(),
    );
    Row::reversed(fit(&text, width))
}

fn name_width(width: usize) -> usize {
    width.saturating_sub(BESIDE).max(NAME)
}

/// A star marks what is sorted by.
fn header(sort: Sort, width: usize) -> String {
    let column = |name: &str, sorted: Sort| if sort == sorted { format!("*{name}") } else { name.to_owned() };
    format!(
        "{}{} {} {} {} {} {}",
        " ".repeat(MARK),
        fit(&column("TASK", Sort::Name), name_width(width)),
        fit("STATE", STATE),
        fit_right(&column("SPENT", Sort::Spent), SPENT),
        fit_right(&column("$/HOUR", Sort::Rate), RATE),
        fit(&column("BUDGET", Sort::Percent), BUDGET),
        fit_right("CALLS", CALLS),
    )
}

fn task(model: &Model, look: Look, line: &TaskLine, width: usize) -> Row {
    let is_selected = model.selected_line().is_some_and(|(_, selected)| selected.task == line.task);
    let text = format!(
        "{}{} {} {} {} {} {}",
        if is_selected { "> " } else { "  " },
        fit(&clean(line.task.as_str()), name_width(width)),
        fit(&clean(&line.state), STATE),
        fit_right(&short(line.spent_usd), SPENT),
        fit_right(&model.rate(&line.task).map_or_else(|| "-".into(), short), RATE),
        fit(&budget(line), BUDGET),
        fit_right(&line.calls.to_string(), CALLS),
    );
    let mut style = Style::new();
    if is_selected {
        style = style.add_modifier(Modifier::BOLD);
    }
    if look == Look::Colours {
        style = match (line.state.as_str(), line.percent()) {
            ("stopped" | "stopping" | "cut", _) => style.fg(Color::Red),
            ("paused" | "throttled", _) => style.fg(Color::Yellow),
            ("ended", _) => style.fg(Color::DarkGray),
            (_, Some(100..)) => style.fg(Color::Red),
            (_, Some(80..)) => style.fg(Color::Yellow),
            _ => style,
        };
    }
    Row { text, style }
}

/// A bar of what counts toward the cap.
fn budget(line: &TaskLine) -> String {
    let Some(percent) = line.percent() else { return "no cap".into() };
    let full = usize::try_from(percent).unwrap_or(usize::MAX).min(100) * BAR / 100;
    let percent = if percent > 9999 { ">9999".to_owned() } else { percent.to_string() };
    format!("[{}{}] {}%", "#".repeat(full), ".".repeat(BAR - full), fit_right(&percent, 4).trim_start())
}

fn separator(model: &Model, first: usize, shown: usize, width: usize) -> Row {
    let mut text = String::from("--");
    if let Some((_, line)) = model.selected_line() {
        text.push_str(&format!(" {}: {} --", clean(line.task.as_str()), clean(&line.state)));
    }
    if model.tasks.len() > shown {
        text.push_str(&format!(" tasks {} to {} of {} --", first + 1, first + shown, model.tasks.len()));
    }
    let missing = width.saturating_sub(text.len());
    Row::new(text + &"-".repeat(missing))
}

/// What there is to say about the selected task, exactly.
fn details(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    if !model.losses.is_empty() {
        lines.push(format!("LOSSES: {}", clean(&model.losses.join(", "))));
    }
    let Some((_, line)) = model.selected_line() else { return lines };
    let of = line.cap_usd.map_or_else(|| ", no cap".into(), |cap| format!(" of ${cap}"));
    lines.push(format!("spent ${}{of}, held ${}, lent ${}", line.spent_usd, line.held_usd, line.lent_usd));
    let mut counts = format!("{} processes, {} calls in flight", line.processes, line.in_flight);
    if let Some(agents) = line.counts.get("sub_agents_alive") {
        counts.push_str(&format!(", {agents} sub-agents alive"));
    }
    if line.coverage.connections > 0 {
        let share = line.coverage.per_mille();
        counts.push_str(&format!(", {}.{} % of what it sends is read", share / 10, share % 10));
    }
    lines.push(counts);
    let labels = [
        line.labels.tenant.as_ref().map(|tenant| format!("tenant {tenant}")),
        line.labels.workflow.as_ref().map(|workflow| format!("workflow {workflow}")),
        line.labels.parent.as_ref().map(|parent| format!("part of {parent}")),
    ];
    let labels: Vec<String> = labels.into_iter().flatten().collect();
    if !labels.is_empty() {
        lines.push(labels.join(", "));
    }
    if line.waiting > 0 {
        lines.push(format!("WAITING: {} requests want a yes: `a`, or `tollgate deny`", line.waiting));
    }
    if line.unpriced > 0 {
        lines.push(format!("UNPRICED: {} calls; they count ${} toward the cap", line.unpriced, line.ceilings_usd));
    }
    if line.unread > 0 {
        lines.push(format!("UNREAD: {} connections or calls could not be read", line.unread));
    }
    if let Some(trouble) = &line.trouble {
        lines.push(format!("TROUBLE: {} incidents, the last one: {}", line.incidents, clean(trouble)));
    }
    lines.extend(tree::lines(model.tree()));
    lines
}

/// The line in which things are asked and said.
fn message(model: &Model) -> Row {
    match &model.dialog {
        Some(Dialog::Amount { task, text }) => {
            Row::bold(format!("USD more for {task}: {text}_   (Enter; nothing: let waiting calls go; Esc)"))
        }
        Some(Dialog::Confirm { question, .. }) => Row::bold(format!("{question} y/n")),
        _ => match (&model.link, &model.message) {
            (Link::Away { why, since, now }, _) => {
                let seconds = now.saturating_sub(*since).as_secs();
                Row::bold(format!("DAEMON AWAY for {}, trying again: {why}", elapsed(seconds)))
            }
            (Link::Asking, None) => Row::new("asking the daemon ..."),
            (_, Some(message)) => Row::new(clean(message)),
            (Link::Answers, None) => Row::new(""),
        },
    }
}
