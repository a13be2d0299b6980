//! From a call to its answer: who asks, with which token, and what came of it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use jiff::Timestamp;

use super::command::{Asked, Command};
use super::reply::Reply;
use super::signature::{Replays, verify};
use crate::config::{ChatSettings, ChatUser};
use crate::consul::Secret;
use crate::control::{Access, Failure, operate, read, request};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::record::Author;
use crate::protocol::record::{Request, Wanted};

/// What chat asks through, as the record says it.
const VIA: &str = "chat";

/// Deploys from chat, for as long as an agent serves them.
#[derive(Debug)]
pub struct Chat {
    settings: ChatSettings,
    replays: Mutex<Replays>,
}

/// What chat needs of whoever serves it.
pub trait Surroundings: Send + Sync {
    /// Consul with the rights of the token in this file, and of no other.
    ///
    /// # Errors
    ///
    /// A file without a token. The failure is shown to the user.
    fn delegate(&self, token_file: &Path) -> impl Future<Output = Result<Access, Failure>> + Send;

    /// The same for one write of this name's, which is vouched for.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    fn attested_by(&self, access: Access, name: &str) -> impl Future<Output = Result<Access, Failure>> + Send;
}

/// A user's command, from a call that is not taken again: to be carried out once, to its end.
#[derive(Debug)]
pub struct Order {
    asked: Asked,
    unit: Unit,
    user: ChatUser,
}

impl Chat {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: ChatSettings) -> Self {
        Self { settings, replays: Mutex::default() }
    }

    /// What a call asks for, once.
    ///
    /// # Errors
    ///
    /// The answer to a call that nothing is to be done for: it is not Slack's, not new, nobody's, or asks for help.
    ///
    /// # Cancel safety
    ///
    /// Safe: a cancelled call was not seen, and may come again.
    pub async fn admit(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Order, Reply> {
        let file = &self.settings.signing_secret_file;
        let secret = Secret::read(file).await.map_err(|error| {
            tracing::error!(file = %file.display(), %error, "chat cannot be answered");
            Reply::broken()
        })?;
        let admitted = verify(&secret, headers, body, now)
            .and_then(|signed| self.replays.lock().unwrap_or_else(PoisonError::into_inner).admit(signed, now));
        if let Err(why) = admitted {
            tracing::warn!(%why, "a call of chat is not answered");
            return Err(Reply::rejected(why));
        }
        let asked = Asked::parse(body);
        if asked.command == Command::SslCheck {
            return Err(Reply::empty());
        }
        let Some(user) = self.settings.users.get(&asked.user) else {
            tracing::warn!(user = ?asked.user, "a user of the chat is not in the settings");
            return Err(Reply::unknown(&asked.user));
        };
        let unit = match &asked.command {
            Command::Help { problem } => return Err(Reply::help(&asked, problem)),
            Command::SslCheck => return Err(Reply::empty()),
            Command::Abort { unit }
            | Command::Deploy { unit, .. }
            | Command::Rollback { unit, .. }
            | Command::Status { unit } => unit.clone(),
        };
        Ok(Order { asked, unit, user: user.clone() })
    }
}

impl Order {
    /// The answer where carrying it out takes longer than Slack waits.
    #[must_use]
    pub fn late(&self) -> Reply {
        Reply::late(&self.asked, &self.unit)
    }

    /// Does it, and tells what came of it.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled order may have been written, or be written yet.
    pub async fn carry_out(self, surroundings: &impl Surroundings) -> Reply {
        let Self { asked, unit, user } = self;
        carry_out(surroundings, &asked, &unit, &user).await.unwrap_or_else(|failure| {
            tracing::info!(%unit, by = %user.name, why = %failure.chain(), "chat has asked, and nothing was done");
            Reply::failed(&unit, &user.name, &failure)
        })
    }
}

async fn carry_out(
    surroundings: &impl Surroundings,
    asked: &Asked,
    unit: &Unit,
    user: &ChatUser,
) -> Result<Reply, Failure> {
    let access = surroundings.delegate(&user.token_file).await?;
    let wanted = match &asked.command {
        Command::Status { .. } => return Ok(Reply::status(&read::status(&access, unit).await?)),
        Command::Deploy { reference, .. } => Some(Wanted::Deploy(reference.clone())),
        Command::Rollback { to, .. } => Some(Wanted::Rollback(to.clone())),
        Command::Abort { .. } | Command::Help { .. } | Command::SslCheck => None,
    };
    let who = Delegate::new(surroundings, access, user).await?;
    let (epoch, what) = match wanted {
        Some(wanted) => {
            let what = match &wanted {
                Wanted::Deploy(selector) => format!("a deploy of {selector}"),
                Wanted::Rollback(None) => "a rollback".to_owned(),
                Wanted::Rollback(Some(artifact)) => format!("a rollback to {artifact}"),
            };
            (who.ask(unit, wanted).await?, what)
        }
        None => (who.abort(unit).await?, "the end of the deploy that runs".to_owned()),
    };
    tracing::info!(%unit, %epoch, by = %user.name, what, "asked from chat");
    Ok(Reply::asked(asked, unit, &what, &user.name, epoch))
}

/// Who asks, with the token that acts.
struct Delegate {
    /// Whose write is vouched for.
    access: Access,
    author: Author,
}

impl Delegate {
    async fn new(surroundings: &impl Surroundings, access: Access, user: &ChatUser) -> Result<Self, Failure> {
        let access = surroundings.attested_by(access, &user.name).await?;
        let id = uuid::Uuid::now_v7().to_string();
        let author = Author { by: user.name.clone(), via: VIA.to_owned(), reason: String::new(), id };
        Ok(Self { access, author })
    }

    async fn ask(self, unit: &Unit, wanted: Wanted) -> Result<Epoch, Failure> {
        let request = Request { wanted, author: self.author, force: false, again: false };
        request::write(&self.access, unit, &request, None).await
    }

    async fn abort(self, unit: &Unit) -> Result<Epoch, Failure> {
        operate::abort(&self.access, unit, &self.author).await
    }
}
