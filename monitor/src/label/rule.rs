//! Rules: which cgroups are tasks without anybody labelling them.

use serde::Deserialize;

use super::{
    Said,
    pattern::{Pattern, Template},
    place::Place,
};
use crate::budget::Settings;

/// A rule as it is written. All of its conditions must fit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Pattern of the cgroup's path.
    pub cgroup: Option<String>,
    /// Pattern of the name of the systemd unit whose cgroup it is.
    pub unit: Option<String>,
    /// What it must be.
    pub is: Option<Kind>,
    /// Name of the task, with captures.
    pub task: String,
    pub tenant: Option<String>,
    pub workflow: Option<String>,
    #[serde(default)]
    pub budget: Settings,
}

/// What a cgroup can be recognised as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Of Docker, Podman, containerd or CRI-O, in Kubernetes or not.
    Container,
    /// A login session.
    Session,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {number}: {what}")]
pub struct InvalidRule {
    /// Counted from 1.
    number: usize,
    what: String,
}

/// Captures that every rule has, where the path has them.
const GIVEN: [&str; 7] = ["unit", "instance", "container", "runtime", "pod", "session", "uid"];
/// Digits of a container's id, as tools show it.
const SHORT_ID: usize = 12;

/// Rules, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Ready>);

#[derive(Debug, Clone)]
struct Ready {
    cgroup: Option<Pattern>,
    unit: Option<Pattern>,
    is: Option<Kind>,
    task: Template,
    tenant: Option<Template>,
    workflow: Option<Template>,
    budget: Settings,
}

impl Rules {
    /// # Errors
    /// When one of them makes no sense; which, and what.
    pub fn new(rules: &[Rule]) -> Result<Self, InvalidRule> {
        let ready =
            rules.iter().zip(1..).map(|(rule, number)| Ready::new(rule).map_err(|what| InvalidRule { number, what }));
        ready.collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the first rule that fits says of the cgroup at a path from the root of the hierarchy, and its number, counted from 1.
    pub fn find(&self, path: &str) -> Option<(usize, Said)> {
        let place = Place::of(path);
        self.0.iter().zip(1..).find_map(|(rule, number)| Some((number, rule.apply(path, &place)?)))
    }
}

impl Ready {
    fn new(rule: &Rule) -> Result<Self, String> {
        if rule.cgroup.is_none() && rule.unit.is_none() && rule.is.is_none() {
            return Err("say which cgroups it is for: `cgroup`, `unit` or `is`".into());
        }
        let pattern = |key: &str, text: &Option<String>| {
            let pattern = text.as_deref().map(Pattern::new).transpose();
            pattern.map_err(|error| format!("{key}: {error}"))
        };
        let template = |key: &str, text: &Option<String>| {
            let template = text.as_deref().map(Template::new).transpose();
            template.map_err(|error| format!("{key}: {error}"))
        };
        if rule.cgroup.as_deref().is_some_and(|path| !path.starts_with(['/', '*'])) {
            return Err("cgroup: a path begins with `/`, at the root of the hierarchy".into());
        }
        let (cgroup, unit) = (pattern("cgroup", &rule.cgroup)?, pattern("unit", &rule.unit)?);
        let task = Template::new(&rule.task).map_err(|error| format!("task: {error}"))?;
        let (tenant, workflow) = (template("tenant", &rule.tenant)?, template("workflow", &rule.workflow)?);
        let known = |name: &str| {
            let captured = cgroup.iter().chain(&unit).flat_map(Pattern::names).any(|known| known == name);
            captured || GIVEN.contains(&name)
        };
        for (key, template) in [("task", Some(&task)), ("tenant", tenant.as_ref()), ("workflow", workflow.as_ref())] {
            let Some(template) = template else { continue };
            if let Some(unknown) = template.names().find(|name| !known(name)) {
                return Err(format!("{key}: nothing captures `{{{unknown}}}`"));
            }
            if template.fill(|_| Some("a".into())).is_none() {
                return Err(format!("{key}: `{template}` makes no name"));
            }
        }
        rule.budget.budget().map_err(|error| format!("budget.{error}"))?;
        Ok(Self { cgroup, unit, is: rule.is, task, tenant, workflow, budget: rule.budget.clone() })
    }

