//! A page agent: an agent without units, which serves only the API and the page and takes part in no deploy.

use std::process::Command;
use std::sync::Mutex;

use cutover_rig::process::Process;
use rustix::process::Signal;

use crate::fleet::node::Node;
use crate::fleet::run;
use crate::fleet::web::Web;
use crate::fleet::{Fleet, LIMIT, wait_until};
use crate::rig::token;

/// Where page agents listen that share an address with a node's agent.
const OTHER_PORT: u16 = 8741;

/// An agent without units.
pub(crate) struct PageAgent(Node);

impl PageAgent {
    /// Beside the server, or else beside the node that is counted so, and asking its Consul agent.
    pub(crate) fn start(fleet: &Fleet, beside: Option<usize>) -> Self {
        let (name, consul) = match beside {
            None => ("n1".to_owned(), fleet.consul.address.clone()),
            Some(index) => (fleet.nodes[index].name.clone(), fleet.local_consul(index).address),
        };
        let port = if beside.is_none() { 8740 } else { OTHER_PORT };
        let api = format!("{}:{port}", consul.trim_end_matches(":8500"));
        let dir = fleet.dir.path().join(format!("page-{name}"));
        std::fs::create_dir(&dir).unwrap();
        let token_file = dir.join("token").display().to_string();
        let settings = format!(
            "node = \"{name}\"\n[consul]\naddress = \"http://{consul}\"\ntoken_file = \"{token_file}\"\n\
             [api]\nlisten = \"{api}\"\ncompare_url = \"https://git.example.com/{{app}}/compare/{{from}}...{{to}}\"\n"
        );
        std::fs::write(dir.join("cutover.toml"), settings).unwrap();
        let agent = Self(Node { deploy_to: dir.join("none"), name, dir, api, agent: Mutex::new(None) });
        agent.0.set_token(&token(fleet, &format!("page-{}", agent.0.name), "api", &agent.0.name));
        agent.start_again();
        agent
    }

    /// Starts its agent, and waits until it answers.
    pub(crate) fn start_again(&self) {
        let Node { dir, name, agent, .. } = &self.0;
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.arg("agent").arg("--config").arg(dir.join("cutover.toml"));
        run::clean_env(&mut command, dir);
        *agent.lock().unwrap() = Some(Process::spawn(format!("page agent {name}"), command, &dir.join("log")).unwrap());
        wait_until(LIMIT, &format!("the page agent at {name} listens"), || {
            assert!(self.0.is_running(), "the page agent at {name} has ended:\n{}", self.0.log_tail());
            std::net::TcpStream::connect(&self.0.api).ok()
        });
        assert_eq!(Web::of(&self.0).get("/v1/health/live").status, 200);
    }

    /// Kills its agent (SIGKILL).
    pub(crate) fn kill(&self) {
        self.0.agent.lock().unwrap().as_mut().unwrap().kill().unwrap();
    }

    /// Stops its agent (SIGSTOP): its connections stay open and send nothing.
    pub(crate) fn freeze(&self) {
        self.0.signal(Signal::STOP);
    }

    /// `127.x.y.z:8740`
    pub(crate) fn address(&self) -> &str {
        &self.0.api
    }

    pub(crate) fn log_tail(&self) -> String {
        self.0.log_tail()
    }
}
