//! Handles a call: checks it, finds the user's token, carries out the command, and replies.

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

/// The value of `via` in records.
const VIA: &str = "chat";

/// Handles the slash commands of an agent.
#[derive(Debug)]
pub struct Chat {
    settings: ChatSettings,
    replays: Mutex<Replays>,
}

/// What chat needs from the API.
pub(crate) trait Backend: Send + Sync {
    /// Consul with the permissions of the token in this file.
    ///
    /// # Errors
    ///
    /// A file without a token. The failure is shown to the user.
    fn delegate(&self, token_file: &Path) -> impl Future<Output = Result<Access, Failure>> + Send;

    /// The same access, for one write that is attested as made by this user.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    fn attested_by(&self, access: Access, name: &str) -> impl Future<Output = Result<Access, Failure>> + Send;
}

/// A user's command, to be carried out once. The same call is not accepted again.
#[derive(Debug)]
pub(crate) struct Order {
    asked: Asked,
    unit: Unit,
    user: ChatUser,
}

impl Chat {
    #[must_use]
    pub(crate) fn new(settings: ChatSettings) -> Self {
        Self { settings, replays: Mutex::default() }
    }

    /// Accepts a call once, and returns its command.
    ///
    /// # Errors
    ///
    /// The reply to a call that is not carried out: it is not from Slack, a repeat, from an unknown user, or asks for help.
    ///
    /// # Cancel safety
    ///
    /// Safe: a cancelled call is not remembered, and may be sent again.
    pub(crate) async fn admit(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Order, Reply> {
        let file = &self.settings.signing_secret_file;
        let secret = Secret::read(file).await.map_err(|error| {
            let file = file.display();
            tracing::error!(%file, %error, "cannot check calls from chat: cannot read the signing secret {file}: {error}");
            Reply::broken()
        })?;
        let admitted = verify(&secret, headers, body, now)
            .and_then(|signed| self.replays.lock().unwrap_or_else(PoisonError::into_inner).admit(signed, now));
        if let Err(why) = admitted {
            tracing::warn!(%why, "refused a call from chat: {why}");
            return Err(Reply::rejected(why));
        }
        let asked = Asked::parse(body);
        if asked.command == Command::SslCheck {
            return Err(Reply::empty());
        }
        let Some(user) = self.settings.users.get(&asked.user) else {
            tracing::warn!(user = ?asked.user, "refused a call from chat: the user {:?} is not in the settings", asked.user);
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
    /// The reply if the command takes longer than Slack waits.
    #[must_use]
    pub(crate) fn late(&self) -> Reply {
        Reply::late(&self.asked, &self.unit)
    }

    /// Carries out the command, and returns the reply.
    ///
    /// # Cancel safety
    ///
    /// Not safe: the request of a cancelled order may or may not be written.
    pub(crate) async fn carry_out(self, backend: &impl Backend) -> Reply {
        let Self { asked, unit, user } = self;
        carry_out(backend, &asked, &unit, &user).await.unwrap_or_else(|failure| {
            let (by, why) = (&user.name, failure.chain());
            tracing::info!(%unit, by, why, "{unit}: a command from chat by {by} failed: {why}");
            Reply::failed(&unit, &user.name, &failure)
        })
    }
}

async fn carry_out(backend: &impl Backend, asked: &Asked, unit: &Unit, user: &ChatUser) -> Result<Reply, Failure> {
    let access = backend.delegate(&user.token_file).await?;
    let wanted = match &asked.command {
        Command::Status { .. } => return Ok(Reply::status(&read::status(&access, unit).await?)),
        Command::Deploy { reference, .. } => Some(Wanted::Deploy(reference.clone())),
        Command::Rollback { to, .. } => Some(Wanted::Rollback(to.clone())),
        Command::Abort { .. } | Command::Help { .. } | Command::SslCheck => None,
    };
    let who = Delegate::new(backend, access, user).await?;
    let (epoch, what) = match wanted {
        Some(wanted) => {
            let what = match &wanted {
                Wanted::Deploy(selector) => format!("a deploy of {selector}"),
                Wanted::Rollback(None) => "a rollback".to_owned(),
                Wanted::Rollback(Some(artifact)) => format!("a rollback to {artifact}"),
            };
            (who.ask(unit, wanted).await?, what)
        }
        None => (who.abort(unit).await?, "an abort of the running deploy".to_owned()),
    };
    let by = &user.name;
    tracing::info!(%unit, %epoch, by, what, "{unit}: {by} requested {what} from chat (deploy #{epoch})");
    Ok(Reply::asked(asked, unit, &what, &user.name, epoch))
}

/// The user, with an access for one attested write.
struct Delegate {
    access: Access,
    author: Author,
}

impl Delegate {
    async fn new(backend: &impl Backend, access: Access, user: &ChatUser) -> Result<Self, Failure> {
        let access = backend.attested_by(access, &user.name).await?;
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