    fn apply(&self, path: &str, place: &Place<'_>) -> Option<Said> {
        let is = match self.is {
            Some(Kind::Container) => place.container.is_some(),
            Some(Kind::Session) => place.session.is_some(),
            None => true,
        };
        if !is || self.cgroup.as_ref().is_some_and(|pattern| !pattern.fits(path)) {
            return None;
        }
        let unit = match &self.unit {
            Some(pattern) => Some((pattern, place.unit.filter(|unit| pattern.fits(unit))?)),
            None => None,
        };
        let mut captures = self.cgroup.as_ref().map(|pattern| pattern.captures(path)).unwrap_or_default();
        captures.extend(unit.map(|(pattern, unit)| pattern.captures(unit)).unwrap_or_default());
        let value = |name: &str| {
            let captured = captures.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            captured.or_else(|| given(place, name))
        };
        let optional = |template: &Option<Template>| match template {
            Some(template) => template.fill(value).map(Some),
            None => Some(None),
        };
        Some(Said {
            task: self.task.fill(value)?,
            tenant: optional(&self.tenant)?,
            workflow: optional(&self.workflow)?,
            budget: self.budget.clone(),
        })
    }
}

fn given(place: &Place<'_>, name: &str) -> Option<String> {
    let value = match name {
        "unit" => place.unit?,
        "instance" => place.instance()?,
        "container" => place.container?.id.get(..SHORT_ID)?,
        "runtime" => place.container?.runtime,
        "pod" => place.container?.pod?,
        "session" => place.session?,
        "uid" => place.uid?,
        _ => return None,
    };
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Rule, Rules};

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(serde::Deserialize)]
        struct File {
            rule: Vec<Rule>,
        }
        toml::from_str::<File>(text).expect(text).rule
    }

    fn found(text: &str, path: &str) -> Option<(usize, String)> {
        let found = Rules::new(&rules(text)).expect(text).find(path);
        found.map(|(number, said)| {
            let labels =
                [said.tenant, said.workflow].map(|label| label.map_or_else(String::new, |label| format!(" {label}")));
            (number, format!("{}{}", said.task, labels.concat()))
        })
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        let text = r#"
            [[rule]]
            unit = "agent@{id}.service"
            task = "agent-{id}"
            tenant = "acme"
            [[rule]]
            cgroup = "/agents.slice/**"
            task = "other-{unit}"
            [[rule]]
            is = "container"
            task = "{runtime}-{container}"
            workflow = "ctr"
            [[rule]]
            is = "session"
            task = "login-{uid}-{session}"
        "#;
        let id = "0123456789ab".to_owned() + &"c".repeat(52);
        for (path, expected) in [
            ("/agents.slice/agent@7.service", Some((1, "agent-7 acme"))),
            ("/elsewhere.slice/agent@7.service", Some((1, "agent-7 acme"))),
            ("/agents.slice/x.service", Some((2, "other-x.service"))),
            // No unit, so there is nothing to name it by.
            ("/agents.slice/x.service/inner", None),
            (&format!("/docker/{id}"), Some((3, "docker-0123456789ab ctr"))),
            ("/user.slice/user-1000.slice/session-3.scope", Some((4, "login-1000-3"))),
            ("/user.slice/user-1000.slice", None),
            ("/system.slice/ssh.service", None),
            ("/agents.slice/agent@7.service/inner", None),
        ] {
            assert_eq!(found(text, path), expected.map(|(number, name)| (number, name.to_owned())), "{path}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_number() {
        for (wrong, said) in [
            ("task = \"a\"", "rule 1: say which cgroups"),
            ("unit = \"a\"\ntask = \"{b}\"", "rule 1: task: nothing captures `{b}`"),
            ("unit = \"{\"\ntask = \"a\"", "rule 1: unit: a `{`"),
            ("cgroup = \"a\"\ntask = \"a\"", "rule 1: cgroup: a path begins with"),
            ("unit = \"a\"\ntask = \"/\"", "rule 1: task: `/` makes no name"),
            ("unit = \"a\"\ntask = \"a\"\nbudget = { total = \"0\" }", "rule 1: budget.total"),
        ] {
            let error = Rules::new(&rules(&format!("[[rule]]\n{wrong}"))).expect_err(wrong).to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
