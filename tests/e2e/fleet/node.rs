//! One node of a fleet: its directory, its settings, its agent's process, and the hooks that tests drive.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use cutover_rig::process::Process;
use rustix::process::Signal;

use crate::fleet::{FleetSpec, LIMIT, UNIT, wait_until};

/// How much of a log is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// One node: its place on the disk, and its agent.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) deploy_to: PathBuf,
    /// Where its agent's HTTP is.
    pub(crate) api: String,
    pub(crate) agent: Mutex<Option<Process>>,
}

impl Node {
    /// What `current` points to.
    pub(crate) fn current(&self) -> Option<String> {
        std::fs::read_link(self.deploy_to.join("current")).ok().map(|link| link.to_string_lossy().into_owned())
    }

    /// A file below `deploy_to`.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.deploy_to.join(path)).ok()
    }

    /// The names below `deploy_to`, sorted.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.deploy_to.join(path)).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let mut names: Vec<_> = entries.into_iter().filter_map(|it| it.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub(crate) fn is_running(&self) -> bool {
        self.agent.lock().unwrap().as_mut().is_some_and(|agent| agent.ended().unwrap().is_none())
    }

    /// Everything that its agent has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Sends its agent a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.agent.lock().unwrap().as_mut().unwrap().signal(signal).unwrap();
    }

    /// How often its agent's log says this.
    pub(crate) fn logged(&self, words: &str) -> usize {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default().matches(words).count()
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    pub(crate) fn set_token(&self, token: &str) {
        std::fs::write(self.dir.join("token"), token).unwrap();
    }

    fn ctl(&self, name: &str) -> PathBuf {
        self.dir.join("ctl").join(name)
    }

    /// Makes a hook wait when it runs, until [`Node::release`].
    pub(crate) fn hold(&self, hook: &str) {
        // What a killed agent's hook has left behind.
        _ = std::fs::remove_file(self.ctl(&format!("at-{hook}")));
        std::fs::write(self.ctl(&format!("hold-{hook}")), "").unwrap();
    }

    /// Lets a held hook go on.
    pub(crate) fn release(&self, hook: &str) {
        std::fs::remove_file(self.ctl(&format!("hold-{hook}"))).unwrap();
    }

    /// Makes a hook fail with exit code 3, printing `words`.
    pub(crate) fn fail(&self, hook: &str, words: &str) {
        std::fs::write(self.ctl(&format!("fail-{hook}")), words).unwrap();
    }

    /// Lets a hook succeed again.
    pub(crate) fn mend(&self, hook: &str) {
        std::fs::remove_file(self.ctl(&format!("fail-{hook}"))).unwrap();
    }

    /// Which hooks have run, in order.
    pub(crate) fn hooks_run(&self) -> Vec<String> {
        std::fs::read_to_string(self.ctl("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// For which artifacts a hook has run, in order.
    pub(crate) fn hook_ran_for(&self, hook: &str) -> Vec<String> {
        let ran = std::fs::read_to_string(self.ctl("ran-for")).unwrap_or_default();
        ran.lines().filter_map(|line| line.strip_prefix(hook)?.strip_prefix(' ')).map(str::to_owned).collect()
    }

    /// Whether a hook is held now.
    pub(crate) fn is_at(&self, hook: &str) -> bool {
        self.ctl(&format!("at-{hook}")).exists()
    }

    /// Waits until a hook is held.
    pub(crate) fn wait_hook(&self, hook: &str) {
        wait_until(LIMIT, &format!("the {hook} hook of {} runs", self.name), || self.is_at(hook).then_some(()));
    }

    /// The environment and directory that a hook was last run with.
    pub(crate) fn hook_env(&self, hook: &str) -> String {
        std::fs::read_to_string(self.ctl(&format!("{hook}.env"))).unwrap_or_default()
    }

    pub(crate) fn write_hook(&self) {
        let script = format!(
            "#!/bin/sh\ncd_was=$(pwd -P)\ncd {}\n\
             {{ env | grep '^CUTOVER_' | sort; echo \"PWD=$cd_was\"; }} >$1.env\n\
             echo $1 >>ran\necho $1 $CUTOVER_ARTIFACT >>ran-for\n\
             if [ -e hold-$1 ]; then : >at-$1; while [ -e hold-$1 ]; do sleep 0.05; done; rm -f at-$1; fi\n\
             if [ -e fail-$1 ]; then cat fail-$1; exit 3; fi\n",
            self.dir.join("ctl").display()
        );
        std::fs::write(self.dir.join("hook"), script).unwrap();
    }

    pub(crate) fn write_config(&self, index: usize, consul: &str, store: &str, spec: &FleetSpec) {
        let mut text = format!("node = \"{}\"\n[consul]\naddress = \"{consul}\"\n", self.name);
        if spec.acl {
            writeln!(text, "token_file = \"{}\"", self.dir.join("token").display()).unwrap();
        }
        // Networks of a test's own are no loopback.
        let plain = if self.api.starts_with("127.") { "" } else { "plain_http = true\n" };
        let mut settings = (spec.settings)(index, self.dir.parent().unwrap());
        if !settings.contains("prefetch") {
            settings.push_str("prefetch = [\"master\"]\n");
        }
        // Most tests wait for prefetched builds.
        if !settings.contains("[fetch]") && !settings.contains("prefetch = []") {
            text.push_str("[fetch]\nspread = \"0s\"\n");
        }
        write!(
            text,
            "[store]\n{store}[cache]\ndir = \"{}\"\n[api]\nlisten = \"{}\"\n{plain}[deploy.\"{UNIT}\"]\ndeploy_to = \"{}\"\n\
             {settings}\n",
            self.dir.join("cache").display(),
            self.api,
            self.deploy_to.display(),
        )
        .unwrap();
        if spec.hooks {
            let hook = self.dir.join("hook");
            writeln!(text, "[deploy.\"{UNIT}\".hooks]").unwrap();
            for name in ["prepare", "switched", "check", "reverted"] {
                writeln!(
                    text,
                    "{name} = {{ command = [\"sh\", \"{}\", \"{name}\"], timeout = \"100s\" }}",
                    hook.display()
                )
                .unwrap();
            }
        }
        std::fs::write(self.dir.join("cutover.toml"), text).unwrap();
    }
}
